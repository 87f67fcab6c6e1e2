package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long a started exporter is left alone: two seconds after the
// start it samples the run time of BPF programs for a second, which costs.
const settle = 3500 * time.Millisecond

// needBench is needLive for benchmarks, which are never part of CI.
func needBench(b *testing.B) {
	b.Helper()
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	if _, err := exec.LookPath("bpftrace"); err != nil {
		b.Skip("needs bpftrace (make deps)")
	}
}

// within waits until check finds no fault any more.
func within(b *testing.B, d time.Duration, what string, check func() error) {
	b.Helper()
	for deadline := time.Now().Add(d); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("not within %s: %s: %v", d, what, err)
		}
	}
}

// A tracer is a running program that costs something: an exporter with its
// bpftrace, or a bare tool.
type tracer struct {
	exporter
	bpftrace int // the process with the programs: the child, or a tool itself
}

// benchExporter runs the exporter and waits until it is ready and has settled.
func benchExporter(b *testing.B, args ...string) *tracer {
	b.Helper()
	address := benchAddress(b)
	t := startTracer(b, append([]string{benchBinary(b), "--web.listen-address=" + address, "--log.level=warn"}, args...)...)
	t.url = "http://" + address
	within(b, time.Minute, "the exporter is ready", func() error {
		_, err := t.get("/-/ready")
		return err
	})
	for _, p := range descendants(t.pid) {
		if p.comm == "bpftrace" {
			t.bpftrace = p.pid
		}
	}
	if t.bpftrace == t.pid {
		b.Fatalf("the exporter runs no bpftrace\n%s", t.log)
	}
	time.Sleep(settle)
	return t
}

// benchBinary is buildExporter for benchmarks, with the flags of "make build".
func benchBinary(b *testing.B) string {
	b.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "bpf_tools_exporter-bench-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "bpf_tools_exporter")
		build := exec.Command(filepath.Join(runtime.GOROOT(), "bin", "go"), "build", "-trimpath", "-ldflags", "-s -w", "-o", built.path, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		b.Fatal(built.err)
	}
	return built.path
}

// startTracer runs a program. A reader takes all that it prints, as it would at
// the end of a pipe.
func startTracer(b *testing.B, argv ...string) *tracer {
	b.Helper()
	t := &tracer{exporter: exporter{cmd: exec.Command(argv[0], argv[1:]...), log: new(logBuffer), done: make(chan struct{})}}
	t.cmd.Stderr = t.log
	t.cmd.Env = append(os.Environ(), "TMPDIR="+b.TempDir())
	stdout, err := t.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGINT}
	started := make(chan error)
	go func() {
		// The parent-death signal comes at the death of the thread that forked.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := t.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, stdout)
		_ = t.cmd.Wait() // interrupted tools end with any status
		close(t.done)
	}()
	if err := <-started; err != nil {
		b.Fatal(err)
	}
	t.pid, t.bpftrace = t.cmd.Process.Pid, t.cmd.Process.Pid
	b.Cleanup(t.end)
	return t
}

// end interrupts the program, which all tools and the exporter understand, and
// waits until it is gone.
func (t *tracer) end() {
	_ = t.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-t.done:
	case <-time.After(stopTimeout):
		_ = t.cmd.Process.Kill()
		<-t.done
	}
}

// startBare runs a tool and waits until its programs have seen the work.
func startBare(b *testing.B, work func(n int) error, argv ...string) *tracer {
	b.Helper()
	t := startTracer(b, argv...)
	within(b, 30*time.Second, argv[0]+" sees events", func() error {
		select {
		case <-t.done:
			b.Fatalf("%s ended\n%s", argv, t.log)
		default:
		}
		if spent, _ := bpfWindow(b, t.bpftrace, nil, func() error { return work(1) }); spent.runs == 0 {
			return errors.New("no program ran")
		}
		return nil
	})
	time.Sleep(300 * time.Millisecond) // for programs that are attached later
	return t
}

func benchAddress(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// cpuTime is the time that all threads of a process ran, to the nanosecond:
// its CPU clock, whose id MAKE_PROCESS_CPUCLOCK of include/linux/posix-timers.h
// makes of the pid.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	const schedClock = 2
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &at); err != nil {
		b.Fatalf("CPU clock of process %d: %v", pid, err)
	}
	return time.Duration(at.Nano())
}

// userTime is the part of cpuTime in user space: field 14 of /proc/PID/stat, in
// hundredths of a second.
func userTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks, err := strconv.Atoi(fields[11])
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// residentMiB is the resident memory of a process and its proportional share
// of it, from /proc/PID/smaps_rollup.
func residentMiB(b *testing.B, pid int) (rss, pss float64) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "Rss:":
			rss = kib / 1024
		case "Pss:":
			pss = kib / 1024
		}
	}
	return rss, pss
}

func median[T float64 | time.Duration](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}
