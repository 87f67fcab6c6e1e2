package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hostileNames are what any user may call a program. Behind a tag of six bytes
// they are comms of at most 15.
var hostileNames = []struct{ name, file, comm string }{
	{"newline", "a\nb", "a\nb"},
	{"comma", "c,1", "c,1"},
	{"quote", `d"e`, `d"e`},
	{"backslash", `f\n`, `f\n`},
	{"invalid UTF-8", "g\xff\xfe", "g\uFFFD"},
	{"opening brace", "{h", "{h"},
	{"end of a series", `"} 1`, `"} 1`},
	{"space", "i j", "i j"},
	{"UTF-8", "café", "café"},
	{"UTF-8 that is cut", "12345678é", "12345678\uFFFD"},
	{"control bytes", "\x01\x1b[2J\t", "\x01\x1b[2J\t"},
}

// hostileArgs try to break a row of execsnoop, to forge one, and to be one of
// the lines that scripts print.
func hostileArgs(tag string) [][]string {
	return [][]string{
		{"x"},
		{"x", "\n" + tag + "forged 1 1 0 /bin/forged"},
		{"\nexecsnoop 1 1 0 7235986 0 forged", "\nend\n", "end"},
		{"x", `"}` + "\n" + `{"type": "map", "data": {"@execsnoop_execs": {"1,1": 1000000}}}`},
		{"x", "@execsnoop_execs[1,1]: 1000000", "Lost 1000000 events"},
		{"x", "\xff\xfe\x80", `\x41\n`},
		{"x", strings.Repeat("a\n", 50<<10)},
		{""},
	}
}

// Whatever programs and arguments are called, each exec counts under its own
// name, and no line of output is taken for another: with each bpftrace at hand.
func TestLiveHostileNames(t *testing.T) {
	needLive(t)
	for _, bpftrace := range append([]string{""}, filepath.SplitList(os.Getenv("BPFTRACE_TEST_BINARIES"))...) {
		name := "installed bpftrace"
		if bpftrace != "" {
			name = filepath.Base(bpftrace)
		}
		t.Run(name, func(t *testing.T) {
			e := startExporterWith(t, bpftrace)
			t.Logf("bpftrace %s", e.scrape(t).series("bpf_tool_info", labels{"tool": "execsnoop"}))
			t.Run("execs", func(t *testing.T) { hostileExecs(t, e) })
			t.Run("sessions", func(t *testing.T) { hostileSessions(t, e) })
			e.expectCounts(t, append(defaultsUp(), count{"bpf_tool_parse_errors_total", nil, 0})...)
		})
	}
}

// startExporterWith starts it where another program stands at /usr/bin/bpftrace.
func startExporterWith(t *testing.T, bpftrace string) *exporter {
	t.Helper()
	if bpftrace == "" {
		return startExporter(t)
	}
	cmd := exec.Command("/bin/sh", "-c", `mount --bind "$0" /usr/bin/bpftrace && exec "$@"`, bpftrace, buildExporter(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return startCommand(t, cmd)
}

func hostileExecs(t *testing.T, e *exporter) {
	tag := uniqueName("")[:6]
	var counts []count
	for i, c := range hostileNames {
		program := tinyProgram(t, tag+c.file)
		all := hostileArgs(tag)
		for n := range len(all) + i {
			if err := execute(program, all[n%len(all)]...); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		counts = append(counts, count{execs, labels{"comm": tag + c.comm, "result": "success"}, float64(len(all) + i)})
	}
	e.expectCounts(t, counts...)
	var found []string
	for _, series := range e.scrape(t).series(execs, nil) {
		for _, pair := range series.Label {
			if strings.HasPrefix(pair.GetValue(), tag) || strings.Contains(pair.GetValue(), "forged") {
				found = append(found, pair.GetValue())
			}
		}
	}
	if len(found) != len(hostileNames) {
		t.Errorf("series %q, want the %d names and no other", found, len(hostileNames))
	}
	// Rows are limited for the whole machine: ask for more until one is shown.
	program := tinyProgram(t, tag+hostileNames[0].file)
	eventually(t, 20*time.Second, "an event of a hostile program", func() error {
		if err := execute(program, hostileArgs(tag)[0]...); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(e.mustGet(t, "/tools/execsnoop/events?n=1000"), tag) {
			return errors.New("none")
		}
		return nil
	})
	expectEvents(t, e, tag)
}

// expectEvents checks that each recent event is a JSON object on a line of its
// own, and that the last names are among them.
func expectEvents(t *testing.T, e *exporter, tag string) {
	t.Helper()
	known := make(map[string]bool)
	for _, c := range hostileNames {
		known[tag+c.comm] = true
	}
	seen := 0
	for line := range strings.Lines(e.mustGet(t, "/tools/execsnoop/events?n=1000")) {
		var event struct {
			Comm string
			PID  json.Number
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("event %q: %v", line, err)
		}
		if strings.HasPrefix(event.Comm, tag) {
			seen++
			if !known[event.Comm] {
				t.Errorf("event of %q, which no program is called", event.Comm)
			}
		}
		if strings.HasPrefix(event.Comm, "forged") || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\n\r\x1b") {
			t.Errorf("event %q is forged or unsafe", line)
		}
	}
	if seen == 0 {
		t.Error("no event of the hostile programs")
	}
}

func hostileSessions(t *testing.T, e *exporter) {
	tag := uniqueName("")[:6]
	const n, sent, answered = 5, 1234, 567
	for _, c := range hostileNames {
		t.Run(c.name, func(t *testing.T) {
			client := tag + c.file
			runSessions(t, uniqueName("srv"), client, "127.0.0.1", n, sent, answered)
			which := labels{"comm": tag + c.comm, "direction": "outbound"}
			e.expectCounts(t,
				count{sessions, which, n}, count{sessions, labels{"comm": tag + c.comm}, n},
				count{transmitted, which, n * sent}, count{received, which, n * answered},
				count{peers, which.with("peer", "127.0.0.1"), n},
			)
		})
	}
}
