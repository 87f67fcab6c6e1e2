package tools

import (
	"context"
	"runtime/debug"

	"github.com/go-kit/log/level"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/process"
)

// A change makes the manager choose anew.
type change struct {
	runner *runner // that is of no use as it is
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
