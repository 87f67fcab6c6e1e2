package tools

import (
	"slices"
	"sync"
)

// A Ring keeps the last events of one tool. It is safe for concurrent use.
type Ring struct {
	mu        sync.Mutex
	events    []Event
	next      int
	followers map[chan Event]struct{}
	tell      func(Event) // of each event, if set; it does not block
}

// NewRing returns a ring of so many events.
func NewRing(size int) *Ring {
	return &Ring{events: make([]Event, 0, size), followers: make(map[chan Event]struct{})}
}

// Add keeps an event and passes it to the followers. A follower that does not
// keep up misses it.
func (r *Ring) Add(e Event) {
	if r.tell != nil {
		r.tell(e)
	}
	r.keep(e)
}

func (r *Ring) keep(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) < cap(r.events) {
		r.events = append(r.events, e)
	} else {
		r.events[r.next] = e
	}
	r.next = (r.next + 1) % cap(r.events)
	for follower := range r.followers {
		select {
		case follower <- e:
		default:
		}
	}
}

// Recent returns the last n events, newest first.
func (r *Ring) Recent(n int) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = max(0, min(n, len(r.events)))
	recent := make([]Event, n)
	for i := range recent {
		at := r.next - 1 - i
		if at < 0 {
			at += len(r.events)
		}
		recent[i] = r.events[at]
	}
	return recent
}

// oldestFirst returns all events that are kept.
func (r *Ring) oldestFirst() []Event {
	events := r.Recent(ringSize)
	slices.Reverse(events)
	return events
}

// Follow returns a channel of the events from now on and a function that ends
// the following and closes the channel.
func (r *Ring) Follow() (<-chan Event, func()) {
	follower := make(chan Event, 64)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followers[follower] = struct{}{}
	return follower, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, ok := r.followers[follower]; ok {
			delete(r.followers, follower)
			close(follower)
		}
	}
}
