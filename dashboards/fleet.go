package main

// Pictures that put hosts side by side.

func execStorms() *panel {
	return timeseries("execsnoop: execs a second by host", "ops",
		read("The twenty hosts that execute most. A host far above its peers with the same job is in a storm: the table beside says of what.", docs("execsnoop")),
		line(topk(20, sum("instance", rate("bpf_execsnoop_execs_total"))), "{{instance}}"))
}

func execStormTable() *panel {
	now := sum("instance, comm", rate("bpf_execsnoop_execs_total"))
	return table("execsnoop: the busiest programs of the fleet",
		read("Programs by how often they are executed now, and in the time range. The same program high on one host only is that host's trouble, on all hosts it is a job of the fleet.", docs("execsnoop")),
		"instance, comm", 50,
		column{"per second now", "ops", now},
		column{"execs", "short", sum("instance, comm", counted("bpf_execsnoop_execs_total"))}).bar("per second now")
}

func fleetRetransmits() *panel {
	return timeseries("tcpretrans: retransmits a second by host", "ops",
		read("The twenty hosts that send most again. One host is its link; all hosts of a rack its switch.", docs("tcpretrans")),
		line(topk(20, sum("instance", rate("bpf_tcpretrans_retransmits_total"))), "{{instance}}"))
}

func fleetPeers() *panel {
	const retransmits = "bpf_tcpretrans_peer_retransmits_total"
	return table("tcpretrans: peers that many hosts retransmit to",
		read("Retransmits in the time range by peer and port of the service, with how many hosts see them. A peer that many hosts retransmit to is overloaded or behind a lossy path.", docs("tcpretrans")),
		"peer, port", 50,
		column{"retransmits", "short", sum("peer, port", counted(retransmits))},
		column{"hosts", "short", "count by (peer, port) (" + sum("peer, port, instance", selector(retransmits)) + ")"}).bar("retransmits")
}

func fleetDisks() *panel {
	return timeseries("biolatency: p99 by device", "s",
		read("The twenty slowest devices: one I/O in a hundred is slower than this. Native histograms are exact to 5 %, classic ones to a factor of two.", docs("biolatency")),
		line(topk(20, quantile("0.99", "bpf_biolatency_seconds", "instance", "device")), "{{instance}} {{device}}"))
}

func fleetCache() *panel {
	hits, all := rate("bpf_cachestat_hits_total"), rate("bpf_cachestat_misses_total")
	return timeseries("cachestat: hit ratio by host", "percentunit",
		read("Share of the pages that reads asked for and that were in memory, of the twenty hosts with the lowest. Hosts that read next to nothing are left out, as their ratio means nothing.", docs("cachestat")),
		line("bottomk(20, "+sum("instance", hits)+" / ("+sum("instance", hits)+" + "+sum("instance", all)+" > 1))", "{{instance}}"))
}

func fleetGraph() *panel {
	return nodeGraph("tcplife: who talks to whom",
		read("Arrows go from the host that opened TCP sessions to the one they were opened to, with how many ended in the time range; the hundred busiest. "+
			"A host of the fleet and the same host as a peer are one node where Prometheus knows it by its address, as its peers do.", docs("tcplife")),
		talks(true)).size(24, 14)
}

func fleetTraffic() *panel {
	return timeseries("tcplife: bytes of TCP sessions by host", "Bps",
		read("Bytes a second that sessions carried, counted when they end: a long session shows as a peak at its end.", docs("tcplife")),
		line(topk(10, sum("instance", rate("bpf_tcplife_transmitted_bytes_total"))), "{{instance}} transmitted"),
		line(topk(10, sum("instance", rate("bpf_tcplife_received_bytes_total"))), "{{instance}} received"))
}
