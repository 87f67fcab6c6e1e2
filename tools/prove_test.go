package tools

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bpf_tools_exporter/tools/backend"
)

// attach is the part of the fake tool that makes it look like one that has
// attached a BPF program.
func attach(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/fake/fake-bpfcc")
	if err != nil {
		t.Fatal(err)
	}
	load, _, _ := strings.Cut(string(text), "def rows")
	return load + "signal.signal(signal.SIGINT, lambda *_: sys.exit(0))\nload()\n"
}

const (
	// fixedTable is what execsnoop could have printed, somewhere.
	fixedTable = `print("PCOMM            PID     PPID    RET ARGS")
for i in range(40):
    print("sshd             %-7d 1         0 /usr/sbin/sshd -D" % (1000 + i))
    print("bash             %-7d 1000      0 /bin/bash" % (2000 + i))
time.sleep(1000)
`
	// fixedIntervals is what cachestat could have printed.
	fixedIntervals = `print("    HITS   MISSES  DIRTIES HITRATIO   BUFFERS_MB  CACHED_MB")
while True:
    time.sleep(0.3)
    print("%8d %8d %8d %7.2f%% %12d %10d" % (132, 4, 17, 97.06, 64, 2100))
`
	// wrapper is a script around the tool of libbpf-tools, which counts right,
	// that prints its rows as bcc does.
	wrapper = `import subprocess
# from bcc import BPF
tool = subprocess.Popen(["/usr/bin/stdbuf", "-oL", PROGRAM], stdout=subprocess.PIPE)
signal.signal(signal.SIGINT, lambda *_: tool.terminate())
for line in tool.stdout:
    words = line[17:].split(None, 3)
    if len(words) == 4 and words[0] != b"PID":
        row = b"%-16s %-7d %-7d %3d %s" % (line[:16], int(words[0]), int(words[1]), int(words[2]), words[3])
        sys.stdout.buffer.write(row * TIMES)
        sys.stdout.flush()
`
)

// libbpfExecsnoop is a program that counts right on this host.
func libbpfExecsnoop(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("runs tools for a while: not with -short")
	}
	if os.Geteuid() != 0 {
		unable(t, "not root")
	}
	path, err := backend.Find(backend.Libbpf, "execsnoop")
	if err != nil {
		unable(t, "needs libbpf-tools")
	}
	return path
}

// A program that is called and looks like the tool, attaches, and prints what
// could be true, is not believed; one that is something else and counts right is.
func TestSelfTestOfFakes(t *testing.T) {
	real := libbpfExecsnoop(t)
	if _, err := exec.LookPath("python3"); err != nil {
		unable(t, "needs python3")
	}
	wrap := func(times int) string {
		return "#!/usr/bin/python3\nimport signal, sys\n" + strings.NewReplacer("PROGRAM", fmt.Sprintf("%q", real), "TIMES", fmt.Sprint(times)).Replace(wrapper)
	}
	for _, c := range []struct {
		name, tool, program string
		state               State
		result              Result
		reason              string // of the verdict and, where it failed, of the rejection
	}{
		{"a fixed table", "execsnoop", attach(t) + fixedTable, Down, Failed, "result success, want at least"},
		{"fixed intervals", "cachestat", attach(t) + fixedIntervals, Down, Failed, "want at least"},
		{"half attached", "cachestat", attach(t) + "time.sleep(1)\nraise Exception('no such probe')\n", Down, "", "exit status 1: Exception: no such probe"},
		{"a wrapper", "execsnoop", wrap(1), Up, Passed, "; saw just that"},
		{"each row twice", "execsnoop", wrap(2), Down, Failed, "result success, want at most"},
		{"silence", "execsnoop", attach(t) + "time.sleep(1000)\n", Down, Failed, "saw 0 execs"},
		{"no BPF program", "execsnoop", "#!/usr/bin/python3\n# from bcc import BPF\nimport time\n" + fixedTable, Down, "", "it prints, but has attached no BPF program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			programs := t.TempDir()
			if err := os.WriteFile(filepath.Join(programs, c.tool+"-bpfcc"), []byte(c.program), 0o755); err != nil {
				t.Fatal(err)
			}
			dirs := backend.Dirs
			backend.Dirs = []string{programs}
			t.Cleanup(func() { backend.Dirs = dirs })
			sink := &safeSums{sums: newSums(t)}
			m := startManager(t, nil, sink, func(cfg *Config) { cfg.SelfTest, cfg.Backends = true, []string{"bcc"} }, c.tool)
			eventually(t, "a verdict", func() bool {
				s := status(t, m, c.tool)
				return s.State == c.state && s.SelfTest.Result == c.result
			})
			s := status(t, m, c.tool)
			t.Logf("%s, %s: %s", s.State, s.SelfTest.Result, s.SelfTest.Reason)
			if c.state == Down {
				if len(s.Rejected) != 1 || !strings.Contains(s.Reason, c.reason) || len(sink.text()) > 0 || s.Events > 0 {
					t.Errorf("%s, rejected %v, %d events, samples:\n%s", s.Reason, s.Rejected, s.Events, sink.text())
				}
			} else if !strings.Contains(s.SelfTest.Reason, c.reason) {
				t.Errorf("%s", s.SelfTest.Reason)
			}
			if len(s.SelfTest.Reason) > 0 && strings.Contains(sink.text(), "self") {
				t.Errorf("the self-test is counted:\n%s", sink.text())
			}
		})
	}
}

// A tool that prints a row for each event is stopped during a burst of them and
// runs on; bpftrace, which counts in the kernel, is not.
func TestSelfTestStopsReaders(t *testing.T) {
	libbpfExecsnoop(t)
	needBPFtrace(t)
	for name, stops := range map[string]bool{"libbpf-tools": true, "bpftrace": false} {
		m := startManager(t, nil, &safeSums{sums: newSums(t)}, func(cfg *Config) { cfg.SelfTest, cfg.Backends = true, []string{name} }, "opensnoop")
		eventually(t, "a verdict", func() bool {
			s := status(t, m, "opensnoop")
			return s.State == Up && s.SelfTest.Result == Passed
		})
		// The kernel tells a parent of a child that was stopped and runs on.
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, status(t, m, "opensnoop").PID, &info, unix.WCONTINUED|unix.WNOHANG, nil)
		if stopped := info.Signo != 0; err != nil || stopped != stops {
			t.Errorf("%s: stopped and continued: %v, %v", name, stopped, err)
		}
	}
}

// A source that counts wrong makes room for the next one.
func TestSelfTestChoosesNext(t *testing.T) {
	if testing.Short() {
		t.Skip("runs tools for a while: not with -short")
	}
	needBPFtrace(t)
	programs := t.TempDir()
	write(t, filepath.Join(programs, "execsnoop-bpfcc"), attach(t)+fixedTable)
	if err := os.Chmod(filepath.Join(programs, "execsnoop-bpfcc"), 0o755); err != nil {
		t.Fatal(err)
	}
	dirs := backend.Dirs
	backend.Dirs = append([]string{programs}, dirs...)
	t.Cleanup(func() { backend.Dirs = dirs })
	m := startManager(t, nil, &safeSums{sums: newSums(t)}, func(cfg *Config) { cfg.SelfTest, cfg.Backends = true, []string{"bcc", "bpftrace"} }, "execsnoop")
	eventually(t, "a source serves", m.Ready)
	s := status(t, m, "execsnoop")
	if s.State != Up || s.Source.Backend != "bpftrace" || s.SelfTest.Result != Passed || len(s.Rejected) != 1 || s.Rejected[0].Source.Backend != "bcc" {
		t.Errorf("%s: %+v, rejected %+v", s.State, s.Source, s.Rejected)
	}
}

// A tool that nothing served is served when a program is installed, and has been
// there for two looks.
func TestInstalledLater(t *testing.T) {
	real := libbpfExecsnoop(t)
	dirs := backend.Dirs
	backend.Dirs = []string{t.TempDir()}
	t.Cleanup(func() { backend.Dirs = dirs })
	m := startManager(t, nil, &safeSums{sums: newSums(t)}, func(cfg *Config) { cfg.SelfTest, cfg.Backends = true, []string{"libbpf-tools"} }, "execsnoop")
	eventually(t, "there is no source", func() bool { return status(t, m, "execsnoop").State == Down })
	m.lookAgain()
	if err := os.Symlink(real, filepath.Join(backend.Dirs[0], "execsnoop-libbpf")); err != nil {
		t.Fatal(err)
	}
	m.lookAgain()
	time.Sleep(100 * time.Millisecond)
	if s := status(t, m, "execsnoop"); s.State != Down {
		t.Errorf("%s at the first look", s.State)
	}
	m.lookAgain()
	eventually(t, "what was installed serves", func() bool { return status(t, m, "execsnoop").State == Up })
	if s := status(t, m, "execsnoop"); s.SelfTest.Result != Passed || len(s.Rejected) != 0 {
		t.Errorf("self-test %+v, rejected %+v", s.SelfTest, s.Rejected)
	}
}

// Where a program is replaced, as by an upgrade, its source is started again and
// has to prove anew that it counts right.
func TestUpgrade(t *testing.T) {
	real := libbpfExecsnoop(t)
	content, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	program := filepath.Join(programs, "execsnoop-libbpf")
	install := func(content string) {
		t.Helper()
		if err := os.WriteFile(program+".new", []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
	}
	install(string(content))
	write(t, filepath.Join(programs, "execsnoop-bpfcc"), attach(t)+fixedTable)
	if err := os.Chmod(filepath.Join(programs, "execsnoop-bpfcc"), 0o755); err != nil {
		t.Fatal(err)
	}
	dirs := backend.Dirs
	backend.Dirs = []string{programs}
	t.Cleanup(func() { backend.Dirs = dirs })
	m := startManager(t, nil, &safeSums{sums: newSums(t)}, func(cfg *Config) { cfg.SelfTest, cfg.Backends = true, []string{"libbpf-tools", "bcc"} }, "execsnoop")
	eventually(t, "the tool is up", m.Ready)
	first := status(t, m, "execsnoop")
	if first.State != Up || first.SelfTest.Result != Passed {
		t.Fatalf("%s: %s", first.State, first.Reason)
	}

	install(string(content))
	check := func() { // as every ten seconds
		for _, r := range m.runners() {
			if r.changed() {
				m.reconsider(change{runner: r})
			}
		}
	}
	check()
	time.Sleep(100 * time.Millisecond)
	if status(t, m, "execsnoop").PID != first.PID {
		t.Error("the tool was started again while the upgrade goes on")
	}
	check()
	eventually(t, "the new program serves", func() bool {
		s := status(t, m, "execsnoop")
		return s.State == Up && s.PID != 0 && s.PID != first.PID
	})
	second := status(t, m, "execsnoop")
	if second.SelfTest.Result != Passed || second.SelfTest.Reason == first.SelfTest.Reason || second.Restarts[reasonUpgrade] != 1 {
		t.Errorf("self-test %+v as before, restarts %v", second.SelfTest, second.Restarts)
	}
	if second.UserSeconds+second.SystemSeconds < first.UserSeconds+first.SystemSeconds {
		t.Error("what the first program cost is forgotten")
	}

	// Now a program that does not serve: the tool has no source left, as the
	// other one counts wrong.
	install(string(content[:1000]))
	check()
	check()
	eventually(t, "no source is left", func() bool { return status(t, m, "execsnoop").State == Down })
	s := status(t, m, "execsnoop")
	if len(s.Rejected) != 2 || !strings.Contains(s.Reason, "another program") || !strings.Contains(s.Reason, "bcc: self-test: ran") {
		t.Errorf("%s", s.Reason)
	}
}
