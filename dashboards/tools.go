package main

import "fmt"

// The pictures of the tools, and how to read them.

// docs is where a tool's maintainers show what its output means.
func docs(tool string) string {
	return "https://github.com/iovisor/bcc/blob/master/tools/" + tool + "_example.txt"
}

// offByDefault is for tools that tax system calls or work twice.
const offByDefault = " The tool is off unless the exporter is told to run it."

func execsnoopTable(by string) *panel {
	const execs = "bpf_execsnoop_execs_total"
	return table("execsnoop: new programs",
		read("Programs that were executed in the time range, under their own name, or under the caller's where exec failed (`result` is then the error). "+
			"A short program that runs very often costs more than its CPU time shows; one that you do not know is worth a look.", docs("execsnoop")),
		by+", comm, result", 100,
		column{"execs", "short", sum(by+", comm, result", counted(execs))},
		column{"per second now", "ops", sum(by+", comm, result", rate(execs))}).bar("execs")
}

func execRates() *panel {
	return timeseries("execsnoop: execs a second", "ops",
		read("How often each program is executed. A flat line at the same rate for hours is something that starts, fails and is started again, or a poll; a peak is a job or a storm.", docs("execsnoop")),
		line(topk(10, sum("comm", rate("bpf_execsnoop_execs_total"))), "{{comm}}"))
}

func opensnoopTable(by string) *panel {
	const opens = "bpf_opensnoop_opens_total"
	return table("opensnoop: files opened",
		read("Programs that opened files in the time range, with the result. `ENOENT` in great numbers is a program that searches for its libraries or configuration along a path; `EMFILE` and `ENFILE` are limits that were hit."+offByDefault, docs("opensnoop")),
		by+", comm, result", 100,
		column{"opens", "short", sum(by+", comm, result", counted(opens))},
		column{"per second now", "ops", sum(by+", comm, result", rate(opens))}).bar("opens")
}

func openRates() *panel {
	return timeseries("opensnoop: failed opens a second", "ops",
		read("Opens that failed, by error. A program is made slow by many `ENOENT`; any `EMFILE` is a fault."+offByDefault, docs("opensnoop")),
		line(topk(10, sum("comm, result", rate("bpf_opensnoop_opens_total", `result!="success"`))), "{{comm}} {{result}}"))
}

func ext4slowerTable(by string) *panel {
	const latency = "bpf_ext4slower_latency_seconds"
	return table("ext4slower: file operations",
		read("Reads, writes, opens and syncs of files on ext4 in the time range, all of them, measured where the program waits: caches, locks and the disk all count. "+
			"Most take microseconds, from the page cache; a p99 of milliseconds is the disk's, and without slow I/O in biolatency the file system's or a lock's."+offByDefault, docs("ext4slower")),
		by+", operation", 100,
		column{"operations", "short", observations(latency, by+", operation")},
		column{"median", "s", rangeQuantile("0.5", latency, by+", operation")},
		column{"p99", "s", rangeQuantile("0.99", latency, by+", operation")}).bar("operations")
}

func ext4slowerHeatmap() *panel {
	return heatmap("ext4slower: latency of file operations", "s",
		read("How long operations on files took. The band of microseconds is the page cache, that of milliseconds the disk; what lies far above is what programs and their users feel."+offByDefault, docs("ext4slower")),
		buckets("bpf_ext4slower_latency_seconds"))
}

func biolatencyHeatmap() *panel {
	return heatmap("biolatency: latency of disk I/O", "s",
		read("Time from the issue of an I/O to the device to its completion: the darker, the more of them. One band is one kind of answer (a cache, a disk); two bands are two. "+
			"A band that climbs is a device near its limit; single cells far above are the outliers that users feel.", docs("biolatency")),
		buckets("bpf_biolatency_seconds"))
}

func biolatencyQuantiles() *panel {
	const latency = "bpf_biolatency_seconds"
	return timeseries("biolatency: p50 and p99 by device", "s",
		read("Half of the I/O is faster than p50, one in a hundred slower than p99. Native histograms are exact to 5 %, classic ones to a factor of two.", docs("biolatency")),
		line(quantile("0.5", latency, "instance", "device"), "p50 {{instance}} {{device}}"), line(quantile("0.99", latency, "instance", "device"), "p99 {{instance}} {{device}}"))
}

func biosnoopTable(by string) *panel {
	const bytes = "bpf_biosnoop_bytes_total"
	return table("biosnoop: who reads and writes the disks",
		read("Bytes that each program moved to and from each device in the time range. Writes that the page cache put off appear under the kernel's own threads (`kworker`, `jbd2`)."+offByDefault, docs("biosnoop")),
		by+", device, operation, comm", 100,
		column{"bytes", "bytes", sum(by+", device, operation, comm", counted(bytes))},
		column{"per second now", "Bps", sum(by+", device, operation, comm", rate(bytes))}).bar("bytes")
}

func biosnoopOffsets() *panel {
	// Disks of different size have different buckets, which cannot be added.
	const places = "bpf_biosnoop_offset_bytes"
	busiest := topk(1, sum("instance, device", "increase("+selector(places+"_count", `device=~"$disk"`)+"[$__range] @ end())"))
	return heatmap("biosnoop: where on the disk", "bytes",
		read("Offsets of I/O on the busiest disk, of those chosen. A line that climbs is a sequential reader or writer, several lines are several streams, a cloud is random access; sequential access that turns into a cloud explains a disk that became slow."+offByDefault, docs("biosnoop")),
		sum("le", rate(places+"_bucket")+" and on (instance, device) "+busiest))
}

func biosnoopQuantiles() *panel {
	const latency = "bpf_biosnoop_latency_seconds"
	return timeseries("biosnoop: p99 by device and operation", "s",
		read("One I/O in a hundred is slower than this. Reads that are slow hurt at once, as somebody waits for them; writes mostly when a sync waits for them."+offByDefault, docs("biosnoop")),
		line(quantile("0.99", latency, "instance", "device", "operation"), "{{instance}} {{device}} {{operation}}"))
}

func cachestatLines() *panel {
	hits, misses := rate("bpf_cachestat_hits_total"), rate("bpf_cachestat_misses_total")
	return timeseries("cachestat: page cache", "ops",
		read("Pages a second that reads found in the page cache (hits) or had to bring in from disk (misses), pages made dirty by writes, and the hit ratio on the right axis. "+
			"A ratio that falls while misses rise is a working set that no longer fits into memory, or a job that reads everything once (a backup).", docs("cachestat")),
		line("sum("+hits+")", "hits"), line("sum("+misses+")", "misses"), line("sum("+rate("bpf_cachestat_dirties_total")+")", "dirties"),
		line(fmt.Sprintf("sum(%s) / (sum(%s) + sum(%s) > 0)", hits, hits, misses), "hit ratio")).second("hit ratio", "percentunit", 1)
}

func tcplifeTable(by string) *panel {
	labels := by + ", comm, direction"
	return table("tcplife: TCP sessions",
		read("TCP sessions that ended in the time range, by program and by who opened them, with the bytes they carried. Many sessions of few bytes are connections that are not kept open.", docs("tcplife")),
		labels, 100,
		column{"sessions", "short", sum(labels, counted("bpf_tcplife_sessions_total"))},
		column{"transmitted", "bytes", sum(labels, counted("bpf_tcplife_transmitted_bytes_total"))},
		column{"received", "bytes", sum(labels, counted("bpf_tcplife_received_bytes_total"))}).bar("sessions")
}

func tcplifeGraph() *panel {
	return nodeGraph("tcplife: who talks to whom",
		read("Arrows go from who opened TCP sessions to whom they were opened to, with how many ended in the time range; the hundred busiest. A node is a program on a host, a service (address and port) elsewhere, or a client's address.", docs("tcplife")),
		talks(false))
}

func tcplifeHeatmap() *panel {
	return heatmap("tcplife: duration of TCP sessions", "s",
		read("How long sessions lasted that ended at this moment. A band at a round number of seconds is a timeout.", docs("tcplife")),
		buckets("bpf_tcplife_duration_seconds"))
}

func tcpretransTable(by string) *panel {
	const retransmits = "bpf_tcpretrans_peer_retransmits_total"
	return table("tcpretrans: retransmits by peer",
		read("TCP segments that were sent again in the time range, by peer and port of the service. One peer is that host or the path to it; all peers are this host's link or switch; `SYN_SENT` (see the lines by state) is a service that does not answer.", docs("tcpretrans")),
		by+", peer, port", 100,
		column{"retransmits", "short", sum(by+", peer, port", counted(retransmits))},
		column{"per second now", "ops", sum(by+", peer, port", rate(retransmits))}).bar("retransmits")
}

func tcpretransRates() *panel {
	return timeseries("tcpretrans: retransmits a second by state", "ops",
		read("`ESTABLISHED` is loss on the way; `SYN_SENT` a peer that does not answer; `NEW_SYN_RECV` a client that vanished, or a flood. A tail loss probe (`tlp`) is a guess that the last segment was lost.", docs("tcpretrans")),
		line(sum("kind, state", rate("bpf_tcpretrans_retransmits_total")), "{{kind}} {{state}}"))
}

func runqlatHeatmap() *panel {
	return heatmap("runqlat: wait for a CPU", "s",
		read("How long threads that could run waited for a CPU, of the runs in the time range (the tool runs on demand: from its page, or scheduled through /probe). "+
			"Microseconds are normal; a band at 1 ms and more is CPUs that are not enough, and from 10 ms on users feel it.", docs("runqlat")),
		buckets("bpf_runqlat_seconds")).link("Run it now", "http://${instance}/tools/runqlat")
}

func profileTable(by string) *panel {
	const samples = "bpf_profile_samples_total"
	p := table("profile: programs on the CPU",
		read("Samples of what ran on the CPUs, of the runs in the time range. The flame graph of a run is on the exporter's page (the link of `instance`), and below where there is a Pyroscope datasource.", docs("profile")),
		by+", comm", 50,
		column{"samples", "short", sum(by+", comm", counted(samples))}).bar("samples")
	p.override("byName", "comm", object{"id": "links", "value": []object{{"title": "Flame graphs of this host", "url": "http://${__data.fields.instance}/tools/profile", "targetBlank": true}}})
	return p
}

func profileFlameGraph() *panel {
	return flameGraph("profile: flame graph",
		read("The stacks that the CPUs ran: each box is a function, as wide as the time spent in it and what it called; look for wide boxes at the tips. "+
			"It needs a Pyroscope datasource that scrapes /pprof/profile; without one, http://HOST:10101/tools/profile draws the same.", docs("profile")))
}

// singleEvents are tables of the event log.
func singleEvents() []*panel {
	return []*panel{
		logTable("execsnoop", "Single execs as the event log has them, the newest first; `args` only where the exporter runs with --events.log-args. The log is a sample where events are many: count with the other panels.", docs("execsnoop"),
			"comm", "pid", "ppid", "result", "args"),
		logTable("opensnoop", "Single opens as the event log has them, the newest first, with the file. The log is a sample where events are many: count with the other panels.", docs("opensnoop"),
			"comm", "pid", "result", "path"),
		logTable("ext4slower", "Operations slower than the tool's threshold as the event log has them, the newest first, with the file.", docs("ext4slower"),
			"comm", "pid", "operation", "bytes", "latency", "file"),
		logTable("biosnoop", "Single disk I/O as the event log has them, the newest first. The log is a sample where events are many: count with the other panels.", docs("biosnoop"),
			"comm", "pid", "device", "operation", "offset", "bytes", "latency"),
		logTable("tcplife", "Single TCP sessions as the event log has them, the newest first, with bytes and seconds.", docs("tcplife"),
			"comm", "pid", "direction", "laddr", "lport", "peer", "rport", "transmitted", "received", "duration"),
		logTable("tcpretrans", "Single retransmits as the event log has them, the newest first.", docs("tcpretrans"),
			"kind", "state", "laddr", "lport", "peer", "rport"),
	}
}
