package main

import (
	"strconv"
	"testing"
	"time"
)

// An exec storm, as fast as one process can: everything is counted, the
// exporter and its bpftrace take no more memory, and scrapes are answered.
func TestLiveStorm(t *testing.T) {
	needLive(t)
	e := startExporter(t)
	const least, lasts, growth = 50_000, 45 * time.Second, 10 << 20
	bpftrace := theChild(t, e, "bpftrace")
	name := uniqueName("storm")
	e.scrape(t)
	ownBefore, bpftraceBefore := residentBytes(t, e.pid), residentBytes(t, bpftrace.pid)
	storm := startHelper(t, uniqueName("loop"), "execs", tinyProgram(t, name), "0", "0")
	storm.line(t)
	begin := time.Now()
	var slowest time.Duration
	for range 20 {
		asked := time.Now()
		e.scrape(t)
		slowest = max(slowest, time.Since(asked))
		time.Sleep(lasts/20 - time.Since(asked))
	}
	n, err := strconv.ParseFloat(storm.finish(t), 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v execs in %s, slowest scrape %s", n, time.Since(begin).Round(time.Second), slowest)
	e.expectCounts(t, count{execs, labels{"comm": name, "result": "success"}, n})
	if n < least {
		t.Errorf("%v execs, want at least %d to call it a storm", n, least)
	}
	if slowest > 2*time.Second {
		t.Errorf("a scrape took %s, want at most 2 s", slowest)
	}
	ownGrew, bpftraceGrew := residentBytes(t, e.pid)-ownBefore, residentBytes(t, bpftrace.pid)-bpftraceBefore
	t.Logf("resident memory grew by %d KiB, bpftrace's by %d KiB", ownGrew>>10, bpftraceGrew>>10)
	if ownGrew > growth || bpftraceGrew > growth {
		t.Errorf("resident memory grew by %d and bpftrace's by %d bytes, want at most %d", ownGrew, bpftraceGrew, growth)
	}
	if restarts := e.scrape(t).sum("bpf_tool_restarts_total", nil); restarts != 0 {
		t.Errorf("%v restarts, want none", restarts)
	}
}
