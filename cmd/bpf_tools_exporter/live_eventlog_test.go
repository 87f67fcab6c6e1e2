package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const eventsWritten = "bpf_tools_exporter_events_log_written_total"

// logLine is a line of the event log.
type logLine struct {
	Time       time.Time
	Tool, Host string
	Fields     map[string]any
}

// linesOf are the lines of a log for a comm.
func linesOf(file, comm string) (found []logLine, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		var l logLine
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&l); err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
		if l.Fields["comm"] == comm {
			found = append(found, l)
		}
	}
	return found, nil
}

// A rotated event log has each exec once, with arguments only if asked for.
func TestLiveEventLog(t *testing.T) {
	needLive(t)
	for _, args := range []bool{false, true} {
		t.Run(fmt.Sprintf("args %v", args), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "events.log")
			e := startExporter(t, "--events.log="+file, fmt.Sprintf("--%sevents.log-args", map[bool]string{false: "no-"}[args]))
			name := uniqueName("logged")
			program := tinyProgram(t, name)
			run := func() {
				t.Helper()
				if out, err := exec.Command(program, "--password=hunter2").CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			logged := func(file string) {
				t.Helper()
				eventually(t, 10*time.Second, "the exec is logged once", func() error {
					lines, err := linesOf(file, name)
					if err != nil {
						return err
					}
					if len(lines) != 1 {
						return fmt.Errorf("%d lines", len(lines))
					}
					host, _ := os.Hostname()
					l := lines[0]
					shown, _ := l.Fields["args"].(string)
					if l.Tool != "execsnoop" || l.Host != host || time.Since(l.Time).Abs() > time.Minute || strings.Contains(shown, "hunter2") != args {
						t.Fatalf("%+v", l)
					}
					return nil
				})
			}
			run()
			logged(file)
			if err := os.Rename(file, file+".1"); err != nil {
				t.Fatal(err)
			}
			if err := e.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			eventually(t, 10*time.Second, "there is a new file", func() error { _, err := os.Stat(file); return err })
			run()
			logged(file)
			logged(file + ".1")
			if written := e.scrape(t).sum(eventsWritten, nil); written < 2 {
				t.Errorf("%s is %v, want 2 or more", eventsWritten, written)
			}
		})
	}
}

// The exporter outlives the reader of its standard output.
func TestLiveEventLogWithoutReader(t *testing.T) {
	needLive(t)
	e := startCommand(t, exec.Command("/bin/bash", "-c", `exec "$0" "$@" > >(head -n 1 >/dev/null)`, buildExporter(t), "--events.log=stdout"))
	program := tinyProgram(t, uniqueName("logged"))
	eventually(t, 20*time.Second, "lines that nobody reads are counted", func() error {
		if out, err := exec.Command(program).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		now := e.scrape(t)
		if now.sum("bpf_tools_exporter_events_log_dropped_total", labels{"reason": "error"}) == 0 {
			return fmt.Errorf("%v written, no error", now.sum(eventsWritten, nil))
		}
		return nil
	})
	if n := strings.Count(e.log.String(), "events are lost"); n != 1 {
		t.Errorf("it is logged %d times, want once", n)
	}
}
