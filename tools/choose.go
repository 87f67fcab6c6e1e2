package tools

import (
	"context"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/go-kit/log/level"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/process"
)

// A change makes the manager choose anew.
type change struct {
	runner *runner // that is of no use as it is, or nil if a tool without source may have one now
	tool   *tool   // whose source is rejected, or nil for all of the runner's
	err    error   // the reason of the rejection, or nil if the program is another now
}

// choose finds a source for each tool, and again whenever something changes.
// Only its goroutine gives a tool another runner.
func (m *Manager) choose(ctx context.Context) {
	for {
		m.attachAll(ctx)
		// What only the start has needed, memory and the program's own pages.
		debug.FreeOSMemory()
		_ = process.ReclaimOwnFilePages() // without it a few MiB stay
		select {
		case <-ctx.Done():
			return
		case <-m.again:
			for _, c := range m.takeChanges() {
				m.apply(ctx, c)
			}
		}
	}
}

// reconsider has a change looked at.
func (m *Manager) reconsider(c change) {
	m.mu.Lock()
	m.changes = append(m.changes, c)
	m.mu.Unlock()
	select {
	case m.again <- struct{}{}:
	default:
	}
}

func (m *Manager) takeChanges() []change {
	m.mu.Lock()
	defer m.mu.Unlock()
	changes := m.changes
	m.changes = nil
	return changes
}

// apply ends the runner that a change is about. One that has been replaced
// meanwhile is of no matter.
func (m *Manager) apply(ctx context.Context, c change) {
	if c.err != nil {
		if c.tool.current() == c.runner {
			m.endRunner(c.tool)
			m.next(ctx, c.tool, c.err)
		}
		return
	}
	if c.runner == nil {
		m.findAgain(c.tool)
		return
	}
	_ = level.Info(m.cfg.Logger).Log("msg", "the program has changed, choosing a source anew", "path", c.runner.path)
	var served []*tool
	for _, t := range c.runner.tools() {
		if t.current() == c.runner {
			served = append(served, t)
			m.endRunner(t)
		}
	}
	m.mu.Lock()
	delete(m.paths, c.runner.path)
	m.mu.Unlock()
	if c.runner.shared() {
		m.findBPFtrace()
	}
	for _, t := range served {
		t.mu.Lock()
		t.state, t.reason = Starting, c.runner.path+": has changed"
		t.restarts[reasonUpgrade]++
		t.mu.Unlock()
		m.find(t)
	}
}

// findAgain looks for sources of a tool that has none.
func (m *Manager) findAgain(t *tool) {
	t.mu.Lock()
	down := t.state == Down
	if down {
		t.state, t.reason = Starting, "a program was installed"
	}
	t.mu.Unlock()
	if !down {
		return
	}
	_ = level.Info(m.cfg.Logger).Log("msg", "a program was installed, choosing a source anew", "tool", t.def.Name)
	if spec, _ := m.bpftrace(); spec == nil {
		m.findBPFtrace()
	}
	m.find(t)
}

// lookAgain has tools that nothing serves choose anew when a program that they
// missed is there, and was so at the last look: its libraries may come later.
func (m *Manager) lookAgain() {
	for _, t := range m.tools {
		appeared := t.missedAppears()
		if appeared && t.appeared {
			m.reconsider(change{tool: t})
		}
		t.appeared = appeared
	}
}

// missedAppears tells whether a program is there that the tool, which has no
// source, did not find.
func (t *tool) missedAppears() bool {
	t.mu.Lock()
	down, rejected := t.enabled && t.state == Down, slices.Clone(t.rejected)
	t.mu.Unlock()
	return down && slices.ContainsFunc(rejected, func(r Rejection) bool {
		if !strings.HasPrefix(r.Reason, backend.ErrNotInstalled.Error()) {
			return false
		}
		name := "" // bpftrace is one program for all
		if r.Source.Backend != backend.BPFtrace {
			name = r.Source.Command[0]
		}
		_, err := backend.Find(r.Source.Backend, name)
		return err == nil
	})
}

// endRunner ends a tool's runner, if it has one, for all tools that share it. What it
// has cost stays with the tool.
func (m *Manager) endRunner(t *tool) {
	r := t.current()
	if r == nil {
		return
	}
	r.end()
	var cost Status
	cost.Definition = t.def
	r.cost(&cost)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runner = nil
	t.spent.user += cost.UserSeconds
	t.spent.system += cost.SystemSeconds
	t.spent.bpf += cost.BPFSeconds
	if !cost.LastOutput.IsZero() {
		t.spent.last = cost.LastOutput
	}
}

// changed tells whether the runner's program is another one than was started,
// and has been so for a while: an upgrade takes some time.
func (r *runner) changed() bool {
	now := backend.Identify(r.path)
	stands := now == r.seen
	r.seen = now
	return stands && now != r.file
}
