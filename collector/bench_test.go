package collector

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bpf_tools_exporter/tools"
)

const (
	benchCounters   = 550
	benchHistograms = 10
	benchValues     = 1000
)

// BenchmarkGather compares a scrape, without the encoding, with that of
// client_golang for the same counters and histograms.
func BenchmarkGather(b *testing.B) {
	collectors := map[string]func(testing.TB) prometheus.Collector{"collector": ours, "client_golang": theirs}
	for _, name := range []string{"collector", "client_golang"} {
		b.Run(name, func(b *testing.B) {
			r := prometheus.NewRegistry()
			if err := r.Register(collectors[name](b)); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Gather(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func ours(tb testing.TB) prometheus.Collector {
	count := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"comm", "result"}}
	latency := &tools.Metric{Name: "bpf_x_seconds", Type: "histogram", Labels: []string{"device"}}
	c := New(Config{MaxSeries: benchCounters})
	if err := c.AddTool(definition("x", count, latency)); err != nil {
		tb.Fatal(err)
	}
	for i := range benchCounters {
		c.Sample("x", tools.Sample{Metric: count, Labels: []string{strconv.Itoa(i), "success"}, Add: 1})
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range benchHistograms * benchValues {
		value := latencyOf(random)
		c.Sample("x", tools.Sample{Metric: latency, Labels: []string{strconv.Itoa(i % benchHistograms)},
			Add: value, Count: 1, Index: int(math.Ceil(math.Log2(value) * 8)), Schema: 3})
	}
	return c
}

// vectors are several collectors in one.
type vectors []prometheus.Collector

func (v vectors) Describe(out chan<- *prometheus.Desc) {
	for _, c := range v {
		c.Describe(out)
	}
}

func (v vectors) Collect(out chan<- prometheus.Metric) {
	for _, c := range v {
		c.Collect(out)
	}
}

func theirs(testing.TB) prometheus.Collector {
	count := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bpf_x_total"}, []string{"comm", "result"})
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "bpf_x_seconds",
		Buckets: classicBounds, NativeHistogramBucketFactor: 1.1}, []string{"device"})
	for i := range benchCounters {
		count.WithLabelValues(strconv.Itoa(i), "success").Inc()
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range benchHistograms * benchValues {
		latency.WithLabelValues(strconv.Itoa(i % benchHistograms)).Observe(latencyOf(random))
	}
	return vectors{count, latency}
}

// latencyOf returns a value from 10 µs to 100 ms.
func latencyOf(random *rand.Rand) float64 {
	return math.Pow(10, -5+4*random.Float64())
}

func BenchmarkSample(b *testing.B) {
	count := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"comm", "result"}}
	latency := &tools.Metric{Name: "bpf_x_seconds", Type: "histogram", Labels: []string{"device", "operation"}}
	tests := []struct {
		name   string
		sample tools.Sample
	}{
		{"counter", tools.Sample{Metric: count, Labels: []string{"bash", "success"}, Add: 1}},
		{"histogram", tools.Sample{Metric: latency, Labels: []string{"vda", "read"}, Add: 1, Count: 1, Index: -70, Schema: 3}},
		{"overflow", tools.Sample{Metric: count, Labels: []string{"another", "success"}, Add: 1}},
	}
	c := New(Config{MaxSeries: 1, IdleAfter: time.Hour})
	if err := c.AddTool(definition("x", count, latency)); err != nil {
		b.Fatal(err)
	}
	for _, test := range tests {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Sample("x", test.sample)
			}
		})
	}
}
