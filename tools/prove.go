package tools

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log/level"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/process"
	"bpf_tools_exporter/tools/selftest"
)

const (
	// gatherTime is how long a run of workloads waits for more sources that
	// want one.
	gatherTime = 100 * time.Millisecond
	// settleTime is how long a source that prints lines is watched after it
	// has shown enough: it must not show more.
	settleTime = 200 * time.Millisecond
	// quietTime is how long a source that prints lines may be silent before
	// it has shown all that it will, beyond the time that it took to attach,
	// which tells how slow the machine is.
	quietTime = 2 * time.Second
)

// A prover makes workloads, for all sources at once that wait for one.
type prover struct {
	own  *ownDoings
	dirs []string // where files may be made

	mu        sync.Mutex
	gathering *round     // that more sources can join, or nil
	turn      sync.Mutex // held by the round that runs
}

// round is one run of workloads.
type round struct {
	members []*member
	readers []*process.Process // that print what they see line by line
	done    chan struct{}      // closed when what follows is there
	plan    *selftest.Plan
	facts   *selftest.Facts
	err     error
	ended   time.Time
}

// run makes the workloads of the members of a runner, together with those of
// others who ask at about the same time.
func (p *prover) run(ctx context.Context, of *runner, members []*member) *round {
	p.mu.Lock()
	r := p.gathering
	leads := r == nil
	if leads {
		r = &round{done: make(chan struct{})}
		p.gathering = r
	}
	r.members = append(r.members, members...)
	if reader := of.reader(); reader != nil {
		r.readers = append(r.readers, reader)
	}
	p.mu.Unlock()
	if leads {
		p.lead(ctx, r)
	}
	<-r.done
	return r
}

// reader is the runner's process if that prints a line for each event, else nil:
// what it has not read yet waits in a buffer of the kernel.
func (r *runner) reader() *process.Process {
	if s := r.members[0].source; s.Backend == backend.BPFtrace || s.Interval > 0 || s.Format == folded {
		return nil
	}
	return r.current().process
}

func (p *prover) lead(ctx context.Context, r *round) {
	defer close(r.done)
	select {
	case <-ctx.Done():
	case <-time.After(gatherTime):
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	p.mu.Lock()
	p.gathering = nil
	members, readers := r.members, r.readers
	p.mu.Unlock()
	var workloads []string
	for _, m := range members {
		if name := m.tool.def.SelfTest.Workload; !slices.Contains(workloads, name) {
			workloads = append(workloads, name)
		}
	}
	r.plan = selftest.NewPlan(workloads, p.dirs)
	p.own.addTest(r.plan.Comm, r.plan.Address, r.plan.Lossy)
	for _, m := range members {
		m.feed.gate.arm(m.tool.def, m.source, m.tool.options, r.plan)
	}
	for _, reader := range readers {
		r.plan.Readers = append(r.plan.Readers, reader.Pid())
		defer reader.Continue() // whatever became of who stopped it
	}
	r.facts, r.err = selftest.Run(ctx, r.plan)
	r.ended = time.Now()
}

// unproven are the members of a runner that have a self-test before them.
func (r *runner) unproven() []*member {
	var all []*member
	for _, m := range r.members {
		if m.feed.gate.shut() {
			all = append(all, m)
		}
	}
	return all
}

// failed are members with what is wrong with them.
type failed map[*member]error

// prove makes the self-test of all unproven members and opens the gates of
// those that pass. A source that fails does it again once: the machine may have
// been at fault. The error is that of a child that ended meanwhile.
func (m *Manager) prove(ctx context.Context, r *runner) (failed, error) {
	members := r.unproven()
	for _, member := range members {
		member.tool.judged(Verdict{Pending, "is being made"})
	}
	var bad failed
	for range 2 {
		if len(members) == 0 {
			return nil, nil
		}
		round := m.prover.run(ctx, r, members)
		bad = make(failed)
		for _, member := range members {
			verdict, err := r.judge(ctx, member, round)
			if err != nil {
				return nil, err
			}
			if why := member.source.Kernel.excludes(runningKernel()); verdict.Result == Skipped && why != "" {
				verdict = Verdict{Failed, why}
			}
			if verdict.Result == Failed {
				bad[member] = errors.New(verdict.Reason)
				continue
			}
			m.trust(r, member, verdict)
		}
		members = members[:0]
		for member := range bad {
			members = append(members, member)
		}
	}
	for member, err := range bad {
		member.tool.judged(Verdict{Failed, err.Error()})
		_ = level.Warn(m.cfg.Logger).Log("msg", "self-test failed, this source counts wrong here", "tool", member.tool.def.Name,
			"backend", member.source.Backend, "version", m.version(member.source.Backend, r.path), "path", r.path, "reason", err)
	}
	return bad, nil
}

// trust lets a member's samples through.
func (m *Manager) trust(r *runner, member *member, v Verdict) {
	t := member.tool
	t.mu.Lock()
	t.selfTest = v
	if t.state == Up && v.Result == Passed {
		_ = level.Info(m.cfg.Logger).Log("msg", "self-test passed", "tool", t.def.Name, "backend", member.source.Backend)
	}
	t.mu.Unlock()
	member.feed.gate.open.Store(true)
	if v.Result != Passed {
		_ = level.Warn(m.cfg.Logger).Log("msg", "self-test cannot be made, the source serves without", "tool", member.tool.def.Name, "backend", member.source.Backend, "reason", v.Reason)
		return
	}
	version := m.version(member.source.Backend, r.path)
	err := m.verdicts.remember(testName(member.tool.def, member.source), record{Program: r.path, Version: version, Time: time.Now().UTC().Truncate(time.Second),
		Digest: testDigest(member.tool.def, member.source, member.tool.options, r.path, version)})
	if err != nil {
		_ = level.Debug(m.cfg.Logger).Log("msg", "the verdict of a self-test is not kept beyond this process", "err", err)
	}
}

func (t *tool) judged(v Verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.selfTest = v
}

// gateFor returns the gate for a source that is to be started: none if it need
// not prove anything.
func (m *Manager) gateFor(t *tool, s *Source, path string) *gate {
	switch {
	case !m.cfg.SelfTest:
		return nil
	case t.def.SelfTest == nil:
		t.judged(Verdict{Skipped, "the definition has no selftest"})
		return nil
	case m.verdicts.knows(testName(t.def, s), testDigest(t.def, s, t.options, path, m.version(s.Backend, path))):
		t.mu.Lock()
		if t.selfTest.Result != Passed {
			t.selfTest = Verdict{Passed, "before, with this kernel, program and definition"}
		}
		t.mu.Unlock()
		return nil
	}
	t.judged(Verdict{Pending, "has not been made yet"})
	return new(gate)
}

// judge waits for what the source has seen of the round and looks at it. The
// error is that of a child that ended meanwhile.
func (r *runner) judge(ctx context.Context, m *member, round *round) (Verdict, error) {
	if ctx.Err() != nil {
		return Verdict{}, ctx.Err()
	}
	c := r.current()
	if !round.made(m) {
		return r.decide(c, m, round), nil
	}
	look := func() (fault string, final bool) {
		_, fault, final = m.look(c, round)
		return fault, final
	}
	if err := c.awaitSeen(ctx, m, round.ended, r.m.canAsk(), look); err != nil {
		return Verdict{}, err
	}
	return r.decide(c, m, round), nil
}

// made tells whether the member's workload could be made.
func (round *round) made(m *member) bool {
	return round.err == nil && round.facts.Failed[m.tool.def.SelfTest.Workload] == ""
}

// look compares what was seen so far with what was done.
func (m *member) look(c *child, round *round) (facts *selftest.Facts, fault string, final bool) {
	workload := m.tool.def.SelfTest.Workload
	facts = round.facts.Bound(c.host, selftest.ReadHost())
	for _, t := range m.feed.gate.tallied() {
		if fault, final = t.judge(selftest.Workloads[workload], facts.Numbers[workload]); fault != "" {
			return facts, fault, final
		}
	}
	return facts, "", false
}

// decide is the verdict on what was seen.
func (r *runner) decide(c *child, m *member, round *round) Verdict {
	workload := m.tool.def.SelfTest.Workload
	if round.err != nil {
		return Verdict{Skipped, round.err.Error()}
	}
	if why := round.facts.Failed[workload]; why != "" {
		return Verdict{Skipped, why}
	}
	facts, fault, _ := m.look(c, round)
	if fault != "" {
		return Verdict{Failed, facts.Did(workload, round.plan) + "; " + fault}
	}
	return Verdict{Passed, facts.Did(workload, round.plan) + "; saw just that"}
}

// awaitSeen waits until the member's source has passed on all that it saw until
// some moment. Look tells what is wrong so far.
func (c *child) awaitSeen(ctx context.Context, m *member, until time.Time, canAsk bool, look func() (fault string, final bool)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var since time.Time // that it is enough, or that something was printed
	for {
		var done bool
		switch {
		case m.source.Backend == backend.BPFtrace && canAsk:
			// An answer is complete. One more is for what the kernel does late.
			if done = c.answerAfter(ctx, until); done {
				if fault, _ := look(); fault != "" {
					done = c.answerAfter(ctx, time.Now().Add(settleTime))
				}
			}
		case m.source.Backend == backend.BPFtrace:
			done = c.lastAnswer().After(until)
		case m.source.Interval > 0:
			// What is printed at once is taken as whole when nothing follows.
			done = lasts(&since, c.printedAfter(until), 2*idle)
		default:
			fault, final := look()
			done = final || lasts(&since, fault == "", settleTime) || c.saidAll(until)
		}
		if done {
			return nil
		}
		select {
		case <-tick.C:
		case <-c.process.Done():
			return c.failure()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answerAfter asks for an answer that is of a later moment.
func (c *child) answerAfter(ctx context.Context, t time.Time) bool {
	select {
	case <-time.After(time.Until(t)):
	case <-ctx.Done():
		return false
	}
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// The first may have been asked for by somebody else, before.
	return c.ask(wait) == nil && c.ask(wait) == nil
}

func (c *child) lastAnswer() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// lasts tells whether a condition has held for so long. It notes since when.
func lasts(since *time.Time, holds bool, d time.Duration) bool {
	switch {
	case !holds:
		*since = time.Time{}
	case since.IsZero():
		*since = time.Now()
	}
	return holds && time.Since(*since) > d
}

// printedAfter tells whether a tool that prints at intervals has printed what
// it saw until t.
func (c *child) printedAfter(t time.Time) bool {
	usage, err := c.process.Usage()
	return err == nil && usage.LastOutput.After(t)
}

// saidAll tells whether a tool that prints lines has had the time to print all
// that it saw until t: it is silent, or prints of other things for long.
func (c *child) saidAll(t time.Time) bool {
	patience := quietTime + c.tookToAttach
	last := t
	if usage, err := c.process.Usage(); err == nil && usage.LastOutput.After(last) {
		last = usage.LastOutput
	}
	return time.Since(last) > patience || time.Since(t) > 5*patience
}

// proveLater makes the self-test of a tool that prints at intervals, while it
// serves already: until then its samples reach nobody.
func (m *Manager) proveLater(ctx context.Context, r *runner) {
	for ctx.Err() == nil {
		bad, err := m.prove(ctx, r)
		for member, why := range bad {
			m.reconsider(change{runner: r, tool: member.tool, err: selfTestError(why)})
		}
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // the child ended, and is started again
		}
	}
}

func selfTestError(why error) error { return fmt.Errorf("self-test: %w", why) }
