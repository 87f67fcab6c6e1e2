// The page of a run: its progress, then what it has yielded.
'use strict';

(() => {
	const run = document.getElementById('run');
	const result = document.getElementById('result');
	const byID = (id) => document.getElementById(id);
	const {add, visible, seconds, count} = charts;

	async function poll() {
		try {
			const answer = await fetch(location.pathname + '?format=json', {cache: 'no-store'});
			if (!answer.ok) {
				throw new Error(await answer.text());
			}
			const data = await answer.json();
			progress(data);
			draw(data);
			const over = ['done', 'stopped', 'failed'].includes(data.state);
			if (over) {
				finish(data);
				return;
			}
		} catch (error) {
			byID('error').textContent = visible(error.message);
		}
		setTimeout(poll, 1000);
	}

	function progress(data) {
		const over = ['done', 'stopped', 'failed'].includes(data.state);
		byID('state').textContent = data.state;
		byID('state').className = 'state ' + data.state;
		const bar = byID('progress');
		if (data.state === 'queued' || data.state === 'starting') {
			bar.removeAttribute('value');
		} else {
			bar.value = data.progress;
		}
		let text = `${count(data.samples)} samples in ${data.elapsed_seconds.toFixed(0)} of ${data.duration_seconds} s`;
		if (data.state === 'queued') {
			text = 'Waiting for other runs';
		} else if (data.state === 'starting') {
			text = 'Starting the tool';
		} else if (data.state === 'running' && data.progress >= 1) {
			text = 'Stopping the tool and looking up names';
		} else if (over) {
			text = `${count(data.samples)} samples`;
		}
		byID('status').textContent = text;
		byID('error').textContent = data.state === 'done' ? '' : visible(data.error);
		if (data.source) {
			byID('source').textContent = visible(`${data.source.backend} ${data.source.version}`);
		}
		byID('lost').textContent = count(data.lost);
	}

	function finish(data) {
		run.dataset.over = 'true';
		const stop = byID('stop');
		if (stop) {
			stop.remove();
		}
		if (run.dataset.profile === 'true' && data.stacks.length > 0) {
			flame();
		}
	}

	function draw(data) {
		if (run.dataset.profile === 'true') {
			return; // its stacks come at the end
		}
		const open = new Set([...result.querySelectorAll('details[open]')].map((d) => d.getAttribute('data-key')));
		result.replaceChildren();
		data.histograms.filter((h) => h.count > 0).forEach((h, i) => {
			const node = charts.section(result, 'histogram-' + i, h.help);
			const show = h.linear ? charts.bytes : seconds;
			const summary = h.linear ? `${count(h.count)} values` : `${count(h.count)} values, mean ${show(h.sum / h.count)}, median ${show(h.median)}, p99 ${show(h.p99)}`;
			add(node, 'p', {}, summary);
			charts.histogram(node, h, `Histogram of ${h.name}: ${summary}`);
			add(node, 'h3', {}, 'Over time');
			charts.heatmap(node, h, data.duration_seconds, `Heat map of ${h.name} over ${data.duration_seconds} seconds`);
			const rows = h.buckets.map((b) => [`${show(b.lower)} to ${show(b.upper)}`, b.count]);
			keyed(charts.table(node, 'Buckets as a table', [h.linear ? 'Place' : 'Time', 'Count'], rows), 'buckets-' + i, open);
			if (h.series.length > 1) {
				const series = h.series.map((s) => [Object.values(s.labels).join(', '), s.count, show(s.sum / s.count)]);
				keyed(charts.table(node, 'By ' + Object.keys(h.series[0].labels).join(', '), ['Labels', 'Count', 'Mean'], series), 'series-' + i, open);
			}
		});
		if (data.events.length > 0) {
			charts.ofEvents(add(result, 'div'), data.events);
			events(data);
		}
		if (data.counters.length > 0) {
			const node = charts.section(result, 'counters', 'Counts');
			const rows = data.counters.map((c) => [c.name + (Object.keys(c.labels).length ? ' ' + Object.values(c.labels).join(', ') : ''), c.value]);
			keyed(charts.table(node, 'Counters', ['Metric', 'Value'], rows, true), 'counters', open);
		}
		if (data.samples === 0 && run.dataset.over === 'true') {
			add(result, 'p', {class: 'none'}, 'Nothing was seen.');
		}
	}

	function keyed(details, key, open) {
		details.setAttribute('data-key', key);
		details.open = details.open || open.has(key);
	}

	function events(data) {
		const node = charts.section(result, 'events', 'Events, newest first');
		const scroll = add(node, 'div', {class: 'scroll', role: 'region', 'aria-labelledby': 'events', tabindex: 0});
		const table = add(scroll, 'table', {'aria-labelledby': 'events'});
		const head = add(add(table, 'thead'), 'tr');
		add(head, 'th', {scope: 'col'}, 'Time');
		data.fields.forEach((f) => add(head, 'th', {scope: 'col', ...(f.type === 'string' ? {} : {class: 'number'})}, f.name));
		const body = add(table, 'tbody');
		data.events.slice(0, 200).forEach((e) => body.append(charts.eventRow(e, data.fields)));
	}

	// tree makes the hierarchy of a flame graph from rows in depth-first order.
	// Frames without a name that follow one another become one.
	function tree(rows) {
		const node = (name, libtype) => ({name, libtype, value: 0, self: 0, children: [], known: new Map()});
		const root = node('all', 'user');
		const path = [];
		for (const row of rows) {
			path.length = row.level;
			path.push(row.label);
			if (row.self === 0) {
				continue;
			}
			let at = root;
			at.value += row.self;
			for (let i = 1; i < path.length; i++) {
				if (path[i] === path[i - 1] && path[i].startsWith('[unknown]')) {
					continue;
				}
				if (!at.known.has(path[i])) {
					const kernel = path[i].endsWith('_[k]');
					const child = node(visible(kernel ? path[i].slice(0, -4) : path[i]), kernel ? 'kernel' : 'user');
					at.known.set(path[i], child);
					at.children.push(child);
				}
				at = at.known.get(path[i]);
				at.value += row.self;
			}
			at.self += row.self;
		}
		return root;
	}

	// color tells programs in warm from the kernel in cold, and functions by a
	// hash of their names.
	function color(d) {
		if (d.highlight) {
			return '#c45ad8';
		}
		if (d.depth === 0) {
			return '#9aa5b1';
		}
		let hash = 0;
		for (const c of d.data.name) {
			hash = (hash * 31 + c.codePointAt(0)) % 1009;
		}
		const hue = (d.data.libtype === 'kernel' ? 195 : 14) + hash % 34;
		return `hsl(${hue}, ${d.data.libtype === 'kernel' ? 60 : 82}%, ${66 + hash % 9}%)`;
	}

	async function flame() {
		const answer = await fetch(location.pathname + '?format=flamegraph', {cache: 'no-store'});
		const rows = await answer.json();
		drawFlame(rows);
		let wide = innerWidth, waiting = 0;
		addEventListener('resize', () => {
			clearTimeout(waiting);
			waiting = setTimeout(() => {
				if (innerWidth !== wide) {
					wide = innerWidth;
					drawFlame(rows);
				}
			}, 300);
		});
	}

	function drawFlame(rows) {
		const root = tree(rows);
		result.replaceChildren();
		const node = charts.section(result, 'flamegraph', 'Flame graph');
		const tools = add(node, 'form', {class: 'run', role: 'search'});
		const field = add(tools, 'div', {class: 'field'});
		add(field, 'label', {for: 'search'}, 'Search');
		const input = add(field, 'input', {id: 'search', type: 'search', autocomplete: 'off', spellcheck: 'false'});
		const reset = add(tools, 'button', {type: 'button', id: 'reset'}, 'Whole graph');
		const details = add(node, 'p', {id: 'details', role: 'status'}, 'Point at a frame for its share, click to look closer; with the keyboard, arrows and Enter. The kernel is blue.');
		const place = add(node, 'div', {id: 'flame', class: 'flame', role: 'group', 'aria-label': 'Flame graph: arrows go from frame to frame, Enter looks closer, Escape shows all. The tables below have the same.'});
		const wide = Math.max(place.clientWidth, 320);
		const share = (n) => (100 * n / root.value).toFixed(1) + ' %';
		const label = (d) => `${d.data.name}: ${count(d.data.value)} samples, ${share(d.data.value)}`;
		const told = (d) => { details.textContent = label(d); };
		let pointing = true; // not where a zoom moves a frame under a pointer that rests
		place.addEventListener('keydown', () => { pointing = false; });
		place.addEventListener('pointermove', (event) => { pointing = pointing || event.movementX !== 0 || event.movementY !== 0; });
		const chart = flamegraph.default()
			.width(wide).cellHeight(19).minFrameSize(1).transitionDuration(matchMedia('(prefers-reduced-motion: reduce)').matches ? 0 : 300)
			.inverted(false).sort(true).title('')
			.setLabelHandler(label)
			.setSearchMatch((d, term) => term !== '' && d.data.name.toLowerCase().includes(term.toLowerCase()))
			.setColorMapper(color)
			.onClick(told)
			.onHover((d) => { if (pointing) { told(d); } });
		chart.setSearchHandler((found, sum) => {
			if (input.value !== '') {
				details.textContent = `${count(found.length)} frames, ${count(sum)} samples, ${share(sum)} have “${visible(input.value)}” in them`;
			}
		});
		d3.select(place).datum(root).call(chart);
		place.scrollTop = place.scrollHeight; // the flames rise from the bottom
		let waiting = 0;
		input.addEventListener('input', () => {
			clearTimeout(waiting);
			waiting = setTimeout(() => {
				if (input.value === '') {
					chart.clear();
					details.textContent = '';
				} else {
					chart.search(input.value);
				}
			}, 200);
		});
		tools.addEventListener('submit', (event) => event.preventDefault());
		const whole = () => {
			input.value = '';
			chart.clear();
			chart.resetZoom();
		};
		reset.addEventListener('click', whole);
		keyboard(place, label, told, whole);
		top(root, share);
	}

	// keyboard goes from frame to frame: up to the widest that it called, down to
	// its caller, and to both sides. One frame at a time is in the tab order.
	function keyboard(place, label, told, whole) {
		const frames = () => d3.select(place).selectAll('g.frame'); // a zoom changes which there are
		const element = (d) => frames().filter((other) => other === d).node();
		const root = frames().data().find((d) => !d.parent);
		let at = root;
		const mark = (d) => {
			frames().attr('tabindex', -1);
			at = d && element(d) ? d : root;
			const frame = element(at);
			frame.setAttribute('tabindex', 0);
			frame.setAttribute('role', 'button');
			frame.setAttribute('aria-label', label(at));
			return frame;
		};
		const shown = (all) => (all || []).filter((d) => !d.hide && element(d));
		const beside = (step) => {
			const row = shown(at.parent ? at.parent.children : [at]).sort((a, b) => a.x0 - b.x0);
			return row[row.indexOf(at) + step] || at;
		};
		const click = () => {
			element(at).dispatchEvent(new MouseEvent('click', {bubbles: true}));
			return at;
		};
		const go = {
			ArrowUp: () => shown(at.children).sort((a, b) => b.value - a.value)[0] || at,
			ArrowDown: () => at.parent || at,
			ArrowLeft: () => beside(-1),
			ArrowRight: () => beside(1),
			Enter: click,
			' ': click,
			Escape: () => {
				whole();
				return at;
			},
		};
		place.addEventListener('keydown', (event) => {
			if (go[event.key] && !event.ctrlKey && !event.altKey && !event.metaKey) {
				event.preventDefault();
				mark(go[event.key]()).focus();
				told(at);
			}
		});
		place.addEventListener('focusin', (event) => {
			if (event.target.matches('g.frame')) {
				mark(d3.select(event.target).datum());
				told(at);
			}
		});
		mark(root);
	}

	// top makes the tables of programs and functions.
	function top(root, share) {
		const functions = new Map();
		const visit = (node, above) => {
			const key = node.name + (node.libtype === 'kernel' ? ' [kernel]' : '');
			const f = functions.get(key) || {name: key, self: 0, total: 0};
			functions.set(key, f);
			f.self += node.self;
			const again = above.has(key);
			if (!again) {
				f.total += node.value;
				above.add(key);
			}
			node.children.forEach((child) => visit(child, above));
			if (!again) {
				above.delete(key);
			}
		};
		root.children.forEach((program) => program.children.forEach((child) => visit(child, new Set())));
		const programs = root.children.map((p) => [p.name, p.value, share(p.value)]).sort((a, b) => b[1] - a[1]).slice(0, 30);
		const rows = [...functions.values()].sort((a, b) => b.self - a.self || b.total - a.total).slice(0, 40)
			.map((f) => [f.name, f.self, share(f.self), f.total, share(f.total)]);
		charts.table(charts.section(result, 'programs', 'Programs'), 'By samples', ['Program', 'Samples', 'Share'], programs, true);
		charts.table(charts.section(result, 'functions', 'Functions'), 'By their own samples', ['Function', 'Self', 'Share', 'Total', 'Share'], rows, true);
	}

	poll();
})();
