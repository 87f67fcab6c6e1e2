package tools

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-kit/log/level"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/process"
	"bpf_tools_exporter/tools/selftest"
)

// The reasons for which a child is started again, as bpf_tool_restarts_total
// has them.
const (
	reasonExit    = "exit"    // it ended by itself, or somebody killed it
	reasonHang    = "hang"    // it did not answer, or did not print what it should
	reasonFlood   = "flood"   // it printed more than anything it measures accounts for
	reasonCPU     = "cpu"     // it took more than --tools.cpu-limit
	reasonMemory  = "memory"  // it took more than --tools.memory-limit
	reasonUpgrade = "upgrade" // its program was replaced
)

// restartReasons are all of them. A tool has each from its start on: what first
// appears with a 1 is no increase to Prometheus.
var restartReasons = []string{reasonExit, reasonHang, reasonFlood, reasonCPU, reasonMemory, reasonUpgrade}

const (
	// hangAfter is how long a bpftrace may leave requests unanswered.
	hangAfter = 30 * time.Second
	// floodRate bounds the bytes a second that a tool prints, over a check.
	floodRate = 32 << 20
	// steadyAfter is how long a child runs until its faults are forgiven.
	steadyAfter = time.Minute
	// limitPause is how long a tool that exceeded a limit stays stopped.
	limitPause = 5 * time.Minute
)

// A runner keeps one child running: the bpftrace of several tools, or the
// program of one.
type runner struct {
	m       *Manager
	members []*member
	path    string
	file    backend.Identity // of path, when it was found
	spec    *bpftraceSpec    // of a bpftrace
	seen    backend.Identity // of path, at the last check; of the watching goroutine
	backoff process.Backoff
	over    context.CancelFunc // ends keep
	done    chan struct{}      // closed at the end of keep

	mu    sync.Mutex
	child *child
	past  process.Usage      // of the children before
	bpf   map[string]float64 // estimated run time of BPF programs in seconds, by tool
	maps  uint64             // bytes of BPF maps
	fault string             // why the child was killed, "" if it was not

	read   process.Usage // of the child, at readAt
	readAt time.Time

	checked      time.Time
	cpuAt, outAt float64
	cpuSince     time.Time
}

func (m *Manager) newRunner(tools []*tool, path string) *runner {
	r := &runner{m: m, path: path, backoff: process.Backoff{Min: 250 * time.Millisecond, Max: m.cfg.RestartMaxDelay}, bpf: make(map[string]float64), done: make(chan struct{})}
	r.file = backend.Identify(path)
	r.spec, _ = m.bpftrace()
	r.seen = r.file
	for _, t := range tools {
		member := newMember(t, t.first().source, m.cfg.Sink, m.own)
		member.feed.gate = m.gateFor(t, member.source, path)
		r.members = append(r.members, member)
	}
	return r
}

func (r *runner) tools() []*tool {
	all := make([]*tool, len(r.members))
	for i, member := range r.members {
		all[i] = member.tool
	}
	return all
}

func (r *runner) shared() bool { return r.members[0].source.Backend == backend.BPFtrace }

// attach starts the child and records that it serves. On error the child is
// gone.
func (r *runner) attach(ctx context.Context) error {
	if err := r.try(ctx); err != nil {
		return err
	}
	r.up(r.current())
	return nil
}

// try starts the child and waits until it sees events. On error the child is
// gone.
func (r *runner) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.m.cfg.AttachTimeout)
	defer cancel()
	for _, member := range r.members {
		member.feed.reset()
	}
	var host selftest.Host
	if len(r.unproven()) > 0 {
		host = selftest.ReadHost()
	}
	c, err := r.start()
	if err != nil {
		return err
	}
	c.host = host
	r.mu.Lock()
	r.child, r.fault, r.readAt = c, "", time.Time{}
	r.checked, r.cpuAt, r.outAt, r.cpuSince = time.Now(), 0, 0, time.Now()
	r.mu.Unlock()
	if r.shared() {
		err = c.awaitBPFtrace(ctx, r.m.canAsk())
	} else {
		err = c.awaitText(ctx)
	}
	if err != nil {
		stop, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		r.stopChild(stop)
		return err
	}
	// What takes long to attach takes long to detach, before its last values are
	// printed, and to look symbols up.
	c.process.AddGrace(c.tookToAttach)
	return nil
}

func (r *runner) current() *child {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.child
}

func (r *runner) start() (*child, error) {
	interest := func(p *process.Process) { r.m.started(r, p) }
	if r.shared() {
		return startBPFtrace(*r.spec, r.members, interest)
	}
	return startText(r.members[0], r.path, interest)
}

// up records that the child serves.
func (r *runner) up(c *child) {
	// The clean pages of LLVM, of no use once the scripts are attached.
	if err := c.process.ReclaimFilePages(); err != nil {
		_ = level.Debug(r.m.cfg.Logger).Log("msg", "pages of the tool's program stay in memory", "path", r.path, "err", err)
	}
	usage := readBPF(c.process.Pid())
	r.mu.Lock()
	r.maps = usage.mapBytes
	r.mu.Unlock()
	version := r.m.version(r.members[0].source.Backend, r.path)
	for _, member := range r.members {
		t := member.tool
		t.mu.Lock()
		if t.state != Up {
			_ = level.Info(r.m.cfg.Logger).Log("msg", "tool is up", "tool", t.def.Name, "backend", member.source.Backend, "version", version, "path", r.path, "pid", c.process.Pid(), "selftest", t.selfTest.Result)
		}
		t.state, t.reason, t.source, t.version, t.path = Up, "", member.source, version, r.path
		t.mu.Unlock()
	}
	if r.shared() {
		r.m.mu.Lock()
		r.m.shared = c
		r.m.mu.Unlock()
	}
}

// version is that of a program's package, or what the program says of itself,
// asked for once.
func (m *Manager) version(of, path string) string {
	m.mu.Lock()
	if m.spec != nil && path == m.spec.path {
		defer m.mu.Unlock()
		return m.spec.version.String()
	}
	known, ok := m.paths[path]
	m.mu.Unlock()
	if ok {
		return known
	}
	version := backend.PackageVersion(path)
	if version == "" {
		version = backend.ProgramVersion(of, path)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.paths == nil {
		m.paths = make(map[string]string)
	}
	m.paths[path] = version
	return version
}

// keep starts the child again whenever it ends, until ctx or the runner does.
func (r *runner) keep(ctx context.Context) {
	defer close(r.done)
	for {
		select {
		case <-ctx.Done():
			r.stopChild(context.Background())
			return
		case <-r.current().process.Done():
		}
		if !r.restart(ctx) {
			return
		}
	}
}

// restart waits and attaches again, as often as it takes.
func (r *runner) restart(ctx context.Context) bool {
	reason, why := r.whyEnded()
	r.retire()
	if r.failsItself(reason) {
		r.m.reconsider(change{runner: r, tool: r.members[0].tool, err: why})
		return false
	}
	for {
		if time.Since(r.current().started) > steadyAfter {
			r.backoff.Reset()
		}
		r.down(reason, why)
		delay := r.backoff.Next()
		if reason == reasonCPU || reason == reasonMemory || reason == reasonFlood {
			delay = limitPause
		}
		_ = level.Warn(r.m.cfg.Logger).Log("msg", "tool ended, starting it again", "path", r.path, "reason", reason, "err", why, "in", delay.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return false
		case <-time.After(delay):
		}
		if backend.Identify(r.path) != r.file {
			r.m.reconsider(change{runner: r})
			return false
		}
		err := r.attach(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		reason, why = reasonExit, err
	}
}

// failsItself tells whether a program that serves one tool has ended with an
// error before it proved itself, as some of bcc do that attach a few of their
// probes and find the next missing.
func (r *runner) failsItself(reason string) bool {
	exit := r.current().process.Exit()
	return !r.shared() && len(r.unproven()) > 0 && reason == reasonExit && exit.Signal == 0 && exit.Code != 0
}

func (r *runner) whyEnded() (string, error) {
	r.mu.Lock()
	fault := r.fault
	r.mu.Unlock()
	if fault != "" {
		return fault, errors.New(fault)
	}
	return reasonExit, r.current().failure()
}

// down counts a restart for each tool.
func (r *runner) down(reason string, why error) {
	for _, member := range r.members {
		t := member.tool
		t.mu.Lock()
		t.state, t.reason = Starting, r.path+": "+why.Error()
		t.restarts[reason]++
		t.mu.Unlock()
	}
}

// stopChild ends the child and takes its last output.
func (r *runner) stopChild(ctx context.Context) {
	r.mu.Lock()
	c := r.child
	gone := c == nil || c.retired
	r.mu.Unlock()
	if gone {
		return
	}
	c.process.Stop(ctx)
	r.retire()
}

// retire settles the accounts of a child that is gone.
func (r *runner) retire() {
	c := r.current()
	<-c.process.Done()
	c.flush()
	r.m.ended(c.process)
	r.m.mu.Lock()
	if r.m.shared == c {
		r.m.shared = nil
	}
	r.m.mu.Unlock()
	last, _ := c.process.Usage()
	r.mu.Lock()
	defer r.mu.Unlock()
	c.retired = true
	r.past.UserSeconds += last.UserSeconds
	r.past.SystemSeconds += last.SystemSeconds
	if !last.LastOutput.IsZero() {
		r.past.LastOutput = last.LastOutput
	}
	r.maps = 0
}

// end stops the runner for good.
func (r *runner) end() {
	if r.over != nil {
		r.over()
		<-r.done
	}
}

// kill ends a child that misbehaves.
func (r *runner) kill(fault string) {
	r.mu.Lock()
	r.fault = fault
	r.mu.Unlock()
	r.current().process.Kill()
}

// cost adds what the runner's children have taken. A child that serves several
// tools is shared out evenly.
func (r *runner) cost(s *Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var now process.Usage
	if !r.child.retired {
		now, s.PID = r.usageNow(), r.child.process.Pid()
	}
	share := 1 / float64(len(r.members))
	s.UserSeconds = (r.past.UserSeconds + now.UserSeconds) * share
	s.SystemSeconds = (r.past.SystemSeconds + now.SystemSeconds) * share
	s.BPFSeconds = r.bpf[s.Definition.Name]
	s.ResidentBytes = uint64(float64(now.ResidentBytes) * share)
	s.MapBytes = uint64(float64(r.maps) * share)
	s.LastOutput = now.LastOutput
	if s.LastOutput.IsZero() {
		s.LastOutput = r.past.LastOutput
	}
}

// usageNow reads the child's usage once for all its tools.
func (r *runner) usageNow() process.Usage {
	if time.Since(r.readAt) > 100*time.Millisecond {
		if usage, err := r.child.process.Usage(); err == nil {
			r.read, r.readAt = usage, time.Now()
		}
	}
	return r.read
}
