package tools

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/go-kit/log/level"
	"golang.org/x/sys/unix"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/output"
	"bpf_tools_exporter/tools/process"
)

// A RunSpec says what to run on demand.
type RunSpec struct {
	Tool string
	// Duration is counted from when the tool sees events.
	Duration time.Duration
	// Options replace those of the flags, by name. Only a tool of mode
	// on-demand takes any.
	Options map[string]string
}

// A RunSink takes what a run yields. Its methods are safe for concurrent use and
// do not keep their arguments.
type RunSink interface {
	Sink
	// Started says what serves, once it sees events.
	Started(RunSource)
	// Stack takes a sampled stack, whose Keys are comm and pid.
	Stack(output.Stack)
	Event(Event)
	// Tick ends an interval of about a second: the samples until then came
	// within it.
	Tick()
}

// A RunSource is what serves a run.
type RunSource struct {
	Source  *Source
	Version string
	Path    string
}

// RunCounts is what a run's tool says, or is known, not to have delivered.
type RunCounts struct {
	Lost, ParseErrors uint64
}

// ErrCannotRun is wrapped by the error for a tool that no source on this host
// can serve now.
var ErrCannotRun = errors.New("cannot run here")

// runTick is how long an interval of a run is.
const runTick = time.Second

// CanRun tells why a tool cannot run on demand, if that is known before it is
// tried. The error wraps [ErrCannotRun].
func (m *Manager) CanRun(name string) error {
	t := m.byName[name]
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.def.OnDemand() && !t.enabled:
		return fmt.Errorf("%s %w: --collector.%s allows it", name, ErrCannotRun, name)
	case t.enabled && t.state == Down:
		return fmt.Errorf("%s %w: %s", name, ErrCannotRun, t.reason)
	}
	return nil
}

// Run runs a tool for a while and returns when its process is gone, at the
// latest a grace after the duration or the end of ctx. A tool that runs all the
// time is looked at instead: no process is started for it. What a run of mode
// on-demand counts goes to the manager's sink, too.
func (m *Manager) Run(ctx context.Context, spec RunSpec, sink RunSink) (RunCounts, error) {
	t := m.byName[spec.Tool]
	if t == nil {
		return RunCounts{}, fmt.Errorf("no such tool: %s", spec.Tool)
	}
	select {
	case <-m.found:
	case <-ctx.Done():
		return RunCounts{}, context.Cause(ctx)
	}
	if err := m.CanRun(spec.Tool); err != nil {
		return RunCounts{}, err
	}
	if t.enabled && !t.def.OnDemand() {
		return m.look(ctx, t, spec.Duration, sink)
	}
	return m.runOwn(ctx, t, spec, sink)
}

// look passes on what a tool that runs anyway sees from now on.
func (m *Manager) look(ctx context.Context, t *tool, d time.Duration, sink RunSink) (RunCounts, error) {
	s := t.status()
	if s.State != Up {
		return RunCounts{}, fmt.Errorf("%s %w: it is %s: %s", t.def.Name, ErrCannotRun, s.State, s.Reason)
	}
	m.refreshFor(ctx, runTick)
	if t.ring != nil {
		events, stop := t.ring.Follow()
		passed := make(chan struct{})
		go func() {
			defer close(passed)
			for e := range events {
				sink.Event(e)
			}
		}()
		defer func() { stop(); <-passed }()
	}
	defer m.taps.add(t.def.Name, sink)()
	sink.Started(RunSource{Source: s.Source, Version: s.Version, Path: s.Path})
	err := m.await(ctx, d, nil, func() {
		m.refreshFor(ctx, runTick)
		sink.Tick()
	})
	now := t.status()
	return RunCounts{Lost: now.EventsLost - s.EventsLost, ParseErrors: now.ParseErrors - s.ParseErrors}, err
}

func (m *Manager) refreshFor(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	m.Refresh(ctx)
}

// await calls tick each second, and at the end of the duration. It returns early
// with an error when ctx ends, or the process does, which may be nil.
func (m *Manager) await(ctx context.Context, d time.Duration, p *process.Process, tick func()) error {
	var gone <-chan struct{}
	if p != nil {
		gone = p.Done()
	}
	end := time.NewTimer(d)
	defer end.Stop()
	ticker := time.NewTicker(runTick)
	defer ticker.Stop()
	for began := time.Now(); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-gone:
			return errEnded
		case <-end.C:
			tick()
			return nil
		case <-ticker.C:
			// The last interval ends with the run, not a moment before.
			if d-time.Since(began) > runTick/2 {
				tick()
			}
		}
	}
}

// errEnded says that the tool ended before its time.
var errEnded = errors.New("the tool ended by itself")

// runOwn runs a tool in a process of its own, from the first source that
// attaches.
func (m *Manager) runOwn(ctx context.Context, t *tool, spec RunSpec, sink RunSink) (RunCounts, error) {
	options := maps.Clone(m.cfg.Options[t.def.Name])
	if options == nil {
		options = make(map[string]string)
	}
	maps.Copy(options, spec.Options)
	candidates, why := m.runCandidates(t, options)
	for _, c := range candidates {
		r, one := m.newRun(t, c, options, sink)
		if err := r.try(ctx); err != nil {
			if ctx.Err() != nil {
				return RunCounts{}, context.Cause(ctx)
			}
			why = err
			t.rejectOnce(c.source, err.Error())
			continue
		}
		t.runBegins(r, c.source, m.version(c.source.Backend, c.path))
		defer t.runEnds(r, one)
		sink.Started(RunSource{Source: c.source, Version: m.version(c.source.Backend, c.path), Path: c.path})
		err := m.serveRun(ctx, r, spec.Duration, sink)
		return RunCounts{Lost: one.counters.lost.Load(), ParseErrors: one.counters.parseErrors.Load()}, err
	}
	return RunCounts{}, fmt.Errorf("%s %w: %w", t.def.Name, ErrCannotRun, why)
}

// runCandidates are the sources to try: those that have not failed before, or
// else the others, as what was wrong may be over. Without any, the error says
// why.
func (m *Manager) runCandidates(t *tool, options map[string]string) (candidates []*candidate, why error) {
	release, _ := backend.KernelRelease()
	kernel, _ := backend.ParseVersion(release)
	var failed []*candidate
	why = errors.New("no source is allowed by --tools.backends and the options")
	for _, s := range m.orderedFor(t.def, options) {
		path, reason := m.usable(t.def, s, kernel)
		if reason == "" {
			reason = s.Kernel.excludes(kernel) // a run proves nothing
		}
		switch {
		case reason != "":
			why = fmt.Errorf("%s: %s", s.Backend, reason)
		case t.hasRejected(s):
			failed = append(failed, &candidate{source: s, path: path})
		default:
			candidates = append(candidates, &candidate{source: s, path: path})
		}
	}
	if len(candidates) == 0 {
		return failed, why
	}
	return candidates, why
}

// newRun prepares a process for one run. The tool it serves is a copy, so that
// counts and events of this run are told from others.
func (m *Manager) newRun(t *tool, c *candidate, options map[string]string, sink RunSink) (*runner, *tool) {
	one := &tool{def: t.def, options: options, restarts: make(map[string]uint64)}
	if t.def.HasEvents() {
		one.ring = NewRing(1)
		one.ring.tell = sink.Event
	}
	spec, _ := m.bpftrace()
	r := &runner{m: m, path: c.path, spec: spec, bpf: make(map[string]float64), done: make(chan struct{})}
	serving := newMember(one, c.source, &both{m.cfg.Sink, sink}, m.own)
	serving.feed.stacks = sink.Stack
	r.members = []*member{serving}
	return r, one
}

// both is a sink of two.
type both struct{ first, second Sink }

// Sample implements [Sink].
func (b *both) Sample(tool string, s Sample) {
	b.first.Sample(tool, s)
	b.second.Sample(tool, s)
}

// serveRun keeps an attached process for the duration and takes what it prints
// at its end.
func (m *Manager) serveRun(ctx context.Context, r *runner, d time.Duration, sink RunSink) error {
	c := r.current()
	if err := c.process.ReclaimFilePages(); err != nil {
		_ = level.Debug(m.cfg.Logger).Log("msg", "pages of the tool's program stay in memory", "path", r.path, "err", err)
	}
	err := m.await(ctx, d, c.process, func() {
		if c.answers && m.canAsk() {
			wait, cancel := context.WithTimeout(ctx, runTick)
			defer cancel()
			_ = c.ask(wait)
		}
		sink.Tick()
	})
	stop := context.Background()
	switch {
	case err == errEnded:
		_, err = r.whyEnded()
	case err != nil:
		// Nobody waits for the result.
		var cancel context.CancelFunc
		stop, cancel = context.WithTimeout(stop, grace)
		defer cancel()
	}
	yieldsAtEnd := c.members[0].source.yieldsAtEnd()
	r.stopChild(stop)
	if exit := c.process.Exit(); err == nil && yieldsAtEnd && exit.Signal == unix.SIGKILL {
		err = fmt.Errorf("%s: it did not print its stacks within %s", exit, stacksGrace+c.tookToAttach.Round(time.Second))
	}
	feed := c.members[0].feed
	feed.takeEnd()
	if c.endStacks != nil {
		feed.takeStacks(c.endStacks)
		c.endStacks = nil
	}
	sink.Tick()
	return err
}

// yieldsAtEnd tells whether all that the source yields comes when it is stopped.
func (s *Source) yieldsAtEnd() bool { return s.Stacks != nil || s.Format == folded }

// spent is what runners and runs that are over have taken.
type spent struct {
	user, system, bpf float64
	last              time.Time // of output
}

func (s *spent) addTo(status *Status) {
	status.UserSeconds += s.user
	status.SystemSeconds += s.system
	status.BPFSeconds += s.bpf
	if status.LastOutput.IsZero() {
		status.LastOutput = s.last
	}
}

func (t *tool) setState(s State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state, t.reason = s, ""
}

func (t *tool) hasRejected(s *Source) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.rejected {
		if r.Source == s {
			return true
		}
	}
	return false
}

// rejectOnce records the last reason why a source did not serve.
func (t *tool) rejectOnce(s *Source, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.rejected {
		if t.rejected[i].Source == s {
			t.rejected[i].Reason = why
			return
		}
	}
	t.rejected = append(t.rejected, Rejection{Source: s, Reason: why})
}

func (t *tool) runBegins(r *runner, s *Source, version string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs++
	t.runner, t.source, t.version, t.path = r, s, version, r.path
	if t.def.OnDemand() {
		t.state, t.reason = Up, ""
	}
	for i := range t.rejected {
		if t.rejected[i].Source == s {
			t.rejected = append(t.rejected[:i], t.rejected[i+1:]...)
			break
		}
	}
}

// runEnds adds the accounts of a run to those of its tool.
func (t *tool) runEnds(r *runner, one *tool) {
	t.counters.events.Add(one.counters.events.Load())
	t.counters.lost.Add(one.counters.lost.Load())
	t.counters.parseErrors.Add(one.counters.parseErrors.Load())
	t.counters.notShown.Add(one.counters.notShown.Load())
	r.mu.Lock()
	past, bpf := r.past, r.bpf[t.def.Name]
	r.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs--
	t.spent.user += past.UserSeconds
	t.spent.system += past.SystemSeconds
	t.spent.bpf += bpf
	if t.runner == r {
		t.runner = nil
	}
	if t.runs == 0 && t.def.OnDemand() {
		t.state = Idle
	}
}
