package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// names are those of a self-test, as pages tell them: a comm and addresses.
var names = regexp.MustCompile(`\bself[0-9a-f]{6}\b|\b127\.\d+\.\d+\.\d+\b`)

// Every tool proves that it counts right, and nothing of that is counted. What
// was proven once is not again.
func TestLiveSelfTest(t *testing.T) {
	needLive(t)
	state := filepath.Join(t.TempDir(), "state")
	for _, c := range []struct {
		name, reason string
		names        int // a comm and two addresses
	}{
		{"first start", "; saw just that", 3},
		{"second start", "before, with this kernel, program and definition", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := startExporter(t, "--tools.state-directory="+state)
			e.expectCounts(t, append(defaultsUp(), count{"bpf_tool_selftest_success", nil, 5})...)
			made := make(map[string]bool)
			for _, tool := range []string{"execsnoop", "tcplife", "tcpretrans"} {
				_, reason, _ := strings.Cut(e.mustGet(t, "/tools/"+tool), "<dt>Self-test</dt>")
				reason, _, _ = strings.Cut(reason, "</dd>")
				if !strings.Contains(reason, c.reason) {
					t.Errorf("%s: the page says %q, want %q", tool, reason, c.reason)
				}
				for _, name := range names.FindAllString(reason, -1) {
					made[name] = true
				}
			}
			if len(made) != c.names {
				t.Errorf("self-tests under the names %v, want %d", made, c.names)
			}
			for _, path := range []string{"/metrics", "/tools/execsnoop/events", "/tools/tcplife/events", "/tools/tcpretrans/events"} {
				for _, seen := range names.FindAllString(e.mustGet(t, path), -1) {
					if made[seen] {
						t.Errorf("%s has %s of the self-test", path, seen)
					}
				}
			}
		})
	}
	info, err := os.Stat(state)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state directory: %v, %v; want mode 0700", info.Mode(), err)
	}
}

func TestLiveNoSelfTest(t *testing.T) {
	needLive(t)
	state := filepath.Join(t.TempDir(), "state")
	e := startExporter(t, "--no-tools.self-test", "--tools.state-directory="+state)
	e.expectCounts(t, defaultsUp()...)
	if now := e.scrape(t).series("bpf_tool_selftest_success", nil); len(now) > 0 {
		t.Errorf("self-tests without being asked: %v", now)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("there is a state directory, with nothing to keep")
	}
}
