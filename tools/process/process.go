package process

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DefaultMaxLine is the line limit in bytes of a Spec that sets none.
	// A keyed histogram of bpftrace is one line of some hundred KiB.
	DefaultMaxLine = 1 << 20
	// DefaultGrace is the grace of a Spec that sets none.
	DefaultGrace = 5 * time.Second

	// drainDelay bounds how long output is read on after the child's death, should a process that left
	// the group hold it open.
	drainDelay = 2 * time.Second
	// oomScoreAdj is what a child's /proc/PID/oom_score_adj is raised to, so that it is killed before
	// this process.
	oomScoreAdj = 500
)

// LineFunc takes one line without its newline. The line is valid only during the call. Truncated lines
// had more than Spec.MaxLine bytes; the rest is dropped.
//
// Reading stops while a LineFunc runs. It may call Kill, but neither Stop nor Exit, which wait for it.
type LineFunc = func(line []byte, truncated bool)

// Spec says what to start and how to treat it.
type Spec struct {
	Path string   // absolute path of the program
	Args []string // without argv[0], which is Path
	Env  []string // the whole environment; nothing is inherited. DefaultEnv has what most tools need

	// Stdin is what the program reads on its stdin, nothing by default.
	Stdin string

	// PTY makes stdout a pseudo-terminal in raw mode, for programs that hold output back on a pipe, as
	// libbpf-tools do, 4 KiB of it. stderr is always a pipe of its own.
	PTY bool

	// MaxLine is the limit of a line, in bytes. Longer lines are delivered cut to it and marked as
	// truncated. 0 means DefaultMaxLine.
	MaxLine int

	// Grace is the time from Stop's SIGINT to its SIGKILL. 0 means DefaultGrace.
	Grace time.Duration

	// Stdout and Stderr take the lines, each called serially from one goroutine of its own.
	// Output is read to its end even where they are nil.
	Stdout LineFunc
	Stderr LineFunc
}

// DefaultEnv returns an environment of fixed search path, locale, time zone and home, new at each call.
// TZ is set because libbpf-tools' opensnoop without it opens /etc/localtime for every event it sees.
func DefaultEnv() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=/"}
}

// Process is a started child. Its methods are safe for concurrent use.
type Process struct {
	spec     Spec
	pid      int
	started  time.Time
	stdout   source
	stderr   source
	stopping atomic.Bool
	done     chan struct{}
	exit     Exit // written before done is closed

	// mu is held wherever pid is used: until the child is reaped, its number cannot be another's.
	mu     sync.Mutex
	reaped bool
	state  *os.ProcessState // nil until reaped
}

// Start starts the program of spec. The error is that of the pipe, the pseudo-terminal or execve(2).
// The Process needs no closing; its resources are released when it is done.
func Start(spec Spec) (*Process, error) {
	spec, err := checked(spec)
	if err != nil {
		return nil, err
	}
	ends, err := openStdio(spec.Stdin, spec.PTY)
	if err != nil {
		return nil, err
	}
	p := &Process{spec: spec, done: make(chan struct{})}
	p.stdout.file, p.stderr.file = ends.stdout, ends.stderr
	started := make(chan error)
	go p.supervise(ends.child, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// checked returns spec with its defaults filled in.
func checked(spec Spec) (Spec, error) {
	if !filepath.IsAbs(spec.Path) {
		return spec, fmt.Errorf("program %q: path is not absolute", spec.Path)
	}
	if spec.MaxLine < 0 {
		return spec, fmt.Errorf("program %q: negative line limit %d", spec.Path, spec.MaxLine)
	}
	if spec.MaxLine == 0 {
		spec.MaxLine = DefaultMaxLine
	}
	if spec.Grace <= 0 {
		spec.Grace = DefaultGrace
	}
	spec.Args = slices.Clone(spec.Args)
	// Not nil: os.StartProcess takes nil for this process's own environment.
	spec.Env = append([]string{}, spec.Env...)
	return spec, nil
}

// supervise starts the child, tells started how that went, and sees the child to its end.
//
// It keeps its thread throughout: the kernel sends Pdeathsig when the thread that forked dies, and Go
// ends threads as it likes (golang/go#27505).
func (p *Process) supervise(stdio []*os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer closeAll(p.stdout.file, p.stderr.file)

	child, err := p.fork(stdio)
	closeAll(stdio...)
	started <- err
	if err != nil {
		return
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.stdout.readLines(p.spec.MaxLine, p.spec.Stdout) })
	readers.Go(func() { p.stderr.readLines(p.spec.MaxLine, p.spec.Stderr) })

	awaitDeath(p.pid)
	p.reap(child)
	p.exit = exitOf(p.state, time.Since(p.started))
	p.stdout.endBy(time.Now().Add(drainDelay))
	p.stderr.endBy(time.Now().Add(drainDelay))
	readers.Wait()
	p.exit.OutputCut = p.stdout.cut || p.stderr.cut
	close(p.done)
}

func (p *Process) fork(stdio []*os.File) (*os.Process, error) {
	catchIgnoredInterrupt()
	keepFiles()
	child, err := os.StartProcess(p.spec.Path, append([]string{p.spec.Path}, p.spec.Args...), &os.ProcAttr{
		Dir:   "/",
		Env:   p.spec.Env,
		Files: stdio,
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return nil, err
	}
	p.pid, p.started = child.Pid, time.Now()
	raiseOOMScore(p.pid)
	return child, nil
}

// keepFiles keeps what this process has inherited open from going on to the child: Go's own files are
// closed at execve(2), those of whoever started this process need not be. Before Linux 5.11 they go on.
func keepFiles() {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// catchIgnoredInterrupt catches SIGINT and drops it if it was ignored so far, as in the background job of a
// script: ignored signals stay so across execve(2), caught ones do not. It stays caught, or a Start beside
// this one could fork while it is ignored again.
func catchIgnoredInterrupt() {
	if signal.Ignored(unix.SIGINT) {
		signal.Notify(make(chan os.Signal, 1), unix.SIGINT)
	}
}

// raiseOOMScore leaves a score alone that is higher already, as in a best-effort container.
// It is a courtesy: on an error the child lives with the score that it inherited.
func raiseOOMScore(pid int) {
	name := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return
	}
	if score, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && score < oomScoreAdj {
		_ = os.WriteFile(name, []byte(strconv.Itoa(oomScoreAdj)), 0)
	}
}

// awaitDeath returns when the child is dead, and leaves it to be reaped.
func awaitDeath(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// reap kills what is left of the group before it reaps the child: until then the group's number is ours.
func (p *Process) reap(child *os.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	p.state, _ = child.Wait()
	p.reaped = true
}

// Pid returns the child's process ID, which is also its process group's.
func (p *Process) Pid() int { return p.pid }

// Done returns a channel that is closed when the child is reaped and all its output is delivered.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit waits for Done and returns how the child ended.
func (p *Process) Exit() Exit {
	<-p.done
	return p.exit
}

// AddGrace gives the child more time to end than its Spec does. It is for before Stop.
func (p *Process) AddGrace(d time.Duration) { p.spec.Grace += d }

// Stop ends the child's process group and returns when it is done: by SIGINT, by SIGINT again after half
// of the grace, because bcc and bpftrace lose one now and then, and by SIGKILL at the end of the grace or
// of ctx. It may be called at any time and more than once; the group is interrupted only by the first call.
func (p *Process) Stop(ctx context.Context) Exit {
	if p.stopping.CompareAndSwap(false, true) {
		p.interrupt(ctx)
		p.Kill()
	}
	select {
	case <-ctx.Done():
		p.Kill()
	case <-p.done:
	}
	return p.Exit()
}

// interrupt returns when the child is done, or has had its grace.
func (p *Process) interrupt(ctx context.Context) {
	for range 2 {
		p.signal(unix.SIGINT)
		select {
		case <-p.done:
			return
		case <-ctx.Done():
			return
		case <-time.After(p.spec.Grace / 2):
		}
	}
}

// Kill sends SIGKILL to the child's process group and does not wait.
func (p *Process) Kill() { p.signal(unix.SIGKILL) }

// Continue has the group run on if it was stopped (SIGCONT).
func (p *Process) Continue() { p.signal(unix.SIGCONT) }

func (p *Process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return
	}
	if unix.Kill(-p.pid, sig) == unix.ESRCH {
		// The child has moved to another group.
		_ = unix.Kill(p.pid, sig)
	}
}
