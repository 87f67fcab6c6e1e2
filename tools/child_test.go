package tools

import (
	"testing"
	"time"
)

// A tool that attaches one probe after the other is up after the last one.
func TestSettling(t *testing.T) {
	for _, c := range []struct {
		name        string
		ms          []int // since the start, of looks
		attachments []int
		over        int // ms of the first look that is told the end, -1 for none
	}{
		{"at once", []int{50, 100}, []int{3, 3}, 100},
		{"nothing", []int{50, 100, 10000}, []int{0, 0, 0}, -1},
		{"too early", []int{50, 99, 100}, []int{1, 1, 1}, 100},
		{"slow: a tenth of the start", []int{2000, 2050, 2199, 2200}, []int{1, 1, 1, 1}, 2200},
		{"slow, one after the other", []int{2000, 2150, 2300, 2500, 2529, 2530}, []int{1, 2, 3, 3, 3, 3}, 2530},
		{"lets go of them", []int{2000, 2100, 3000}, []int{1, 0, 0}, -1},
	} {
		start := time.Now()
		s, over := settling{began: start}, -1
		for i, ms := range c.ms {
			if over < 0 && s.over(start.Add(time.Duration(ms)*time.Millisecond), c.attachments[i]) {
				over = ms
			}
		}
		if over != c.over {
			t.Errorf("%s: over after %d ms, want %d", c.name, over, c.over)
		}
	}
}
