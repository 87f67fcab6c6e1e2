package collector

import (
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"bpf_tools_exporter/tools"
)

func TestSeries(t *testing.T) {
	type step struct {
		after  time.Duration // since the step before
		labels string        // joined with |
		add    float64
	}
	tests := []struct {
		name       string
		steps      []step
		want       map[string]float64
		overflowed float64
	}{
		{"nothing seen", nil, map[string]float64{}, 0},
		{"adds up", []step{{0, "in|a", 1}, {0, "in|a", 2.5}}, map[string]float64{"in|a": 3.5}, 0},
		{"empty values", []step{{0, "|", 1}}, map[string]float64{"|": 1}, 0},
		{"zero is seen", []step{{0, "in|a", 0}}, map[string]float64{"in|a": 0}, 0},
		{"the bound", []step{{0, "in|a", 1}, {0, "in|b", 1}, {0, "in|c", 1}, {0, "in|d", 1}, {0, "out|e", 1}, {0, "in|a", 1}},
			map[string]float64{"in|a": 2, "in|b": 1, "in|other": 2, "out|other": 1}, 3},
		{"zero beyond the bound", []step{{0, "in|a", 1}, {0, "in|b", 1}, {0, "in|c", 0}},
			map[string]float64{"in|a": 1, "in|b": 1}, 0},
		{"bounded label that is not", []step{{0, "in|a", 1}, {0, "in|b", 1}, {0, "x|c", 1}, {0, "y|c", 1}, {0, "z|c", 1}, {0, "w|c", 1}, {0, "x|d", 1}},
			map[string]float64{"in|a": 1, "in|b": 1, "x|other": 2, "y|other": 1, "other|other": 2}, 5},
		{"the least recently changed makes room", []step{{0, "in|a", 1}, {time.Minute, "in|b", 1}, {time.Minute, "in|a", 1}, {time.Hour, "in|c", 1}},
			map[string]float64{"in|a": 2, "in|c": 1}, 0},
		{"idle for not quite long enough", []step{{0, "in|a", 1}, {0, "in|b", 1}, {time.Hour - 1, "in|c", 1}},
			map[string]float64{"in|a": 1, "in|b": 1, "in|other": 1}, 1},
		{"idle for just long enough", []step{{0, "in|a", 1}, {0, "in|b", 1}, {time.Hour, "in|c", 1}},
			map[string]float64{"in|b": 1, "in|c": 1}, 0},
		{"zero is no change", []step{{0, "in|a", 1}, {time.Minute, "in|b", 1}, {59 * time.Minute, "in|a", 0}, {0, "in|c", 1}},
			map[string]float64{"in|b": 1, "in|c": 1}, 0},
		{"zero is seen last", []step{{0, "in|a", 1}, {time.Minute, "in|b", 0}, {time.Hour, "in|c", 1}},
			map[string]float64{"in|b": 0, "in|c": 1}, 0},
		{"zero makes no room", []step{{0, "in|a", 1}, {0, "in|b", 1}, {time.Hour, "in|c", 0}},
			map[string]float64{"in|a": 1, "in|b": 1}, 0},
		{"a removed series begins again", []step{{0, "in|a", 5}, {time.Minute, "in|b", 1}, {time.Hour, "in|c", 1}, {time.Hour, "in|a", 1}},
			map[string]float64{"in|c": 1, "in|a": 1}, 0},
		{"overflow is not evicted", []step{{0, "in|a", 1}, {0, "in|b", 1}, {0, "in|c", 1}, {time.Hour, "in|d", 1}, {0, "in|e", 1}, {0, "in|f", 1}},
			map[string]float64{"in|d": 1, "in|e": 1, "in|other": 2}, 2},
		{"a real other", []step{{0, "in|other", 1}, {0, "in|b", 1}, {0, "in|c", 1}},
			map[string]float64{"in|other": 2, "in|b": 1}, 1},
		{"invalid UTF-8", []step{{0, "in|a\xff", 1}, {0, "in|a\xfe\xfd", 1}, {0, "in|é", 1}},
			map[string]float64{"in|a\uFFFD": 2, "in|é": 1}, 0},
		{"NUL", []step{{0, "in|a\x00b", 1}}, map[string]float64{"in|a\uFFFDb": 1}, 0},
		{"long", []step{{0, "in|" + strings.Repeat("x", 1023) + "é", 1}, {0, "in|" + strings.Repeat("x", 1e6), 1}},
			map[string]float64{"in|" + strings.Repeat("x", 1023) + "\uFFFD": 1, "in|" + strings.Repeat("x", 1024): 1}, 0},
		{"values do not run into each other", []step{{0, "a|bc", 1}, {0, "ab|c", 1}}, map[string]float64{"a|bc": 1, "ab|c": 1}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"direction", "x"}, Bounded: []string{"direction"}}
			clock := &clock{start}
			c := newTest(t, Config{MaxSeries: 2, IdleAfter: time.Hour, Now: clock.Now}, definition("x", m))
			for _, s := range test.steps {
				clock.now = clock.now.Add(s.after)
				c.Sample("x", tools.Sample{Metric: m, Labels: strings.Split(s.labels, "|"), Add: s.add})
			}
			if got := values(t, c, "bpf_x_total"); !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			want := map[string]float64{"bpf_x_total|x": test.overflowed}
			if got := values(t, c, "bpf_tool_series_overflow_total"); !maps.Equal(got, want) {
				t.Errorf("overflow: got %v, want %v", got, want)
			}
		})
	}
}

func TestWithoutLabels(t *testing.T) {
	m := &tools.Metric{Name: "bpf_x_total", Type: "counter"}
	c := newTest(t, Config{}, definition("x", m))
	if got := values(t, c, "bpf_x_total"); !maps.Equal(got, map[string]float64{"": 0}) {
		t.Errorf("before any sample: got %v", got)
	}
	c.Sample("x", tools.Sample{Metric: m, Add: 3})
	if got := values(t, c, "bpf_x_total"); !maps.Equal(got, map[string]float64{"": 3}) {
		t.Errorf("after one of 3: got %v", got)
	}
	if got := values(t, c, "bpf_tool_series_overflow_total"); len(got) != 0 {
		t.Errorf("it cannot overflow but has %v", got)
	}
}

func TestCreated(t *testing.T) {
	m := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"x"}}
	h := &tools.Metric{Name: "bpf_x_seconds", Type: "histogram"}
	clock := &clock{start}
	c := newTest(t, Config{Now: clock.Now}, definition("x", m, h))
	for range 2 {
		clock.now = clock.now.Add(time.Minute)
		c.Sample("x", tools.Sample{Metric: m, Labels: []string{"a"}, Add: 1})
		c.Sample("x", tools.Sample{Metric: h, Count: 1})
	}
	families := gather(t, registry(t, c))
	created := families["bpf_x_total"].GetMetric()[0].GetCounter().GetCreatedTimestamp().AsTime()
	if want := start.Add(time.Minute); !created.Equal(want) {
		t.Errorf("counter was created at %v, want %v", created, want)
	}
	created = families["bpf_x_seconds"].GetMetric()[0].GetHistogram().GetCreatedTimestamp().AsTime()
	if !created.Equal(start) {
		t.Errorf("histogram was created at %v, want %v", created, start)
	}
}

// However many values a label has, the series stay within the bound and no
// sample is lost.
func TestManyValues(t *testing.T) {
	const samples, maxSeries = 1_000_000, 100
	m := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"x", "y"}, Bounded: []string{"y"}}
	c := newTest(t, Config{MaxSeries: maxSeries, IdleAfter: time.Hour}, definition("x", m))
	labels := make([]string, 2)
	for i := range samples {
		labels[0] = strconv.Itoa(i)
		labels[1] = labels[0]
		c.Sample("x", tools.Sample{Metric: m, Labels: labels, Add: 1})
	}
	got := values(t, c, "bpf_x_total")
	if len(got) != 2*maxSeries+1 {
		t.Errorf("%d series, want %d, as many of overflow, and one of overflow of that", len(got), maxSeries)
	}
	var total float64
	for _, value := range got {
		total += value
	}
	if total != samples {
		t.Errorf("series sum to %v, want %v", total, samples)
	}
}

// Labels are valid only during the call: a caller may use their memory again.
func TestLabelsAreCopied(t *testing.T) {
	m := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"x"}}
	c := newTest(t, Config{MaxSeries: 2}, definition("x", m))
	line := []byte("bash")
	labels := []string{unsafe.String(&line[0], len(line))}
	c.Sample("x", tools.Sample{Metric: m, Labels: labels, Add: 1})
	copy(line, "sshd")
	c.Sample("x", tools.Sample{Metric: m, Labels: labels, Add: 2})
	if got := values(t, c, "bpf_x_total"); !maps.Equal(got, map[string]float64{"bash": 1, "sshd": 2}) {
		t.Errorf("got %v", got)
	}
}

func TestSampleDoesNotAllocate(t *testing.T) {
	count := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"x", "y"}}
	latency := &tools.Metric{Name: "bpf_x_seconds", Type: "histogram", Labels: []string{"x", "y"}}
	c := newTest(t, Config{MaxSeries: 2}, definition("x", count, latency))
	for _, m := range []*tools.Metric{count, latency} {
		s := tools.Sample{Metric: m, Labels: []string{"café", "value"}, Add: 1, Count: 1, Index: -70, Schema: 3}
		if n := testing.AllocsPerRun(100, func() { c.Sample("x", s) }); n != 0 {
			t.Errorf("%s: %v allocations for a sample of a series that exists", m.Name, n)
		}
	}
}

func FuzzLabels(f *testing.F) {
	f.Add("", "")
	f.Add("\xff", "\x00")
	f.Add("a\"\n\\", strings.Repeat("\xc3", 2000))
	f.Fuzz(func(t *testing.T, x, y string) {
		m := &tools.Metric{Name: "bpf_x_total", Type: "counter", Labels: []string{"x", "y"}}
		c := newTest(t, Config{MaxSeries: 3}, definition("x", m))
		for _, labels := range [][]string{{x, y}, {y, x}, {x, x}, {y, y}} {
			c.Sample("x", tools.Sample{Metric: m, Labels: labels, Add: 1})
		}
		var total float64
		for labels, value := range values(t, c, "bpf_x_total") {
			total += value
			if strings.Contains(labels, "\x00") {
				t.Errorf("NUL in %q", labels)
			}
		}
		if total != 4 {
			t.Errorf("series sum to %v, want 4", total)
		}
	})
}
