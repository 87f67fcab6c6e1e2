package process

import (
	"math"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name    string
		backoff Backoff
		want    []time.Duration
	}{
		{"doubling", Backoff{Min: s, Max: 10 * s}, []time.Duration{s, 2 * s, 4 * s, 8 * s, 10 * s, 10 * s}},
		{"to a power", Backoff{Min: s, Max: 4 * s}, []time.Duration{s, 2 * s, 4 * s, 4 * s}},
		{"defaults", Backoff{}, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 64 * s, 128 * s, 256 * s, 300 * s, 300 * s}},
		{"constant", Backoff{Min: s, Max: s}, []time.Duration{s, s, s}},
		{"maximum below minimum", Backoff{Min: 3 * s, Max: s}, []time.Duration{3 * s, 3 * s}},
		{"negative", Backoff{Min: -s, Max: -s}, []time.Duration{s, 2 * s}},
		{"smallest", Backoff{Min: 1, Max: 3}, []time.Duration{1, 2, 3, 3}},
		{"largest", Backoff{Min: math.MaxInt64 / 4, Max: math.MaxInt64 / 2}, []time.Duration{math.MaxInt64 / 4, math.MaxInt64 / 2}},
	} {
		for range 2 {
			for n, want := range c.want {
				if got := c.backoff.Next(); got < want-want/4 || got > want+want/4+1 {
					t.Errorf("%s: delay %d is %v, want %v give or take a quarter", c.name, n, got, want)
				}
			}
			c.backoff.Reset()
		}
	}
}

func TestBackoffVaries(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		seen[(&Backoff{Min: time.Hour}).Next()] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different delays of 100", len(seen))
	}
}
