package main

// Pictures of the tools themselves: what runs, what it costs, what it misses.
// They take the labels by which to keep series apart.

func toolsTable() *panel {
	labels := "instance, tool"
	info := func(label string) string { return sum(labels+", "+label, selector("bpf_tool_info")) }
	p := table("Tools and their sources",
		"One line for each tool on each host. A tool that is down has no source: the exporter's page says why. `schema` 3 is native histograms 9 % wide counted in the kernel, 0 powers of two; `sum` says whether sums are exact or estimated.",
		labels, 0,
		column{"up", "short", sum(labels, selector("bpf_tool_up"))},
		column{"info", "short", info("backend, version, schema, sum")},
		column{"events per second", "ops", sum(labels, rate("bpf_tool_events_total"))},
		column{"restarts", "short", sum(labels, counted("bpf_tool_restarts_total"))}).words("up", "down", "up")
	p.override("byName", "info", object{"id": "custom.hidden", "value": true})
	p.Options["sortBy"] = []object{{"displayName": "tool", "desc": false}}
	return p.size(24, 10)
}

func selftestTable() *panel {
	p := table("Self-tests",
		"Whether what each tool counted of a known workload, when it started, is what was done. Where a test failed, the tool's numbers on this kernel are not to be trusted: see the exporter's page.",
		"instance, tool", 0,
		column{"self-test", "short", sum("instance, tool", selector("bpf_tool_selftest_success"))}).words("self-test", "failed", "passed")
	return p.size(8, 9)
}

func cpuByMode() *panel {
	return timeseries("CPU by tool and mode", "percentunit",
		"Share of one core: `user` and `system` of the tool's process, `bpf` of its programs in the kernel, which no process list shows (estimated from short windows). A storm of events shows in `bpf`.",
		line(sum("tool, mode", rate("bpf_tool_cpu_seconds_total")), "{{tool}} {{mode}}"))
}

func cpuByHost() *panel {
	return timeseries("CPU of all tools by host", "percentunit",
		"Share of one core that the exporter's tools take on each host, their BPF programs in the kernel too. The budget is a few percent: the alert BPFToolOverhead says when it is exceeded.",
		line(topk(10, sum("instance", rate("bpf_tool_cpu_seconds_total"))), "{{instance}}"))
}

func memoryByTool() *panel {
	return timeseries("Memory by tool", "bytes",
		"Resident memory of the tool's process (one bpftrace serves several tools, which share it evenly) and its BPF maps, which lie in the kernel and in no process's RSS.",
		line(sum("tool", selector("bpf_tool_resident_memory_bytes")), "{{tool}} resident"), line(sum("tool", selector("bpf_tool_map_memory_bytes")), "{{tool}} maps"))
}

func events() *panel {
	return timeseries("Events by tool", "ops",
		"Events a second that each tool counted. This is what the cost of a tool depends on.",
		line(sum("tool", rate("bpf_tool_events_total")), "{{tool}}"))
}

func losses() *panel {
	return timeseries("Lost, left out, not understood", "ops",
		"`lost` events were not counted (the kernel skipped the program, or a buffer was full): counters are low by so much. `not shown` ones were counted but are not in the tables of single events. "+
			"`not understood` are lines of a text tool that made no sense. `stale` scrapes got old values because the tool did not answer in time.",
		line(sum("tool", rate("bpf_tool_events_lost_total"))+" > 0", "{{tool}} lost"),
		line(sum("tool", rate("bpf_tool_events_not_shown_total"))+" > 0", "{{tool}} not shown"),
		line(sum("tool", rate("bpf_tool_parse_errors_total"))+" > 0", "{{tool}} not understood"),
		line(sum("tool", rate("bpf_tool_stale_scrapes_total"))+" > 0", "{{tool}} stale"))
}

// Counters of rare things are shown as they are: a series begins with its first
// event, of which rate() sees nothing.

func restarts() *panel {
	return timeseries("Restarts since the exporter started", "short",
		"Times that a tool was started again: `exit` it ended or was killed, `hang` it did not answer, `flood` it printed without end, `cpu` and `memory` it went over the exporter's limits.",
		line(sum("instance, tool, reason", selector("bpf_tool_restarts_total")), "{{instance}} {{tool}} {{reason}}"))
}

func runs() *panel {
	return timeseries("On-demand runs since the exporter started", "short",
		"Runs of tools on demand, such as runqlat and profile, by how they ended. A flat line is no runs: `/probe` or a person starts them.",
		line(sum("tool, outcome", selector("bpf_tool_runs_total")), "{{tool}} {{outcome}}"))
}

func overflow() *panel {
	return timeseries("Series that overflow", "ops",
		"Samples a second that were counted in a series `other`, because the metric had no room for one of their own (--tools.max-series). Sums stay right; what is in `other` cannot be told apart.",
		line(sum("tool, metric", rate("bpf_tool_series_overflow_total")), "{{tool}} {{metric}}"))
}

func scrapes() *panel {
	return timeseries("Scrape duration and size", "s",
		"How long a scrape takes, which includes asking the tools for their counts, and how many samples it has, on the right axis.",
		line(sum("instance", selector("scrape_duration_seconds")), "{{instance}} duration"),
		line(sum("instance", selector("scrape_samples_scraped")), "{{instance}} samples")).second(".* samples", "short", 0)
}

func exporterMemory() *panel {
	return timeseries("The exporter's own memory and CPU", "bytes",
		"The exporter's process without its tools: resident memory, and its share of one core on the right axis.",
		line(sum("instance", selector("process_resident_memory_bytes")), "{{instance}} resident"),
		line(sum("instance", rate("process_cpu_seconds_total")), "{{instance}} CPU")).second(".* CPU", "percentunit", 0)
}

func lastOutput() *panel {
	return timeseries("Time since the last output", "s",
		"How long ago each tool printed anything. It is as long as a scrape interval for tools that are asked, and grows without end where a tool hangs.",
		line("clamp_min(time() - "+sum("instance, tool", selector("bpf_tool_last_output_timestamp_seconds"))+", 0)", "{{instance}} {{tool}}"))
}
