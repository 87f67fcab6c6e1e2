package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const reloaded = "bpf_tools_exporter_config_last_reload_successful"

// A reload runs what the file asks for now, and no counter goes back; a file with
// a fault changes nothing.
func TestLiveReload(t *testing.T) {
	needLive(t)
	file := writeConfig(t, "collector: {runqlat: false, profile: false, biolatency: false, tcplife: false, tcpretrans: false, cachestat: false}\n")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := startExporter(t, "--config.file="+file, "--web.enable-lifecycle", "--no-tools.self-test")
	name := uniqueName("reload")
	program := tinyProgram(t, name)
	run := func() { runHelper(t, uniqueName("caller"), "execs", program, "50", "0") }
	counted := func(n float64) count { return count{execs, labels{"comm": name, "result": "success"}, n} }
	events := func() float64 { return e.scrape(t).sum("bpf_tool_events_total", labels{"tool": "execsnoop"}) }

	run()
	e.expectCounts(t, counted(50), count{"bpf_tool_up", nil, 1}, count{reloaded, nil, 1})
	before, pids := events(), descendants(e.pid)

	// Nothing changed: the same process goes on.
	if code, text := e.post(t, "/-/reload"); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
	if now := descendants(e.pid); fmt.Sprint(now) != fmt.Sprint(pids) {
		t.Errorf("children %v, want the same as before, %v", now, pids)
	}

	for text, want := range map[string]string{
		"collector: {execsnop: true}\n":     `:1: no flag "collector.execsnop": --help lists all`,
		"tools.max-series: 0\n":             ":1: tools.max-series: 0: want 1 to 100000",
		"web.telemetry-path: /other\n":      "web.telemetry-path cannot change while the exporter runs: restart it",
		"tools.directory: /nonexistent/x\n": "/nonexistent/x: no such file or directory",
	} {
		write(text)
		if code, got := e.post(t, "/-/reload"); code != http.StatusInternalServerError || !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%q: %d %q, want 500 and %s", text, code, got, want)
		}
		e.expectCounts(t, count{reloaded, nil, 0})
	}
	run()
	e.expectCounts(t, counted(100), count{"bpf_tool_up", nil, 1})

	write("collector: {exitsnoop: true, runqlat: false, profile: false, biolatency: false, tcplife: false, tcpretrans: false, cachestat: false}\n")
	if err := e.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "both tools are up", func() error {
		if up := e.scrape(t).sum("bpf_tool_up", nil); up != 2 {
			return fmt.Errorf("%v are", up)
		}
		return nil
	})
	if now := events(); now < before {
		t.Errorf("events of execsnoop went back from %v to %v", before, now)
	}
	run()
	e.expectCounts(t, counted(150), count{"bpf_exitsnoop_exits_total", labels{"comm": name}, 50}, count{reloaded, nil, 1})
	expectGone(t, pids)
}

// What was counted since the last scrape is not lost where a reload ends a
// bpftrace of 80 probes: it prints its last values when all are detached, which
// takes longer than two seconds.
func TestLiveReloadOfManyProbes(t *testing.T) {
	needLive(t)
	const off = "runqlat: false, profile: false, biolatency: false, tcplife: false, tcpretrans: false, cachestat: false"
	file := writeConfig(t, "collector: {fsslower: true, ext4slower: true, "+off+"}\n")
	e := startExporter(t, "--config.file="+file, "--no-tools.self-test")
	e.stopWithin = detachTimeout
	name := uniqueName("reload")
	runHelper(t, uniqueName("caller"), "execs", tinyProgram(t, name), "50", "0")
	if err := os.WriteFile(file, []byte("collector: {"+off+"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := e.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	// Not by scrapes, which would fetch the values.
	eventually(t, time.Minute, "the tools start again", func() error {
		if log := e.log.String(); !strings.Contains(log, "reloaded, the tools start again") {
			return fmt.Errorf("the log ends with %q", log[max(0, len(log)-200):])
		}
		return nil
	})
	e.expectCounts(t, count{execs, labels{"comm": name, "result": "success"}, 50})
}

func (e *exporter) post(t *testing.T, path string) (code int, body string) {
	t.Helper()
	answer, err := http.Post(e.url+path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}
