// Charts that the pages share. Whatever a tool printed reaches a page through
// textContent or a title alone: names are chosen by any user of the host.
'use strict';

const charts = (() => {
	const SVG = 'http://www.w3.org/2000/svg';

	function add(parent, name, attributes = {}, text = null) {
		const node = parent.namespaceURI === SVG || name === 'svg'
			? document.createElementNS(SVG, name) : document.createElement(name);
		for (const [key, value] of Object.entries(attributes)) {
			node.setAttribute(key, value);
		}
		if (text !== null) {
			node.textContent = text;
		}
		parent.append(node);
		return node;
	}

	// What steers text or hides in it is shown as its code.
	function visible(value) {
		const text = String(value).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => '\\u' + c.codePointAt(0).toString(16).padStart(4, '0'));
		return text.length > 400 ? text.slice(0, 400) + '…' : text;
	}

	function seconds(s) {
		for (const [unit, scale] of [['s', 1], ['ms', 1e3], ['µs', 1e6]]) {
			if (s * scale >= 0.9995) {
				return Number((s * scale).toPrecision(3)) + ' ' + unit;
			}
		}
		return Number((s * 1e9).toPrecision(3)) + ' ns';
	}

	function bytes(n) {
		let unit = 0;
		for (; n >= 1024 && unit < 5; unit++) {
			n /= 1024;
		}
		return Number(n.toPrecision(3)) + ' ' + ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][unit];
	}

	const count = (n) => n.toLocaleString('en').replaceAll(',', '\u2009');

	// section returns an empty one with a heading.
	function section(parent, id, heading) {
		const node = add(parent, 'section', {'aria-labelledby': id});
		add(node, 'h2', {id}, heading);
		return node;
	}

	// table makes one in a details element: what a chart shows, for those who
	// do not see it.
	function table(parent, summary, headings, rows, open = false) {
		const details = add(parent, 'details', open ? {open: ''} : {});
		add(details, 'summary', {}, summary);
		const scroll = add(details, 'div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': summary});
		const node = add(scroll, 'table', {'aria-label': summary});
		const head = add(add(node, 'thead'), 'tr');
		headings.forEach((text, i) => add(head, 'th', {scope: 'col', ...(rows.length > 0 && typeof rows[0][i] === 'number' ? {class: 'number'} : {})}, text));
		const body = add(node, 'tbody');
		for (const row of rows) {
			const tr = add(body, 'tr');
			row.forEach((cell) => add(tr, 'td', typeof cell === 'number' ? {class: 'number'} : {class: 'value'},
				typeof cell === 'number' ? count(cell) : visible(cell)));
		}
		return details;
	}

	// ticks of a logarithmic axis of seconds: its powers of ten.
	function decades(low, high) {
		const all = [];
		for (let e = Math.ceil(Math.log10(low) - 1e-9); e <= Math.log10(high) + 1e-9; e++) {
			all.push(10 ** e);
		}
		return all;
	}

	const width = 960, left = 72, right = 16;

	function frame(parent, height, label) {
		const scroll = add(parent, 'div', {class: 'chart'});
		return add(scroll, 'svg', {viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label});
	}

	// A scale puts values of a histogram between 0 and 1: logarithms of
	// seconds, or bytes as they are.
	function scale(h) {
		if (h.linear) {
			const high = Math.max(...h.buckets.map((b) => b.upper));
			return {at: (v) => v / high, ticks: [0, 0.25, 0.5, 0.75, 1].map((part) => part * high), show: bytes};
		}
		let low = Math.min(...h.buckets.map((b) => Math.log2(b.lower)));
		let high = Math.max(...h.buckets.map((b) => Math.log2(b.upper)));
		if (high - low < 2) { // a single bucket needs something around it
			low--;
			high++;
		}
		return {at: (v) => (Math.log2(v) - low) / (high - low), ticks: decades(2 ** low, 2 ** high), show: seconds};
	}

	// histogram draws bars.
	function histogram(parent, h, label) {
		const height = 260, bottom = 40, top = 12;
		const svg = frame(parent, height, label);
		const {at, ticks, show} = scale(h);
		const x = (v) => left + at(v) * (width - left - right);
		const most = Math.max(...h.buckets.map((b) => b.count));
		const y = (n) => height - bottom - n / most * (height - bottom - top);
		for (const n of new Set([0, Math.round(most / 2), most])) {
			add(svg, 'line', {class: 'grid', x1: left, x2: width - right, y1: y(n), y2: y(n)});
			add(svg, 'text', {x: left - 8, y: y(n) + 4, 'text-anchor': 'end'}, count(n));
		}
		for (const b of h.buckets) {
			const bar = add(svg, 'rect', {class: 'bar', x: x(b.lower) + 0.5, width: Math.max(1, x(b.upper) - x(b.lower) - 1), y: y(b.count), height: height - bottom - y(b.count)});
			add(bar, 'title', {}, `${show(b.lower)} to ${show(b.upper)}: ${count(b.count)}`);
		}
		for (const v of ticks) {
			add(svg, 'line', {class: 'tick', x1: x(v), x2: x(v), y1: height - bottom, y2: height - bottom + 6});
			add(svg, 'text', {x: x(v), y: height - bottom + 22, 'text-anchor': 'middle'}, show(v));
		}
	}

	// cells draws a heat map: columns of [from, to] over time, cells of
	// {low, high, count} with y between 0 and 1.
	function cells(svg, height, bottom, columns, timeEnd, title) {
		const top = 12;
		const x = (t) => left + t / timeEnd * (width - left - right);
		const y = (v) => height - bottom - v * (height - bottom - top);
		let most = 1;
		columns.forEach((c) => c.cells.forEach((cell) => { most = Math.max(most, cell.count); }));
		for (const column of columns) {
			for (const cell of column.cells) {
				const rect = add(svg, 'rect', {
					class: 'heat', x: x(column.from), width: Math.max(1, x(column.to) - x(column.from) - 0.5),
					y: y(cell.high), height: Math.max(1, y(cell.low) - y(cell.high)),
					'fill-opacity': (0.12 + 0.88 * Math.sqrt(cell.count / most)).toFixed(3),
				});
				add(rect, 'title', {}, title(column, cell));
			}
		}
		return [x, y];
	}

	function timeAxis(svg, height, bottom, x, end) {
		const step = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600].find((s) => end / s <= 12) || 1200;
		for (let t = 0; t <= end + 1e-9; t += step) {
			add(svg, 'text', {x: x(t), y: height - bottom + 22, 'text-anchor': 'middle'}, t + ' s');
		}
	}

	// heatmap draws a histogram over the intervals of a run.
	function heatmap(parent, h, duration, label) {
		const height = 320, bottom = 36;
		const svg = frame(parent, height, label);
		const {at, ticks, show} = scale(h);
		let from = 0;
		const columns = h.intervals.map((i) => {
			const column = {from, to: i.end, cells: i.buckets.map((b) => ({low: at(b.lower), high: at(b.upper), count: b.count, bucket: b}))};
			from = i.end;
			return column;
		});
		const end = Math.max(duration, from, 1);
		const [x, y] = cells(svg, height, bottom, columns, end, (column, cell) =>
			`${column.from.toFixed(1)} s to ${column.to.toFixed(1)} s, ${show(cell.bucket.lower)} to ${show(cell.bucket.upper)}: ${count(cell.count)}`);
		for (const v of ticks) {
			add(svg, 'line', {class: 'grid', x1: left, x2: width - right, y1: y(at(v)), y2: y(at(v))});
			add(svg, 'text', {x: left - 8, y: y(at(v)) + 4, 'text-anchor': 'end'}, show(v));
		}
		timeAxis(svg, height, bottom, x, end);
	}

	// offsets draws where on a disk the I/O of events was, over time.
	function offsets(parent, points, label) {
		const height = 280, bottom = 36, columns = 80, rows = 40;
		const svg = frame(parent, height, label);
		const times = points.map((p) => p.time), offs = points.map((p) => p.offset);
		const start = Math.min(...times), end = Math.max(...times), low = Math.min(...offs), high = Math.max(...offs);
		const span = Math.max(end - start, 1), reach = Math.max(high - low, 1);
		const grid = new Map();
		for (const p of points) {
			const c = Math.min(columns - 1, Math.floor((p.time - start) / span * columns));
			const r = Math.min(rows - 1, Math.floor((p.offset - low) / reach * rows));
			if (!grid.has(c)) {
				grid.set(c, new Map());
			}
			grid.get(c).set(r, (grid.get(c).get(r) || 0) + 1);
		}
		const all = [...grid].map(([c, inner]) => ({
			from: c * span / columns, to: (c + 1) * span / columns,
			cells: [...inner].map(([r, n]) => ({low: r / rows, high: (r + 1) / rows, count: n, row: r})),
		}));
		const [x, y] = cells(svg, height, bottom, all, span, (column, cell) =>
			`${column.from.toFixed(1)} s, ${bytes(low + cell.row / rows * reach)}: ${count(cell.count)}`);
		for (const part of [0, 0.5, 1]) {
			add(svg, 'line', {class: 'grid', x1: left, x2: width - right, y1: y(part), y2: y(part)});
			add(svg, 'text', {x: left - 8, y: y(part) + 4, 'text-anchor': 'end'}, bytes(low + part * reach));
		}
		timeAxis(svg, height, bottom, x, span);
	}

	// graph draws who talks to whom: programs on the left, peers on the right,
	// as thick as there are bytes.
	function graph(parent, links, label) {
		const most = 24;
		links = links.sort((a, b) => b.bytes - a.bytes || b.sessions - a.sessions).slice(0, 40);
		const names = (side) => [...new Set(links.map((l) => l[side]))].slice(0, most);
		const froms = names('from'), tos = names('to');
		links = links.filter((l) => froms.includes(l.from) && tos.includes(l.to));
		const line = 26, height = Math.max(froms.length, tos.length) * line + 24;
		const svg = frame(parent, height, label);
		const y = (list, name) => (list.indexOf(name) + 0.5) * (height - 24) / list.length + 12;
		const thickest = Math.max(...links.map((l) => l.bytes), 1);
		const x1 = 270, x2 = width - 330;
		for (const l of links) {
			const a = y(froms, l.from), b = y(tos, l.to), half = (x1 + x2) / 2;
			const path = add(svg, 'path', {
				class: 'link', d: `M ${x1} ${a} C ${half} ${a}, ${half} ${b}, ${x2} ${b}`,
				'stroke-width': (1 + 9 * Math.sqrt(l.bytes / thickest)).toFixed(1),
			});
			add(path, 'title', {}, visible(`${l.from} – ${l.to}: ${l.sessions} sessions, ${bytes(l.bytes)}`));
		}
		froms.forEach((name) => add(svg, 'text', {x: x1 - 8, y: y(froms, name) + 4, 'text-anchor': 'end', class: 'node'}, visible(name)));
		tos.forEach((name) => add(svg, 'text', {x: x2 + 8, y: y(tos, name) + 4, class: 'node'}, visible(name)));
	}

	// ofEvents draws what the events of some tools have in common.
	function ofEvents(parent, events) {
		parent.replaceChildren();
		if (events.length === 0) {
			return;
		}
		if ('peer' in events[0] && 'transmitted' in events[0]) {
			const links = new Map();
			for (const e of events) {
				const from = e.comm || 'unknown', to = `${e.peer}:${e.port}`, key = JSON.stringify([from, to]);
				const link = links.get(key) || {from, to, sessions: 0, bytes: 0};
				link.sessions++;
				link.bytes += (e.transmitted || 0) + (e.received || 0);
				links.set(key, link);
			}
			const node = section(parent, 'graph', 'Who talks to whom');
			graph(node, [...links.values()], 'Programs and the peers they had sessions with');
			table(node, 'As a table', ['Program', 'Peer', 'Sessions', 'Bytes'], [...links.values()].map((l) => [l.from, l.to, l.sessions, l.bytes]));
		}
		if (events.some((e) => typeof e.offset === 'number')) {
			const points = events.filter((e) => typeof e.offset === 'number').map((e) => ({time: Date.parse(e.time) / 1e3, offset: e.offset}));
			const node = section(parent, 'offsets', 'Where on the disk, over time');
			offsets(node, points, 'Offsets of block I/O over time');
		}
	}

	// eventRow makes the row of an event.
	function eventRow(event, fields) {
		const row = document.createElement('tr');
		add(add(row, 'td'), 'time', {}, event.time.replace('T', ' ').replace(/\..*/, ''));
		for (const field of fields) {
			const cell = add(row, 'td', {class: field.type === 'string' ? 'value' : 'number'});
			add(cell, 'bdi', {}, field.name in event ? visible(event[field.name]) : '');
		}
		return row;
	}

	return {add, visible, seconds, bytes, count, section, table, histogram, heatmap, ofEvents, eventRow};
})();
