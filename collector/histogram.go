package collector

import (
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"bpf_tools_exporter/tools"
)

const (
	// maxSchema is the finest schema that Prometheus defines.
	maxSchema = 8
	// finestSchema is what a histogram begins with, eight buckets an octave.
	finestSchema = 3
	// maxIndex bounds the buckets of a histogram, to ±50 octaves of a second
	// at the finest schema.
	maxIndex = 400
	// Classic bounds are the powers of two from 2^minExponent seconds on.
	minExponent = -20
	maxGap      = 2 // empty buckets within a span, as client_golang has it
)

// classicBounds are 0.95 µs to 64 s, each twice the one before.
var classicBounds = prometheus.ExponentialBuckets(math.Ldexp(1, minExponent), 2, 6-minExponent+1)

// A histogram counts values in the buckets of a native histogram schema from 0
// on. Each classic bound is the bound of a native bucket then, so that the
// classic buckets are exact too.
type histogram struct {
	schema int
	first  int      // index of counts[0]
	counts []uint64 // at most 2*maxIndex+1
	count  uint64   // of all buckets
	sum    float64
}

func newHistogram() *histogram {
	return &histogram{schema: finestSchema}
}

// add counts the values of a sample. The coarser schema of the two decides,
// because a coarse bucket cannot be divided. A sample that counts nothing has
// no schema.
func (h *histogram) add(s tools.Sample) {
	h.sum += s.Add
	count := min(s.Count, math.MaxInt64-h.count) // it stays there rather than go back
	if count == 0 {
		return
	}
	if s.Schema < h.schema {
		h.coarsen(s.Schema)
	}
	*h.bucket(coarser(s.Index, s.Schema-h.schema)) += count
	h.count += count
}

// coarsen merges the buckets into those of a coarser schema.
func (h *histogram) coarsen(schema int) {
	fine := *h
	h.schema, h.counts = schema, nil
	for i, count := range fine.counts {
		if count > 0 {
			*h.bucket(coarser(fine.first+i, fine.schema-schema)) += count
		}
	}
}

// bucket returns the count of a bucket, or of the last one in that direction.
func (h *histogram) bucket(index int) *uint64 {
	index = max(-maxIndex, min(index, maxIndex))
	if len(h.counts) == 0 {
		h.first = index
	}
	if below := h.first - index; below > 0 {
		h.counts = slices.Insert(h.counts, 0, make([]uint64, below)...)
		h.first = index
	}
	if above := index - h.first - len(h.counts) + 1; above > 0 {
		h.counts = append(h.counts, make([]uint64, above)...)
	}
	return &h.counts[index-h.first]
}

// coarser returns the index of the bucket that the bucket of the given index
// is part of in a schema that is coarser by so many steps: the index divided
// by 2^steps, rounded up, as bounds are inclusive.
func coarser(index, steps int) int {
	down := index >> steps
	if down<<steps != index {
		down++
	}
	return down
}

// write returns the histogram as classic and native in one, without its
// creation time.
func (h *histogram) write() *dto.Histogram {
	spans, deltas := h.native()
	return &dto.Histogram{
		SampleCount:   new(h.count),
		SampleSum:     new(h.sum),
		Bucket:        h.classic(),
		Schema:        new(int32(h.schema)),
		ZeroThreshold: new(float64(prometheus.DefNativeHistogramZeroThreshold)),
		ZeroCount:     new(uint64(0)),
		PositiveSpan:  spans,
		PositiveDelta: deltas,
	}
}

// classic returns the cumulative buckets but for that of +Inf, which is the
// count of all.
func (h *histogram) classic() []*dto.Bucket {
	buckets := make([]dto.Bucket, len(classicBounds))
	counts := make([]uint64, len(classicBounds))
	pointers := make([]*dto.Bucket, len(classicBounds))
	cumulative, next := uint64(0), 0
	for i := range classicBounds {
		last := (minExponent + i) << h.schema
		for ; next < len(h.counts) && h.first+next <= last; next++ {
			cumulative += h.counts[next]
		}
		counts[i] = cumulative
		buckets[i].CumulativeCount = &counts[i]
		buckets[i].UpperBound = &classicBounds[i]
		pointers[i] = &buckets[i]
	}
	return pointers
}

// native returns the buckets in the encoding of the protobuf format. Each span
// begins so many buckets after the last one ended, the first one at its index;
// each delta is the difference to the count before.
func (h *histogram) native() (spans []*dto.BucketSpan, deltas []int64) {
	if h.count == 0 {
		// A span of no length marks the histogram as a native one.
		return []*dto.BucketSpan{{Offset: new(int32(0)), Length: new(uint32(0))}}, nil
	}
	deltas = make([]int64, 0, len(h.counts))
	end, before := 0, int64(0)
	for i, count := range h.counts {
		if count == 0 {
			continue
		}
		gap := h.first + i - end
		if spans == nil || gap > maxGap {
			spans = append(spans, &dto.BucketSpan{Offset: new(int32(gap)), Length: new(uint32(0))})
			gap = 0
		}
		for ; gap > 0; gap-- {
			deltas = append(deltas, -before)
			before = 0
			*spans[len(spans)-1].Length++
		}
		deltas = append(deltas, int64(count)-before)
		before = int64(count)
		*spans[len(spans)-1].Length++
		end = h.first + i + 1
	}
	return spans, deltas
}
