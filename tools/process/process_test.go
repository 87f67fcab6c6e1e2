package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStartRefuses(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		want error
		text string
	}{
		{spec: Spec{Path: "sleep"}, text: `program "sleep": path is not absolute`},
		{spec: Spec{}, text: `program "": path is not absolute`},
		{spec: Spec{Path: "/bin/sleep", MaxLine: -1}, text: `program "/bin/sleep": negative line limit -1`},
		{spec: Spec{Path: "/nonexistent"}, want: fs.ErrNotExist, text: "fork/exec /nonexistent: no such file or directory"},
		{spec: Spec{Path: "/nonexistent", PTY: true}, want: fs.ErrNotExist, text: "fork/exec /nonexistent: no such file or directory"},
		{spec: Spec{Path: "/etc/passwd"}, want: fs.ErrPermission, text: "fork/exec /etc/passwd: permission denied"},
		{spec: Spec{Path: "/bin/sh", Args: []string{"a\x00b"}}, want: syscall.EINVAL, text: "fork/exec /bin/sh: invalid argument"},
	} {
		_, err := Start(c.spec)
		if err == nil || err.Error() != c.text || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("Start(%+v): error %v, want %s", c.spec, err, c.text)
		}
	}
}

func TestExit(t *testing.T) {
	for _, c := range []struct {
		script string
		want   Exit
		text   string
	}{
		{"exit 0", Exit{}, "exit status 0"},
		{"exit 3", Exit{Code: 3}, "exit status 3"},
		{"kill -TERM $$", Exit{Code: -1, Signal: syscall.SIGTERM}, "killed by SIGTERM"},
		{"kill -KILL $$", sigkill, "killed by SIGKILL"},
		{"kill -40 $$", Exit{Code: -1, Signal: 40}, "killed by signal 40"},
	} {
		exit := await(t, start(t, shell(c.script)))
		if ended(exit) != c.want || exit.String() != c.text || exit.Wall <= 0 {
			t.Errorf("%s: %+v, %s; want %+v, %s", c.script, exit, exit, c.want, c.text)
		}
	}
	if text := exitOf(nil, 0).String(); text != "exit status unknown" {
		t.Errorf("unknown state: %s", text)
	}
}

func TestOutput(t *testing.T) {
	for _, c := range []struct {
		name, script   string
		maxLine        int
		stdout, stderr []string
	}{
		{"both", "echo one; echo two >&2; echo three", 0, []string{"one", "three"}, []string{"two"}},
		{"none", ":", 0, nil, nil},
		{"empty lines", "echo; echo", 0, []string{"", ""}, nil},
		{"no last newline", "printf 'a\\nb'", 0, []string{"a", "b"}, nil},
		{"limit", "echo 12345; echo 123456; echo 1; printf 1234567", 5, []string{"12345", "12345[cut]", "1", "12345[cut]"}, nil},
		{"no stdin", "cat; echo end", 0, []string{"end"}, nil},
		{"directory", "pwd", 0, []string{"/"}, nil},
		{"argv[0]", "echo $0", 0, []string{"/bin/sh"}, nil},
	} {
		for _, pty := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, pty %t", c.name, pty), func(t *testing.T) {
				var stdout, stderr collector
				spec := shell(c.script)
				spec.PTY, spec.MaxLine, spec.Stdout, spec.Stderr = pty, c.maxLine, stdout.add, stderr.add
				if exit := await(t, start(t, spec)); ended(exit) != (Exit{}) {
					t.Error(exit)
				}
				if got := stdout.all(); !slices.Equal(got, c.stdout) {
					t.Errorf("stdout %q, want %q", got, c.stdout)
				}
				if got := stderr.all(); !slices.Equal(got, c.stderr) {
					t.Errorf("stderr %q, want %q", got, c.stderr)
				}
			})
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("SECRET", "of the parent")
	for _, env := range [][]string{nil, {}, DefaultEnv(), {"A=1", "B=x y"}} {
		var out collector
		await(t, start(t, Spec{Path: "/usr/bin/env", Env: env, Stdout: out.add}))
		if got := out.all(); !slices.Equal(got, env) {
			t.Errorf("environment %q, want %q", got, env)
		}
	}
}

// A megabyte, more than a pipe holds, of a child that reads nothing is no matter either.
func TestStdin(t *testing.T) {
	input := "first\n" + strings.Repeat("x", 1<<20)
	for script, want := range map[string][]string{
		"head -n 1":             {"first"},
		"wc -c":                 {strconv.Itoa(len(input))},
		"echo reads no":         {"reads no"},
		"cat /dev/fd/0 | wc -l": {"1"},
	} {
		var out collector
		spec := shell(script)
		spec.Stdin, spec.Stdout = input, out.add
		if exit := await(t, start(t, spec)); ended(exit) != (Exit{}) {
			t.Error(exit)
		}
		if got := out.all(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

// TestInherited looks at what a child has from its parent besides its environment.
func TestInherited(t *testing.T) {
	secret, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	for _, pty := range []bool{false, true} {
		p := start(t, Spec{Path: "/bin/sleep", Args: []string{"1000"}, PTY: pty})
		if group, err := unix.Getpgid(p.Pid()); err != nil || group != p.Pid() {
			t.Errorf("process group %d, %v, want %d", group, err, p.Pid())
		}
		if score := proc(t, p, "oom_score_adj"); score != "500\n" {
			t.Errorf("oom_score_adj %q", score)
		}
		if fds := openFiles(t, p); !slices.Equal(fds, []int{0, 1, 2}) {
			t.Errorf("open files %v", fds)
		}
		for fd := range 3 {
			var flags int
			_, text, _ := strings.Cut(proc(t, p, fmt.Sprintf("fdinfo/%d", fd)), "flags:")
			if _, err := fmt.Sscanf(text, "%o", &flags); err != nil || flags&unix.O_NONBLOCK != 0 {
				t.Errorf("file %d: flags %o, %v: does not block", fd, flags, err)
			}
		}
	}
}

// openFiles returns the numbers of p's open files in order, once it has closed
// those that its start opens, such as libraries.
func openFiles(t *testing.T, p *Process) (fds []int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		fds = fds[:0]
		for _, entry := range entries {
			fds = append(fds, atoi(t, entry.Name()))
		}
		slices.Sort(fds)
		if len(fds) <= 3 || time.Now().After(deadline) {
			return fds
		}
	}
}

func proc(t *testing.T, p *Process, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Pid(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestInterruptIsNotIgnored plays the background job of a script.
func TestInterruptIsNotIgnored(t *testing.T) {
	var out collector
	parent := helper(t, "parent")
	spec := shell("trap '' INT; exec " + parent.Path)
	spec.Env, spec.Stdout = parent.Env, out.add
	start(t, spec)
	out.await(t, 1)
	child := &Process{pid: atoi(t, out.all()[0])}
	_, text, _ := strings.Cut(proc(t, child, "status"), "SigIgn:\t")
	mask, err := strconv.ParseUint(text[:16], 16, 64)
	if err != nil || mask&(1<<(unix.SIGINT-1)) != 0 {
		t.Errorf("ignored signals %.16s (%v)", text, err)
	}
}

func TestHigherOOMScoreStays(t *testing.T) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("700"), 0); err != nil {
		t.Skip("cannot change this process's OOM score:", err)
	}
	// Lowering it again needs CAP_SYS_RESOURCE.
	defer os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
	p := start(t, Spec{Path: "/bin/sleep", Args: []string{"1000"}})
	if score := proc(t, p, "oom_score_adj"); score != "700\n" {
		t.Errorf("oom_score_adj %q, want the inherited 700", score)
	}
}

func TestChildDiesWithParent(t *testing.T) {
	var out collector
	spec := helper(t, "parent")
	spec.Stdout = out.add
	parent := start(t, spec)
	out.await(t, 1)
	child := atoi(t, out.all()[0])
	if !alive(child) {
		t.Fatal("the child does not run")
	}
	// To the parent only: the child is in another group.
	if err := unix.Kill(parent.Pid(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child dies", func() bool { return !alive(child) })
}

// TestChildOutlivesThreads provokes golang/go#27505: a goroutine that ends while it is locked to its
// thread ends the thread, and with it, were it the one that forked, the child.
func TestChildOutlivesThreads(t *testing.T) {
	started := make(chan *Process, 20)
	var group sync.WaitGroup
	for range cap(started) {
		group.Go(func() {
			runtime.LockOSThread()
			p, err := Start(Spec{Path: "/bin/sleep", Args: []string{"1000"}})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { p.Kill(); await(t, p) })
			started <- p
		})
	}
	for range 500 {
		group.Go(runtime.LockOSThread)
	}
	group.Wait()
	close(started)
	for p := range started {
		select {
		case <-p.Done():
			t.Error("a child died with a thread:", p.Exit())
		default:
		}
	}
}

func TestStop(t *testing.T) {
	for _, c := range []struct {
		name, script string
		grace        time.Duration
		want         Exit
	}{
		{"default action", "echo ready; exec sleep 1000", patience, Exit{Code: -1, Signal: syscall.SIGINT}},
		{"handler", "trap 'exit 7' INT; echo ready; while :; do sleep 0.01; done", patience, Exit{Code: 7}},
		{"deaf", "trap '' INT; echo ready; exec sleep 1000", 100 * time.Millisecond, sigkill},
		{"stopped", "echo ready; kill -STOP $$", 100 * time.Millisecond, sigkill},
		{"two in the group", "echo ready; sleep 1000 & sleep 1000", patience, Exit{Code: -1, Signal: syscall.SIGINT}},
		{"deaf group", "trap '' INT; echo ready; sleep 1000 & sleep 1000", 100 * time.Millisecond, sigkill},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out collector
			spec := shell(c.script)
			spec.Grace, spec.Stdout = c.grace, out.add
			p := start(t, spec)
			out.await(t, 1)
			if exit := ended(stop(t, p)); exit != c.want {
				t.Errorf("%+v, want %+v", exit, c.want)
			}
			eventually(t, "the group is gone", func() bool { return !alive(-p.Pid()) })
			if exit := ended(stop(t, p)); exit != c.want {
				t.Errorf("stopped again: %+v, want %+v", exit, c.want)
			}
			p.Kill()
		})
	}
}

func TestStopInterruptsTwice(t *testing.T) {
	var out collector
	spec := helper(t, "second")
	spec.Grace, spec.Stdout = 4*time.Second, out.add
	p := start(t, spec)
	out.await(t, 1)
	if exit := ended(stop(t, p)); exit != (Exit{}) {
		t.Error(exit)
	}
	if got, want := out.all(), []string{"ready", "interrupt 1", "interrupt 2"}; !slices.Equal(got, want) {
		t.Errorf("output %q, want %q", got, want)
	}
}

// TestStopConcurrently counts interrupts: several callers must not add up to several interrupts.
func TestStopConcurrently(t *testing.T) {
	var out collector
	spec := shell("trap 'echo interrupt' INT; echo ready; while :; do sleep 0.01; done")
	spec.Grace, spec.Stdout = patience, out.add
	p := start(t, spec)
	out.await(t, 1)

	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if exit := ended(p.Stop(ctx)); exit != sigkill {
				t.Error(exit)
			}
		})
	}
	out.await(t, 2)
	cancel()
	group.Wait()
	if got, want := out.all(), []string{"ready", "interrupt"}; !slices.Equal(got, want) {
		t.Errorf("output %q, want %q", got, want)
	}
}

func TestStopEndsWithAnyContext(t *testing.T) {
	var out collector
	spec := shell("trap '' INT; echo ready; sleep 1000")
	spec.Grace, spec.Stdout = time.Hour, out.add
	p := start(t, spec)
	out.await(t, 1)
	patient := make(chan Exit)
	go func() { patient <- p.Stop(context.Background()) }()
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	if exit := ended(p.Stop(canceled)); exit != sigkill {
		t.Error(exit)
	}
	if exit := ended(<-patient); exit != sigkill {
		t.Error(exit)
	}
}

func TestGrandchildren(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         Exit
	}{
		{"in the group", "sleep 1000 & exit 4", Exit{Code: 4}},
		{"deaf in the group", "trap '' INT TERM HUP; sleep 1000 & exit 4", Exit{Code: 4}},
		{"out of the group", "setsid sh -c 'echo $$; exec sleep 30' & sleep 0.5; exit 4", Exit{Code: 4, OutputCut: true}},
		{"out of the group, noisy", "setsid sh -c 'echo $$; exec timeout 30 yes' & sleep 0.5; exit 4", Exit{Code: 4, OutputCut: true}},
	} {
		for _, pty := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, pty %t", c.name, pty), func(t *testing.T) {
				t.Parallel()
				var first string
				spec := shell(c.script)
				spec.PTY = pty
				spec.Stdout = func(line []byte, _ bool) {
					if first == "" {
						first = string(line)
					}
				}
				if exit := ended(await(t, start(t, spec))); exit != c.want {
					t.Errorf("%+v, want %+v", exit, c.want)
				}
				if escaped, err := strconv.Atoi(first); err == nil {
					_ = unix.Kill(escaped, unix.SIGKILL)
				}
			})
		}
	}
}

func TestFlood(t *testing.T) {
	for _, pty := range []bool{false, true} {
		next, wrong := 0, 0
		spec := helper(t, "numbers")
		spec.PTY = pty
		spec.Stdout = func(line []byte, truncated bool) {
			var text [20]byte
			if truncated || string(line) != string(strconv.AppendInt(text[:0], int64(next), 10)) {
				wrong++
			}
			next++
		}
		allocated := allocation(func() { await(t, start(t, spec)) })
		if next != numbers || wrong != 0 {
			t.Errorf("pty %t: %d lines, %d of them wrong, want %d", pty, next, wrong, numbers)
		}
		if limit := uint64(4 * DefaultMaxLine); allocated > limit {
			t.Errorf("pty %t: %d bytes allocated, want at most %d", pty, allocated, limit)
		}
	}
}

func TestLongLine(t *testing.T) {
	const limit = 100_000
	for _, pty := range []bool{false, true} {
		var out collector
		spec := helper(t, "long line")
		spec.PTY, spec.MaxLine, spec.Stdout = pty, limit, out.add
		var p *Process
		allocated := allocation(func() {
			p = start(t, spec)
			await(t, p)
		})
		want := []string{"before", strings.Repeat("x", limit) + "[cut]", "after", "end"}
		if got := out.all(); !slices.Equal(got, want) {
			t.Errorf("pty %t: %d lines %.300q", pty, len(got), got)
		}
		if allocated > 20*limit {
			t.Errorf("pty %t: %d bytes allocated, want at most %d", pty, allocated, 20*limit)
		}
		usage, err := p.Usage()
		if want := uint64(longLine + len("before\n\nafter\nend")); err != nil || usage.StdoutBytes != want {
			t.Errorf("pty %t: %d bytes of stdout, %v, want %d", pty, usage.StdoutBytes, err, want)
		}
	}
}

// allocation returns the bytes that all goroutines allocate during work, freed again or not.
func allocation(work func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestPTYPassesBytes(t *testing.T) {
	var out collector
	spec := helper(t, "bytes")
	spec.PTY, spec.Stdout, spec.Grace = true, out.add, patience
	p := start(t, spec)
	out.await(t, 2)
	if exit := ended(stop(t, p)); exit != (Exit{}) {
		t.Error(exit)
	}
	if got, want := out.all(), []string{awkward, "", "last"}; !slices.Equal(got, want) {
		t.Errorf("output %q, want %q", got, want)
	}
}

// TestPTYUnbuffers runs a program of the C library that holds lines back on a pipe.
func TestPTYUnbuffers(t *testing.T) {
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		t.Skip("no program at hand that buffers:", err)
	}
	const script = "import time\nprint('now')\ntime.sleep(1000)"
	var out collector
	p := start(t, Spec{Path: python, Args: []string{"-c", script}, Env: DefaultEnv(), PTY: true, Stdout: out.add})
	out.await(t, 1)
	if got := out.all(); !slices.Equal(got, []string{"now"}) || !alive(p.Pid()) {
		t.Errorf("output %q", got)
	}
}

func TestPTYLibbpfTool(t *testing.T) {
	const execsnoop = "/usr/sbin/execsnoop"
	if _, err := os.Stat(execsnoop); err != nil {
		t.Skip("no libbpf-tools here:", err)
	}
	var out, diagnostics collector
	p := start(t, Spec{Path: execsnoop, Env: DefaultEnv(), PTY: true, Stdout: out.add, Stderr: diagnostics.add})
	eventually(t, "its header, or its end", func() bool {
		select {
		case <-p.Done():
			return true
		default:
			return len(out.all()) > 0
		}
	})
	if len(out.all()) == 0 {
		t.Skipf("execsnoop does not run here: %s: %q", p.Exit(), diagnostics.all())
	}
	eventually(t, "a row while it runs", func() bool {
		await(t, start(t, Spec{Path: "/bin/true"}))
		return slices.ContainsFunc(out.all(), func(row string) bool { return strings.HasPrefix(row, "true ") })
	})
	stop(t, p)
}

// TestPTYLosesNoTail ends right after output, when a terminal may have been closed before it was read.
func TestPTYLosesNoTail(t *testing.T) {
	for n := range 100 {
		lines := 0
		spec := Spec{Path: "/usr/bin/seq", Args: []string{"3000"}, PTY: true, Stdout: func([]byte, bool) { lines++ }}
		await(t, start(t, spec))
		if lines != 3000 {
			t.Fatalf("run %d: %d lines, want 3000", n, lines)
		}
	}
}

func TestNothingLeaks(t *testing.T) {
	cycle := func(n int) {
		spec := shell("echo out; echo err >&2; exec sleep 1000")
		spec.PTY = n%2 == 0
		p := start(t, spec)
		stop(t, p)
		_, _ = Start(Spec{Path: "/nonexistent", PTY: spec.PTY})
	}
	// What the runtime opens once, such as its poller, is not a leak.
	cycle(0)
	files, goroutines, threads := count(t, "/proc/self/fd"), runtime.NumGoroutine(), count(t, "/proc/self/task")
	for n := range 200 {
		cycle(n)
	}
	eventually(t, "as many files and goroutines as before", func() bool {
		return count(t, "/proc/self/fd") <= files && runtime.NumGoroutine() <= goroutines
	})
	if now := count(t, "/proc/self/task"); now > threads+20 {
		t.Errorf("%d threads, %d before", now, threads)
	}
}

func count(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
