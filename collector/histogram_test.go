package collector

import (
	"bytes"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"

	"bpf_tools_exporter/tools"
)

// decode reads the native buckets as a Prometheus server does.
func decode(t testing.TB, h *dto.Histogram) map[int]uint64 {
	t.Helper()
	buckets := make(map[int]uint64)
	index, count, next := 0, int64(0), 0
	for _, span := range h.GetPositiveSpan() {
		index += int(span.GetOffset())
		for range span.GetLength() {
			count += h.GetPositiveDelta()[next]
			next++
			if count < 0 {
				t.Fatalf("bucket %d has count %d", index, count)
			}
			if count > 0 {
				buckets[index] = uint64(count)
			}
			index++
		}
	}
	if next != len(h.GetPositiveDelta()) {
		t.Fatalf("%d deltas for %d buckets", len(h.GetPositiveDelta()), next)
	}
	return buckets
}

// checkConsistent compares the counts in a histogram with each other.
func checkConsistent(t testing.TB, h *dto.Histogram) {
	t.Helper()
	var sum uint64
	native := decode(t, h)
	for _, count := range native {
		sum += count
	}
	if sum != h.GetSampleCount() {
		t.Errorf("native buckets have %d, the count is %d", sum, h.GetSampleCount())
	}
	for _, b := range h.GetBucket() {
		var below uint64
		for index, count := range native {
			if float64(index) <= math.Log2(b.GetUpperBound())*math.Exp2(float64(h.GetSchema())) {
				below += count
			}
		}
		if below != b.GetCumulativeCount() {
			t.Errorf("bucket %v has %d, the native ones up to there %d", b.GetUpperBound(), b.GetCumulativeCount(), below)
		}
	}
}

// transmit returns what a reader of the protobuf exposition gets.
func transmit(t testing.TB, c *Collector, name string) *dto.Histogram {
	t.Helper()
	var wire bytes.Buffer
	format := expfmt.NewFormat(expfmt.TypeProtoDelim)
	if err := expfmt.NewEncoder(&wire, format).Encode(gather(t, registry(t, c))[name]); err != nil {
		t.Fatal(err)
	}
	var family dto.MetricFamily
	if err := expfmt.NewDecoder(&wire, format).Decode(&family); err != nil {
		t.Fatal(err)
	}
	return family.GetMetric()[0].GetHistogram()
}

func TestHistogram(t *testing.T) {
	sample := func(schema, index int, count uint64) tools.Sample {
		return tools.Sample{Schema: schema, Index: index, Count: count, Add: 1}
	}
	tests := []struct {
		name    string
		samples []tools.Sample
		schema  int32
		want    map[int]uint64
	}{
		{"empty", nil, 3, map[int]uint64{}},
		{"only a sum", []tools.Sample{{Add: 1}}, 3, map[int]uint64{}},
		{"one bucket", []tools.Sample{sample(3, -20, 1), sample(3, -20, 2)}, 3, map[int]uint64{-20: 3}},
		{"grows both ways", []tools.Sample{sample(3, 0, 1), sample(3, -3, 2), sample(3, 9, 3), sample(3, 1, 4)}, 3,
			map[int]uint64{-3: 2, 0: 1, 1: 4, 9: 3}},
		{"coarse alone", []tools.Sample{sample(0, -10, 1)}, 0, map[int]uint64{-10: 1}},
		{"fine into coarse", []tools.Sample{sample(0, 0, 1), sample(3, 0, 1), sample(3, 1, 1), sample(3, 8, 1), sample(3, 9, 1), sample(3, -7, 1), sample(3, -8, 1)}, 0,
			map[int]uint64{-1: 1, 0: 3, 1: 2, 2: 1}},
		{"coarse after fine", []tools.Sample{sample(3, -9, 1), sample(3, -8, 2), sample(3, -7, 4), sample(3, 0, 8), sample(3, 1, 16), sample(0, 1, 32)}, 0,
			map[int]uint64{-1: 3, 0: 12, 1: 48}},
		{"step by step", []tools.Sample{sample(3, 5, 1), sample(2, 5, 1), sample(1, 5, 1)}, 1, map[int]uint64{2: 1, 3: 1, 5: 1}},
		{"finer than ours", []tools.Sample{sample(8, 33, 1), sample(8, 32, 1)}, 3, map[int]uint64{1: 1, 2: 1}},
		{"far out", []tools.Sample{sample(3, math.MinInt, 1), sample(3, -400, 2), sample(3, 400, 4), sample(3, 401, 8), sample(3, math.MaxInt, 16)}, 3,
			map[int]uint64{-400: 3, 400: 28}},
		{"far out and finer", []tools.Sample{sample(8, math.MinInt, 1), sample(8, math.MaxInt, 1)}, 3, map[int]uint64{-400: 1, 400: 1}},
		{"does not wrap", []tools.Sample{sample(3, 0, math.MaxUint64), sample(3, 0, 5), sample(3, 1, 5)}, 3, map[int]uint64{0: math.MaxInt64}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := &tools.Metric{Name: "bpf_x_seconds", Type: "histogram"}
			c := newTest(t, Config{}, definition("x", m))
			for _, s := range test.samples {
				s.Metric = m
				c.Sample("x", s)
			}
			h := transmit(t, c, "bpf_x_seconds")
			if got := decode(t, h); !maps.Equal(got, test.want) || h.GetSchema() != test.schema {
				t.Errorf("got schema %d %v, want schema %d %v", h.GetSchema(), got, test.schema, test.want)
			}
			if h.GetSampleSum() != float64(len(test.samples)) {
				t.Errorf("sum is %v, want %v", h.GetSampleSum(), len(test.samples))
			}
			checkConsistent(t, h)
		})
	}
}

func TestNativeEncoding(t *testing.T) {
	span := func(offset int32, length uint32) *dto.BucketSpan {
		return &dto.BucketSpan{Offset: &offset, Length: &length}
	}
	tests := []struct {
		name   string
		counts map[int]uint64
		spans  []*dto.BucketSpan
		deltas []int64
	}{
		{"empty", nil, []*dto.BucketSpan{span(0, 0)}, nil},
		{"at zero", map[int]uint64{0: 3}, []*dto.BucketSpan{span(0, 1)}, []int64{3}},
		{"near zero", map[int]uint64{2: 3}, []*dto.BucketSpan{span(2, 1)}, []int64{3}},
		{"negative", map[int]uint64{-9: 3, -8: 1}, []*dto.BucketSpan{span(-9, 2)}, []int64{3, -2}},
		{"gap of two", map[int]uint64{-9: 3, -6: 1}, []*dto.BucketSpan{span(-9, 4)}, []int64{3, -3, 0, 1}},
		{"gap of three", map[int]uint64{-9: 3, -5: 1}, []*dto.BucketSpan{span(-9, 1), span(3, 1)}, []int64{3, -2}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newHistogram()
			for index, count := range test.counts {
				h.add(tools.Sample{Schema: 3, Index: index, Count: count})
			}
			spans, deltas := h.native()
			same := func(a, b *dto.BucketSpan) bool { return proto.Equal(a, b) }
			if !slices.EqualFunc(spans, test.spans, same) || !slices.Equal(deltas, test.deltas) {
				t.Errorf("got %v %v, want %v %v", spans, deltas, test.spans, test.deltas)
			}
		})
	}
}

func TestClassicBounds(t *testing.T) {
	buckets := newHistogram().classic()
	if len(buckets) != 27 {
		t.Fatalf("%d bounds, want 27", len(buckets))
	}
	for i, b := range buckets {
		if want := math.Pow(2, float64(i-20)); b.GetUpperBound() != want {
			t.Errorf("bound %d is %v, want %v", i, b.GetUpperBound(), want)
		}
	}
}

// quantile estimates from native buckets as histogram_quantile() does.
func quantile(q float64, h *dto.Histogram, buckets map[int]uint64) float64 {
	rank := q * float64(h.GetSampleCount())
	var below float64
	for _, index := range slices.Sorted(maps.Keys(buckets)) {
		count := float64(buckets[index])
		if below+count >= rank {
			octaves := (float64(index-1) + (rank-below)/count) / math.Exp2(float64(h.GetSchema()))
			return math.Exp2(octaves)
		}
		below += count
	}
	return math.NaN()
}

func TestQuantiles(t *testing.T) {
	m := &tools.Metric{Name: "bpf_x_seconds", Type: "histogram"}
	c := newTest(t, Config{}, definition("x", m))
	random := rand.New(rand.NewPCG(1, 2))
	observed := make([]float64, 10_000)
	var sum float64
	for i := range observed {
		value := math.Pow(10, -6+7*random.Float64()) // 1 µs to 10 s
		observed[i] = value
		sum += value
		c.Sample("x", tools.Sample{Metric: m, Add: value, Count: 1, Index: int(math.Ceil(math.Log2(value) * 8)), Schema: 3})
	}
	slices.Sort(observed)
	h := transmit(t, c, "bpf_x_seconds")
	checkConsistent(t, h)
	if h.GetSampleSum() != sum || h.GetSampleCount() != 10_000 {
		t.Errorf("sum %v and count %d, want %v and 10000", h.GetSampleSum(), h.GetSampleCount(), sum)
	}
	buckets := decode(t, h)
	for _, q := range []float64{0.5, 0.9, 0.99} {
		want := observed[int(q*float64(len(observed)))-1]
		if got := quantile(q, h, buckets); math.Abs(got/want-1) > 0.05 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	for _, b := range h.GetBucket() {
		want, _ := slices.BinarySearchFunc(observed, b.GetUpperBound(), func(value, bound float64) int {
			if value <= bound {
				return -1
			}
			return 1
		})
		if b.GetCumulativeCount() != uint64(want) {
			t.Errorf("bucket %v has %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want)
		}
	}
}
