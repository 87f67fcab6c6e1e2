package main

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// theChild is the exporter's child with a comm.
func theChild(t *testing.T, e *exporter, comm string) proc {
	t.Helper()
	var found proc
	eventually(t, 30*time.Second, comm+" runs", func() error {
		family := descendants(e.pid)
		for _, p := range family {
			if p.comm == comm && p.ppid == e.pid {
				found = p
				return nil
			}
		}
		return fmt.Errorf("children: %+v", family)
	})
	return found
}

// textBackend makes execsnoop run as a program of its own.
const textBackend = "--tools.execsnoop.backend=libbpf-tools"

// Children that are killed come back, and counters never go back. What a
// killed bpftrace counted since it was last asked goes with it, so each round
// asks before it kills.
func TestLiveKilledChildren(t *testing.T) {
	needLive(t, "/usr/sbin/execsnoop")
	for _, c := range []struct {
		name, comm string
		args       []string
	}{
		{"bpftrace", "bpftrace", []string{"--collector.disable-defaults", "--collector.execsnoop", "--collector.tcplife"}},
		{"text tool", "execsnoop", []string{"--collector.disable-defaults", "--collector.execsnoop", textBackend}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := startExporter(t, append(c.args, "--tools.restart-max-delay=1s")...)
			name := uniqueName("killed")
			program := tinyProgram(t, name)
			counted := labels{"comm": name, "result": "success"}
			up := labels{"tool": "execsnoop"}
			const kills, execsEach = 20, 25
			for kill := range kills {
				runHelper(t, uniqueName("caller"), "execs", program, strconv.Itoa(execsEach), "0")
				e.expectCounts(t, count{execs, counted, float64((kill + 1) * execsEach)})
				before := e.scrape(t)
				child := theChild(t, e, c.comm)
				if err := syscall.Kill(child.pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				eventually(t, time.Minute, "the tool is up again", func() error {
					now := e.scrape(t)
					expectMonotonic(t, before, now)
					before = now
					if restarts := now.sum("bpf_tool_restarts_total", labels{"tool": "execsnoop", "reason": "exit"}); restarts != float64(kill+1) {
						return fmt.Errorf("%v restarts after %d kills", restarts, kill+1)
					}
					if now.sum("bpf_tool_up", up) != 1 {
						return fmt.Errorf("down")
					}
					return nil
				})
				if child.alive() {
					t.Fatalf("%+v lives on", child)
				}
			}
			now := e.scrape(t)
			tools := float64(len(now.series("bpf_tool_up", nil)))
			running := now.sum("bpf_tool_up", nil)
			t.Logf("%d kills, %v of %v tools run", kills, running, tools)
			e.expectCounts(t, count{"bpf_tool_restarts_total", nil, float64(kills) * running})
			if family := descendants(e.pid); len(family) != 1 {
				t.Errorf("children: %+v, want one", family)
			}
		})
	}
}

// expectMonotonic checks that no counter, and no histogram, went back or away.
func expectMonotonic(t *testing.T, before, now metrics) {
	t.Helper()
	for name, family := range before {
		if !strings.HasPrefix(name, "bpf_") || strings.HasSuffix(name, "_timestamp_seconds") {
			continue
		}
		for _, series := range family.Metric {
			if series.Gauge != nil {
				continue
			}
			which := make(labels)
			for _, pair := range series.Label {
				which[pair.GetName()] = pair.GetValue()
			}
			if was, is := before.sum(name, which), now.sum(name, which); is < was {
				t.Errorf("%s%v went from %v back to %v", name, which, was, is)
			}
		}
	}
}

// Nothing outlives the exporter, even if it cannot clean up.
func TestLiveKilledExporter(t *testing.T) {
	needLive(t, "/usr/sbin/execsnoop")
	for _, c := range []struct {
		name     string
		args     []string
		children int
	}{
		{"bpftrace", nil, 1},
		{"libbpf-tools", []string{"--tools.backends=libbpf-tools"}, 3},
		{"both", []string{textBackend}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := startExporter(t, c.args...)
			family := descendants(e.pid)
			if len(family) != c.children {
				t.Errorf("children: %+v, want %d", family, c.children)
			}
			if err := e.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-e.done
			expectGone(t, family)
		})
	}
}

// startExporter's stop checks the exit status, the children and the time.
func TestLiveStop(t *testing.T) {
	needLive(t, "/usr/sbin/execsnoop")
	for _, c := range []struct {
		name string
		args []string
		log  string
	}{
		{"bpftrace", nil, "msg=stopping"},
		{"both", []string{textBackend}, "msg=stopping"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := startExporter(t, c.args...)
			e.scrape(t)
			e.stop(t)
			if log := e.log.String(); !strings.Contains(log, c.log) || strings.Contains(log, "level=error") {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// A stop while the tools are still starting is clean, too.
func TestLiveStopWhileStarting(t *testing.T) {
	needLive(t)
	for _, after := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			out := new(logBuffer)
			cmd := exec.Command(buildExporter(t), "--web.listen-address="+freeAddress(t), "--tools.state-directory="+t.TempDir())
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, 10*time.Second, "the exporter logs that it starts", func() error {
				if !strings.Contains(out.String(), "Listening on") {
					return fmt.Errorf("log: %q", out.String())
				}
				return nil
			})
			time.Sleep(after)
			family := descendants(cmd.Process.Pid)
			begin := time.Now()
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("ended with %v, want exit status 0\n%s", err, out)
			}
			if took := time.Since(begin); took > stopTimeout {
				t.Errorf("took %s, want at most %s", took, stopTimeout)
			}
			expectGone(t, family)
		})
	}
}
