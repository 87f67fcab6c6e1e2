package collector

import (
	"math"

	dto "github.com/prometheus/client_model/go"

	"bpf_tools_exporter/tools"
)

// A linear histogram has buckets of equal width, and is a classic one only:
// native ones grow by factors. It begins with the width that its metric has and
// doubles it whenever a value lies beyond the last bucket. Every bound of the
// wider buckets is one of the narrower ones, so that the series of a bound that
// stays go on, and a coarse bucket is the sum of two finer ones.
type linear struct {
	width     float64 // of a bucket, before doubling
	doublings int
	counts    [tools.LinearBuckets]uint64
	count     uint64 // of all buckets
	sum       float64
}

// add counts the values of a sample. See [tools.Sample] for its bucket.
func (h *linear) add(s tools.Sample) {
	h.sum += s.Add
	count := min(s.Count, math.MaxInt64-h.count) // it stays there rather than go back
	if count == 0 {
		return
	}
	for h.doublings < s.Schema {
		h.double()
	}
	h.counts[s.Index>>(h.doublings-s.Schema)] += count
	h.count += count
}

func (h *linear) double() {
	h.doublings++
	for i := range h.counts {
		var sum uint64
		if 2*i < len(h.counts) {
			sum = h.counts[2*i] + h.counts[2*i+1]
		}
		h.counts[i] = sum
	}
}

// write returns the histogram without its creation time.
func (h *linear) write() *dto.Histogram {
	width := math.Ldexp(h.width, h.doublings)
	pointers := make([]*dto.Bucket, len(h.counts))
	cumulative := uint64(0)
	for i, count := range h.counts {
		cumulative += count
		pointers[i] = &dto.Bucket{CumulativeCount: new(cumulative), UpperBound: new(float64(i+1) * width)}
	}
	return &dto.Histogram{SampleCount: new(h.count), SampleSum: new(h.sum), Bucket: pointers}
}
