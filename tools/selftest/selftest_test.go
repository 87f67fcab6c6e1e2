package selftest

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// What prints each event is stopped while there is a burst of them, and only
// then.
func TestReadersAreStopped(t *testing.T) {
	reader, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, new(os.ProcAttr))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Kill(); _, _ = reader.Wait() }()
	run := func(pid int, workloads ...string) *Facts {
		t.Helper()
		p := NewPlan(workloads, nil)
		p.Readers = []int{pid}
		f, err := Run(context.Background(), p)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	changed := func(options int) bool {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, reader.Pid, &info, options|unix.WNOHANG, nil)
		return err == nil && info.Signo != 0
	}
	if f := run(reader.Pid, "exec"); len(f.Failed) > 0 || changed(unix.WSTOPPED) || changed(unix.WCONTINUED) {
		t.Errorf("exec stops the reader, or %v", f.Failed)
	}
	if f := run(reader.Pid, "open"); len(f.Failed) > 0 || !changed(unix.WCONTINUED) {
		t.Errorf("open did not stop the reader and have it run on: %v", f.Failed)
	}
	if state, parent, err := stat(reader.Pid); err != nil || state == 'T' || parent != os.Getpid() {
		t.Errorf("the reader is in state %c, a child of %d, %v", state, parent, err)
	}
	// Not its child: nobody stops it.
	if why := run(os.Getppid(), "open").Failed["open"]; !strings.Contains(why, "is not a child of") {
		t.Errorf("of a stranger it says %q", why)
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
