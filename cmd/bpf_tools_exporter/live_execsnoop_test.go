package main

import (
	"os"
	"path/filepath"
	"testing"
)

const execs = "bpf_execsnoop_execs_total"

func TestLiveExecs(t *testing.T) {
	needLive(t)
	e := startExporter(t)
	idleAndBusy(t, e, func(t *testing.T) {
		name := uniqueName("execs") + "-is-cut-here"
		before := e.scrape(t).sum("bpf_tool_events_total", labels{"tool": "execsnoop"})
		runHelper(t, uniqueName("caller"), "execs", tinyProgram(t, name), "500", "0")
		e.expectCounts(t,
			count{execs, labels{"comm": name[:15], "result": "success"}, 500},
			count{execs, labels{"comm": name[:15]}, 500},
			count{"bpf_tool_events_lost_total", labels{"tool": "execsnoop"}, 0},
		)
		if after := e.scrape(t).sum("bpf_tool_events_total", labels{"tool": "execsnoop"}); after-before < 500 {
			t.Errorf("bpf_tool_events_total rose by %v, want at least 500", after-before)
		}
	})
}

func TestLiveFailedExecs(t *testing.T) {
	needLive(t)
	e := startExporter(t, "--collector.execsnoop.failed")
	idleAndBusy(t, e, func(t *testing.T) {
		forbidden := filepath.Join(t.TempDir(), "no-x-bit")
		if err := os.WriteFile(forbidden, tinyELF(t), 0o644); err != nil {
			t.Fatal(err)
		}
		missing, denied := uniqueName("enoent"), uniqueName("eacces")
		runHelper(t, missing, "failing-execs", "/nonexistent/program", "20")
		runHelper(t, denied, "failing-execs", forbidden, "20")
		e.expectCounts(t,
			count{execs, labels{"comm": missing, "result": "ENOENT"}, 20},
			count{execs, labels{"comm": denied, "result": "EACCES"}, 20},
			// The start of each caller, and nothing else under its name.
			count{execs, labels{"comm": missing, "result": "success"}, 1},
			count{execs, labels{"comm": denied, "result": "success"}, 1},
			count{execs, labels{"comm": missing}, 21},
			count{execs, labels{"comm": denied}, 21},
		)
	})
}
