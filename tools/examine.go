package tools

import (
	"context"
	"errors"
	"strings"
	"sync"

	"bpf_tools_exporter/tools/backend"
)

// Examined is what came of trying one source of a tool.
type Examined struct {
	Tool    *Definition
	Source  *Source
	Outcome Outcome
	// Reason says why the source does not work.
	Reason   string
	SelfTest Verdict
	Path     string
	Version  string

	one *tool // that the source serves while it is tried
}

// Outcome of an examination.
type Outcome string

// The outcomes of examinations.
const (
	Works        Outcome = "works"
	Fails        Outcome = "fails"
	NotInstalled Outcome = "not installed"
)

// Bounds of what is tried at a time: a tool of bcc takes as much memory as a
// bpftrace, and compiles.
const (
	libbpfAtOnce = 4
	bccAtOnce    = 2
)

// Examine tries every source of every tool of the catalogue that the options
// admit, and has those that attach prove that they count right. The manager must
// not have been started. The results are by tool, and then in the order of the
// definition; all that was started is gone.
func (m *Manager) Examine(ctx context.Context) []*Examined {
	m.findBPFtrace()
	kernel := runningKernel()
	var all, shared []*Examined
	slots := map[string]chan struct{}{backend.BPFtrace: make(chan struct{}, 1), backend.Libbpf: make(chan struct{}, libbpfAtOnce), backend.BCC: make(chan struct{}, bccAtOnce)}
	var wait sync.WaitGroup
	for _, t := range m.tools {
		for _, s := range t.def.Sources {
			if !wanted(t.def, s, t.options) {
				continue
			}
			e := &Examined{Tool: t.def, Source: s}
			all = append(all, e)
			path, why := m.usable(t.def, s, kernel)
			if why != "" {
				e.fail(why)
				continue
			}
			e.Path = path
			e.one = &tool{def: t.def, options: t.options, enabled: true, restarts: make(map[string]uint64), candidates: []*candidate{{source: s, path: path}}}
			if s.Backend == backend.BPFtrace && !t.def.OnDemand() {
				shared = append(shared, e)
				continue
			}
			wait.Go(func() {
				slot := slots[s.Backend]
				slot <- struct{}{}
				defer func() { <-slot }()
				m.examineAlone(ctx, e)
			})
		}
	}
	m.examineShared(ctx, shared)
	wait.Wait()
	return all
}

// Preferred are the sources of a tool that options and flags admit, in the order
// in which they would be tried.
func (m *Manager) Preferred(d *Definition) []*Source { return m.ordered(d) }

func (e *Examined) fail(why string) {
	e.Outcome, e.Reason = Fails, why
	if strings.HasPrefix(why, backend.ErrNotInstalled.Error()) {
		e.Outcome = NotInstalled
	}
}

// conclude records what came of a source that has attached.
func (m *Manager) conclude(e *Examined, err error) {
	e.Version = m.version(e.Source.Backend, e.Path)
	e.SelfTest = e.one.selfTest
	if err != nil {
		e.fail(err.Error())
		if e.SelfTest.Result != Failed {
			e.SelfTest = Verdict{} // it never came to that
		}
		return
	}
	e.Outcome = Works
}

// examineShared tries sources of bpftrace together, as they will serve, and by
// halves where that fails.
func (m *Manager) examineShared(ctx context.Context, all []*Examined) {
	if len(all) == 0 {
		return
	}
	var tools []*tool
	for _, e := range all {
		tools = append(tools, e.one)
	}
	r := m.newRunner(tools, all[0].Path)
	err := r.try(ctx)
	var bad failed
	if err == nil {
		bad, err = m.prove(ctx, r)
	}
	r.stopChild(context.Background())
	if err != nil && len(all) > 1 && ctx.Err() == nil {
		m.examineShared(ctx, all[:len(all)/2])
		m.examineShared(ctx, all[len(all)/2:])
		return
	}
	for i, e := range all {
		why := err
		if wrong := bad[r.members[i]]; wrong != nil {
			why = selfTestError(wrong)
		}
		m.conclude(e, why)
	}
}

func (m *Manager) examineAlone(ctx context.Context, e *Examined) {
	r := m.newRunner([]*tool{e.one}, e.Path)
	err := r.try(ctx)
	switch {
	case err != nil:
	case e.Source.Format == folded:
		err = m.proveAtEnd(ctx, r)
	default:
		err = m.proveAlone(ctx, r)
	}
	r.stopChild(context.Background())
	m.conclude(e, err)
}

// proveAtEnd makes the self-test of a tool that prints when it ends.
func (m *Manager) proveAtEnd(ctx context.Context, r *runner) error {
	for _, one := range r.unproven() {
		round := m.prover.run(ctx, r, []*member{one})
		r.stopChild(ctx)
		verdict := r.decide(r.current(), one, round)
		one.tool.judged(verdict)
		if verdict.Result == Failed {
			return selfTestError(errors.New(verdict.Reason))
		}
	}
	return ctx.Err()
}
