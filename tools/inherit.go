package tools

import "maps"

// Inherit takes over what a manager that has been stopped knows of the tools of
// the same names: counters, restarts, recent events and what they cost, so that
// none of these goes back. Call it before Start.
func (m *Manager) Inherit(old *Manager) {
	for _, t := range m.tools {
		if before := old.byName[t.def.Name]; before != nil {
			t.inherit(before)
		}
	}
}

func (t *tool) inherit(old *tool) {
	s := old.status()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counters.events.Store(s.Events)
	t.counters.lost.Store(s.EventsLost)
	t.counters.notShown.Store(s.EventsNotShown)
	t.counters.parseErrors.Store(s.ParseErrors)
	t.counters.stale.Store(s.Stale)
	maps.Copy(t.restarts, s.Restarts)
	t.spent = spent{user: s.UserSeconds, system: s.SystemSeconds, bpf: s.BPFSeconds, last: s.LastOutput}
	if t.ring != nil && old.ring != nil {
		for _, e := range old.ring.oldestFirst() {
			t.ring.keep(e)
		}
	}
}
