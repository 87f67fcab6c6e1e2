package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Where there is only libbpf-tools, three of the five tools serve, and the
// others say why not.
func TestLiveLibbpfTools(t *testing.T) {
	needLive(t, "/usr/sbin/execsnoop", "/usr/sbin/tcplife", "/usr/sbin/biolatency")
	device := loopDevice(t, 32<<20) // before the tool starts, which reads the names of disks then
	e := startExporter(t, "--tools.backends=libbpf-tools")
	up := func(tool string, is float64) count { return count{"bpf_tool_up", labels{"tool": tool}, is} }
	e.expectCounts(t, up("execsnoop", 1), up("tcplife", 1), up("biolatency", 1), up("cachestat", 0), up("tcpretrans", 0))
	expectPage(t, e, "libbpf-tools: exit status", "no source is allowed by --tools.backends")
	t.Run("execsnoop", func(t *testing.T) {
		name := uniqueName("text")
		runHelper(t, uniqueName("caller"), "execs", tinyProgram(t, name), "100", "0")
		e.expectCounts(t, count{execs, labels{"comm": name, "result": "success"}, 100}, count{execs, labels{"comm": name}, 100})
	})
	t.Run("tcplife", func(t *testing.T) {
		server, client := uniqueName("srv"), uniqueName("cli")
		const n, sent, answered = 10, 20480, 10240
		// The tool does not say who connected: a port that no client has tells.
		port := runSessionsAt(t, server, client, net.JoinHostPort("127.0.0.1", servicePort(t)), n, sent, answered)
		out, in := labels{"comm": client, "direction": "outbound"}, labels{"comm": server, "direction": "inbound"}
		e.expectCounts(t,
			count{sessions, out.with("family", "ipv4"), n}, count{sessions, labels{"comm": client}, n},
			count{sessions, in.with("family", "ipv4"), n}, count{sessions, labels{"comm": server}, n},
			count{peers, out.with("peer", "127.0.0.1").with("port", port), n},
			count{peers, in.with("peer", "127.0.0.1").with("port", port), n},
		)
		// The tool prints hundredths of a KiB, and SYN and FIN among the bytes.
		now := e.scrape(t)
		for _, c := range []count{
			{transmitted, out, n * sent}, {received, out, n * answered}, {transmitted, in, n * answered}, {received, in, n * sent},
		} {
			if got := now.sum(c.metric, c.labels); got < c.want*0.999 || got > c.want*1.001 {
				t.Errorf("%s%v is %v, want within 0.1 %% of %v", c.metric, c.labels, got, c.want)
			}
		}
	})
	t.Run("biolatency", func(t *testing.T) {
		eventually(t, 30*time.Second, "biolatency has proven that it counts right", func() error {
			if e.scrape(t).sum("bpf_tool_selftest_success", labels{"tool": "biolatency"}) != 1 {
				return errors.New("not yet")
			}
			return nil
		})
		name := filepath.Base(device)
		before := e.scrape(t)
		directIO(t, device, 300, 200)
		want := map[string]float64{"write": 300, "read": 200}
		// The tool prints every five seconds.
		eventually(t, 20*time.Second, "the I/O is counted", func() error {
			now := e.scrape(t)
			for operation, n := range want {
				which := labels{"device": name, "operation": operation}
				got := now.sum(biolatency, which) - before.sum(biolatency, which)
				if got < n {
					return fmt.Errorf("%v %ss, want %v", got, operation, n)
				}
				if got > n {
					t.Fatalf("%v %ss, want %v", got, operation, n)
				}
			}
			return nil
		})
		for _, series := range e.scrapeProtobuf(t).series(biolatency, labels{"device": name}) {
			h := series.Histogram
			if native := decodeNative(h); h.GetSchema() != 0 || native.upTo(1<<30) != float64(h.GetSampleCount()) {
				t.Errorf("%v: schema %d, native count %v, classic count %d: want schema 0 and the same",
					series.Label, h.GetSchema(), native.upTo(1<<30), h.GetSampleCount())
			}
		}
	})
	// Not of execsnoop: a newline in anybody's argument breaks its rows.
	e.expectCounts(t,
		count{"bpf_tool_parse_errors_total", labels{"tool": "tcplife"}, 0},
		count{"bpf_tool_parse_errors_total", labels{"tool": "biolatency"}, 0},
		count{"bpf_tool_restarts_total", nil, 0},
	)
}

// expectPage checks that the landing page says something.
func expectPage(t *testing.T, e *exporter, texts ...string) {
	t.Helper()
	page := e.mustGet(t, "/")
	for _, text := range texts {
		if !strings.Contains(page, text) {
			t.Errorf("the landing page does not say %q:\n%s", text, page)
		}
	}
}

// brokenTool is a definition that is valid as far as the exporter can tell.
const brokenTool = `name: zz_broken
help: A tool whose script bpftrace refuses.
default: true
fields: {n: int}
metrics:
  - {name: bpf_zz_broken_total, help: Nothing., type: counter, value: n}
sources:
  - backend: bpftrace
    scripts: [zz_broken.bt]
    maps:
      zz_broken_n: {metric: bpf_zz_broken_total}
`

// A tool that bpftrace refuses does not take those down that share the process.
func TestLiveBrokenTool(t *testing.T) {
	needLive(t)
	for _, c := range []struct{ name, script, reason string }{
		{"does not compile", "tracepoint:sched:sched_process_exec { @zz_broken_n = no_such_function(1); }", "no_such_function"},
		{"no such tracepoint", "tracepoint:sched:no_such_tracepoint { @zz_broken_n = count(); }", "no_such_tracepoint"},
		{"ends by itself", "interval:ms:1 { @zz_broken_n = count(); exit(); }", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := startExporter(t, "--tools.directory="+writeTool(t, brokenTool, c.script+"\n"))
			e.expectCounts(t, append(defaultsUp(), count{"bpf_tool_up", labels{"tool": "zz_broken"}, 0})...)
			expectPage(t, e, "zz_broken", c.reason)
			name := uniqueName("with")
			runHelper(t, uniqueName("caller"), "execs", tinyProgram(t, name), "50", "0")
			e.expectCounts(t, count{execs, labels{"comm": name, "result": "success"}, 50})
		})
	}
}

// writeTool makes a folder of definitions with one tool, zz_broken.
func writeTool(t *testing.T, definition, script string) string {
	t.Helper()
	parent := t.TempDir()
	dir := filepath.Join(parent, "zz_broken")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"tool.yaml": definition, "zz_broken.bt": script} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return parent
}
