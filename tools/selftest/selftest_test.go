package selftest

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if Main() {
		return
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	before := ReadHost()
	p := NewPlan(Names(), []string{"/nonexistent", "/proc", "/var/tmp", "."})
	f, err := Run(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	f = f.Bound(before, ReadHost())
	for _, name := range Names() {
		if why := f.Failed[name]; why != "" {
			// A container may have no disk's file system, or no loopback; CI has both, but not XFS.
			if os.Getenv("CI") == "true" && name != "xfs" || name == "retransmit" && f.Failed["tcp"] == "" {
				t.Errorf("%s: %s", name, why)
			}
			t.Logf("%s: could not be done: %s", name, why)
			continue
		}
		for _, number := range Workloads[name].Numbers {
			if f.Numbers[name][number] <= 0 {
				t.Errorf("%s: %s is %v", name, number, f.Numbers[name][number])
			}
		}
		if did := f.Did(name, p); strings.ContainsAny(did, "{}") {
			t.Errorf("%s: %s", name, did)
		} else {
			t.Logf("%s: %s", name, did)
		}
	}
	if got, want := f.Numbers["exec"], float64(p.Execs+1); got["execs"] != want || got["failed"] != want-1 {
		t.Errorf("exec: %v, want %v", got, want)
	}
	if disk := f.Numbers["disk"]; disk != nil && disk["max_requests"] < disk["requests"] {
		t.Errorf("disk: %v", disk)
	}
	if cache := f.Numbers["cache"]; cache != nil && (cache["max_dirtied"] < cache["pages"] || cache["max_missed"] < cache["pages"]) {
		t.Errorf("cache: %v", cache)
	}
	if left, _ := os.ReadDir(os.TempDir()); slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.Contains(e.Name(), p.Comm) }) {
		t.Error("something is left behind")
	}
}

func TestPlan(t *testing.T) {
	a, b := NewPlan(Names(), nil), NewPlan(Names(), nil)
	if a.Comm == b.Comm || a.Address == b.Address || len(a.Comm) != 10 {
		t.Errorf("%+v and %+v", a, b)
	}
	for _, name := range []string{"comm", "address"} {
		if a.Label("tcp", name) == "" {
			t.Errorf("no %s", name)
		}
	}
	if a.Dir != "" || !strings.HasPrefix(a.NoDir, "no place for a file on a disk") {
		t.Errorf("dir %q, %q", a.Dir, a.NoDir)
	}
	_, why := onDisk([]string{"/proc", "/nonexistent"})
	if want := "no place for a file on a disk: /proc: not on a disk's file system; /nonexistent: no such file or directory"; why != want {
		t.Errorf("%s, want %s", why, want)
	}
}
