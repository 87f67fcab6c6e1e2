package tools

import (
	"slices"
	"sync"
	"sync/atomic"
)

// taps is the sink of all tools, which also shows what passes to those who look
// at one tool for a while.
type taps struct {
	to Sink

	mu   sync.Mutex
	open atomic.Pointer[map[string][]*tap]
}

type tap struct{ sink Sink }

func newTaps(to Sink) *taps { return &taps{to: to} }

// Sample implements [Sink].
func (t *taps) Sample(tool string, s Sample) {
	t.to.Sample(tool, s)
	if open := t.open.Load(); open != nil {
		for _, tap := range (*open)[tool] {
			tap.sink.Sample(tool, s)
		}
	}
}

// add passes a tool's samples to a sink, too, until the function it returns is
// called.
func (t *taps) add(tool string, sink Sink) (remove func()) {
	added := &tap{sink}
	t.change(tool, func(all []*tap) []*tap { return append(slices.Clone(all), added) })
	return func() {
		t.change(tool, func(all []*tap) []*tap {
			return slices.DeleteFunc(slices.Clone(all), func(other *tap) bool { return other == added })
		})
	}
}

func (t *taps) change(tool string, change func([]*tap) []*tap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := make(map[string][]*tap)
	if now := t.open.Load(); now != nil {
		for name, all := range *now {
			next[name] = all
		}
	}
	next[tool] = change(next[tool])
	if len(next[tool]) == 0 {
		delete(next, tool)
	}
	if len(next) == 0 {
		t.open.Store(nil)
		return
	}
	t.open.Store(&next)
}
