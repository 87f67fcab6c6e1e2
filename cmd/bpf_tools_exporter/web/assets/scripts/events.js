// The live table of a tool's events.
'use strict';

(() => {
	const most = 200;
	const table = document.getElementById('event-table');
	if (!table) {
		return;
	}
	const body = table.querySelector('tbody');
	const fields = [...table.querySelectorAll('th[data-field]')].map((th) => ({name: th.dataset.field, type: th.dataset.type}));
	const live = document.getElementById('live');
	const state = document.getElementById('live-state');
	const pictures = document.getElementById('event-charts');
	let events = [];
	let stop = null;
	let draw = 0;

	function redraw() {
		if (draw === 0) {
			draw = setTimeout(() => {
				draw = 0;
				charts.ofEvents(pictures, events);
			}, 1000);
		}
	}

	function take(event) {
		events.unshift(event);
		events.length = Math.min(events.length, 1000);
		body.prepend(charts.eventRow(event, fields));
		while (body.rows.length > most) {
			body.lastElementChild.remove();
		}
		const none = document.getElementById('no-events');
		if (none) {
			none.remove();
		}
		redraw();
	}

	async function follow() {
		stop = new AbortController();
		try {
			const answer = await fetch(table.dataset.events + '?follow', {signal: stop.signal});
			if (!answer.ok) {
				throw new Error(await answer.text());
			}
			state.textContent = 'Following.';
			const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
			for (let rest = '';;) {
				const {value, done} = await reader.read();
				if (done) {
					break;
				}
				const lines = (rest + value).split('\n');
				rest = lines.pop();
				lines.forEach((line) => take(JSON.parse(line)));
			}
			state.textContent = 'The stream has ended.';
		} catch (error) {
			state.textContent = stop.signal.aborted ? '' : charts.visible(error.message);
		}
		live.checked = false;
	}

	live.addEventListener('change', () => {
		if (live.checked) {
			follow();
		} else if (stop) {
			stop.abort();
		}
	});
	live.closest('label').hidden = false;

	// What was there before the page, for the charts.
	fetch(table.dataset.events + '?n=1000').then((answer) => answer.ok ? answer.text() : '').then((text) => {
		events = text.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line));
		charts.ofEvents(pictures, events);
	}).catch(() => {}).finally(() => {
		live.checked = true;
		follow();
	});
	addEventListener('pagehide', () => stop && stop.abort());
})();
