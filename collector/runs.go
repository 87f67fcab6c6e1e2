package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// runs are the metrics about on-demand runs. A tool that never ran has none.
type runs struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newRuns() *runs {
	return &runs{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bpf_tool_runs_total", Help: "On-demand runs of the tool that are over: success, stopped (on request, or as nobody waited any more) or failed.",
		}, []string{"tool", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bpf_tool_run_duration_seconds", Help: "How long on-demand runs took, with the start and the end of the tool.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128}, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, []string{"tool"}),
	}
}

// RunFinished counts an on-demand run.
func (c *Collector) RunFinished(tool, outcome string, took time.Duration) {
	c.runs.total.WithLabelValues(clean(tool), clean(outcome)).Inc()
	c.runs.duration.WithLabelValues(clean(tool)).Observe(took.Seconds())
}

func (r *runs) collect(out chan<- prometheus.Metric) {
	r.total.Collect(out)
	r.duration.Collect(out)
}
