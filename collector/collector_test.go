package collector

import (
	"bytes"
	"context"
	"flag"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"bpf_tools_exporter/tools"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// start is when the clock of a test begins.
var start = time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)

// clock is a time that a test sets.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// fakeTools reports through refresh and has a fixed status.
type fakeTools struct {
	refresh func(ctx context.Context)
	status  []tools.Status
}

func (f *fakeTools) Refresh(ctx context.Context) {
	if f.refresh != nil {
		f.refresh(ctx)
	}
}

func (f *fakeTools) Status() []tools.Status { return f.status }

func definition(name string, metrics ...*tools.Metric) *tools.Definition {
	return &tools.Definition{Name: name, Metrics: metrics}
}

func newTest(t *testing.T, cfg Config, definitions ...*tools.Definition) *Collector {
	t.Helper()
	c := New(cfg)
	for _, d := range definitions {
		if err := c.AddTool(d); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func registry(t testing.TB, c prometheus.Collector) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	return r
}

func gather(t testing.TB, r prometheus.Gatherer) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

// values returns the counters of a family by their label values, joined.
func values(t testing.TB, c *Collector, name string) map[string]float64 {
	t.Helper()
	got := make(map[string]float64)
	for _, m := range gather(t, registry(t, c))[name].GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetValue())
		}
		got[strings.Join(labels, "|")] = m.GetCounter().GetValue()
	}
	return got
}

func TestGolden(t *testing.T) {
	execs := &tools.Metric{Name: "bpf_execsnoop_execs_total", Help: "Programs executed.", Type: "counter",
		Labels: []string{"result", "comm"}, Bounded: []string{"result"}}
	hits := &tools.Metric{Name: "bpf_cachestat_hits_total", Help: "Page cache hits.", Type: "counter"}
	latency := &tools.Metric{Name: "bpf_biolatency_seconds", Help: "Time of block I/O.", Type: "histogram",
		Labels: []string{"device"}}
	duration := &tools.Metric{Name: "bpf_tcplife_duration_seconds", Help: "Time of TCP sessions.", Type: "histogram"}
	execsnoop := definition("execsnoop", execs)
	cachestat := definition("cachestat", hits)
	biolatency := definition("biolatency", latency)
	tcplife := definition("tcplife", duration)

	clock := &clock{start}
	c := newTest(t, Config{MaxSeries: 2, IdleAfter: time.Hour, ScrapeTimeout: time.Second, Now: clock.Now},
		execsnoop, cachestat, biolatency, tcplife)
	c.SetTools(&fakeTools{
		refresh: func(context.Context) {
			for _, comm := range []string{"bash", "line\nbreak \"quoted\" \\", "third", "fourth"} {
				c.Sample("execsnoop", tools.Sample{Metric: execs, Labels: []string{"success", comm}, Add: 2})
			}
			c.Sample("biolatency", tools.Sample{Metric: latency, Labels: []string{"vda"}, Add: 0.5, Count: 3, Index: -20, Schema: 3})
		},
		status: []tools.Status{
			{Definition: execsnoop, State: tools.Up, Version: "0.27.1", Source: &tools.Source{Backend: "bpftrace"},
				Events: 8, EventsLost: 1, EventsNotShown: 2, ParseErrors: 3, Stale: 4, Restarts: map[string]uint64{"exit": 5, "memory": 1},
				LastOutput: start.Add(250 * time.Millisecond), UserSeconds: 1.5, SystemSeconds: 0.25, BPFSeconds: 0.125,
				ResidentBytes: 30 << 20, MapBytes: 4096},
			{Definition: biolatency, State: tools.Up, Version: "0.31\xff", Source: &tools.Source{Backend: "bcc", Format: "log2"}},
			{Definition: tcplife, State: tools.Starting, Source: &tools.Source{Backend: "bpftrace"}},
			{Definition: cachestat, State: tools.Down},
			{Definition: definition("opensnoop"), State: tools.Off},
			{State: tools.Up},
		},
	})
	families, err := registry(t, c).Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&got, f); err != nil {
			t.Fatal(err)
		}
	}
	const file = "testdata/exposition.txt"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("exposition differs from %s (-update rewrites it):\n%s", file, got.Bytes())
	}
	problems, err := testutil.GatherAndLint(registry(t, c))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestAddToolRefuses(t *testing.T) {
	tests := []struct {
		name   string
		metric tools.Metric
		want   string
	}{
		{"declared before", tools.Metric{Name: "bpf_a_total", Type: "counter"}, `b: metric "bpf_a_total" is already declared`},
		{"no type", tools.Metric{Name: "bpf_b_total"}, `b: metric "bpf_b_total": no such type: ""`},
		{"le", tools.Metric{Name: "bpf_b_seconds", Type: "histogram", Labels: []string{"le"}},
			`b: metric "bpf_b_seconds": a histogram cannot have the label "le"`},
		{"reserved", tools.Metric{Name: "bpf_tool_up", Type: "counter"},
			`b: metric "bpf_tool_up": names that begin with "bpf_tool_" are reserved`},
		{"no name", tools.Metric{Type: "counter"}, `b: metric "": "" is not a valid metric name`},
		{"label twice", tools.Metric{Name: "bpf_b_total", Type: "counter", Labels: []string{"x", "x"}},
			`b: metric "bpf_b_total": duplicate label names in constant and variable labels for metric "bpf_b_total"`},
		{"reserved label", tools.Metric{Name: "bpf_b_total", Type: "counter", Labels: []string{"__x"}},
			`b: metric "bpf_b_total": "__x" is not a valid label name for metric "bpf_b_total"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newTest(t, Config{MaxSeries: 1}, definition("a", &tools.Metric{Name: "bpf_a_total", Type: "counter"}))
			good := &tools.Metric{Name: "bpf_good_total", Type: "counter"}
			err := c.AddTool(definition("b", good, &test.metric))
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if got := len(gather(t, registry(t, c))); got != 1 {
				t.Errorf("%d families are declared, want 1", got)
			}
		})
	}
}

func TestRefreshIsBounded(t *testing.T) {
	c := newTest(t, Config{MaxSeries: 1, ScrapeTimeout: time.Millisecond})
	c.SetTools(&fakeTools{refresh: func(ctx context.Context) { <-ctx.Done() }})
	gather(t, registry(t, c))
}

// Samples from several goroutines are all counted, and whatever a scrape sees
// meanwhile is consistent.
func TestConcurrent(t *testing.T) {
	const writers, each = 4, 2000
	count := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"comm"}}
	latency := &tools.Metric{Name: "bpf_x_seconds", Type: "histogram", Labels: []string{"device"}}
	c := newTest(t, Config{MaxSeries: 10}, definition("x", count, latency))
	r := registry(t, c)

	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				c.Sample("x", tools.Sample{Metric: count, Labels: []string{strconv.Itoa(i % 40)}, Add: 1})
				s := tools.Sample{Metric: latency, Labels: []string{strconv.Itoa(w)}, Add: 0.5, Count: 1, Index: i%600 - 300, Schema: 3}
				if i > each/2 {
					s.Schema = 0
				}
				c.Sample("x", s)
			}
		})
	}
	for range 20 {
		for _, m := range gather(t, r)["bpf_x_seconds"].GetMetric() {
			checkConsistent(t, m.GetHistogram())
		}
	}
	writing.Wait()

	var total float64
	for _, m := range gather(t, r)["bpf_x_total"].GetMetric() {
		total += m.GetCounter().GetValue()
	}
	if total != writers*each {
		t.Errorf("counters sum to %v, want %v", total, writers*each)
	}
	for _, m := range gather(t, r)["bpf_x_seconds"].GetMetric() {
		h := m.GetHistogram()
		checkConsistent(t, h)
		if h.GetSampleCount() != each || h.GetSampleSum() != each/2 {
			t.Errorf("histogram has count %d and sum %v, want %d and %d", h.GetSampleCount(), h.GetSampleSum(), each, each/2)
		}
	}
}

func TestDropped(t *testing.T) {
	count := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"comm"}}
	latency := &tools.Metric{Name: "bpf_x_seconds", Type: "histogram", Labels: []string{"device"}}
	one := []string{"one"}
	tests := []struct {
		name   string
		sample tools.Sample
	}{
		{"no metric", tools.Sample{Add: 1}},
		{"metric of no tool", tools.Sample{Metric: &tools.Metric{Name: "bpf_x_total"}, Add: 1}},
		{"no labels", tools.Sample{Metric: count, Add: 1}},
		{"too many labels", tools.Sample{Metric: count, Labels: []string{"a", "b"}, Add: 1}},
		{"negative", tools.Sample{Metric: count, Labels: one, Add: -1}},
		{"NaN", tools.Sample{Metric: count, Labels: one, Add: math.NaN()}},
		{"infinite", tools.Sample{Metric: count, Labels: one, Add: math.Inf(1)}},
		{"negative infinite", tools.Sample{Metric: count, Labels: one, Add: math.Inf(-1)}},
		{"negative sum", tools.Sample{Metric: latency, Labels: one, Add: -1, Count: 1}},
		{"schema too coarse", tools.Sample{Metric: latency, Labels: one, Count: 1, Schema: -1}},
		{"schema too fine", tools.Sample{Metric: latency, Labels: one, Count: 1, Schema: 9}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newTest(t, Config{MaxSeries: 1}, definition("x", count, latency))
			c.Sample("x", test.sample)
			families := gather(t, registry(t, c))
			if families["bpf_x_total"] != nil || families["bpf_x_seconds"] != nil {
				t.Errorf("the sample made a series: %v", families)
			}
		})
	}
}

// A definition that was read again keeps its series; what else is declared goes.
func TestSetToolset(t *testing.T) {
	metric := func(name, help string) *tools.Metric {
		return &tools.Metric{Name: name, Help: help, Type: "counter", Labels: []string{"comm"}}
	}
	count := func(c *Collector, m *tools.Metric) {
		c.Sample("", tools.Sample{Metric: m, Labels: []string{"x"}, Add: 1})
	}
	kept, changed, gone := metric("bpf_kept_total", "K."), metric("bpf_changed_total", "C."), metric("bpf_gone_total", "G.")
	c := newTest(t, Config{MaxSeries: 10}, definition("a", kept, changed), definition("b", gone))
	for _, m := range []*tools.Metric{kept, changed, gone} {
		count(c, m)
	}
	kept, changed = metric("bpf_kept_total", "K."), metric("bpf_changed_total", "Changed.")
	fresh := metric("bpf_fresh_total", "F.")
	if err := c.SetToolset([]*tools.Definition{definition("a", kept, changed), definition("c", fresh)}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*tools.Metric{kept, changed, gone, fresh} {
		count(c, m)
	}
	want := `# HELP bpf_changed_total Changed.
# TYPE bpf_changed_total counter
bpf_changed_total{comm="x"} 1
# HELP bpf_fresh_total F.
# TYPE bpf_fresh_total counter
bpf_fresh_total{comm="x"} 1
# HELP bpf_kept_total K.
# TYPE bpf_kept_total counter
bpf_kept_total{comm="x"} 2
`
	names := []string{"bpf_kept_total", "bpf_changed_total", "bpf_gone_total", "bpf_fresh_total"}
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	// One that cannot be leaves all as it was.
	if err := c.SetToolset([]*tools.Definition{definition("a", metric("bpf_twice_total", "T."), metric("bpf_twice_total", "T."))}); err == nil {
		t.Error("a metric is declared twice")
	}
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}
