package process

import (
	"math/rand/v2"
	"time"
)

// Backoff gives the delays between attempts: Min, then twice the one before up to Max, each varied at
// random by a quarter up or down, so that what failed together does not return together.
// It is not safe for concurrent use.
type Backoff struct {
	Min time.Duration // 0 means one second
	Max time.Duration // 0 means five minutes; at least Min

	delay time.Duration // of the next attempt, before it is varied; 0 at the start
}

// Next returns the delay before the next attempt.
func (b *Backoff) Next() time.Duration {
	low, high := b.bounds()
	delay := max(b.delay, low)
	b.delay = high
	if delay <= high/2 {
		b.delay = 2 * delay
	}
	return delay - delay/4 + rand.N(delay/2+1)
}

// Reset makes the next delay Min again.
func (b *Backoff) Reset() { b.delay = 0 }

func (b *Backoff) bounds() (low, high time.Duration) {
	low, high = b.Min, b.Max
	if low <= 0 {
		low = time.Second
	}
	if high <= 0 {
		high = 5 * time.Minute
	}
	return low, max(low, high)
}
