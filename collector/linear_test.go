package collector

import (
	"math"
	"testing"

	"bpf_tools_exporter/tools"
)

func linearDefinition() *tools.Definition {
	return &tools.Definition{Name: "probe", Metrics: []*tools.Metric{
		{Name: "bpf_probe_offset_bytes", Help: "Offsets.", Type: "histogram", Width: 16, Labels: []string{"device"}},
	}}
}

// counts are the cumulative counts of a linear histogram by upper bound.
func counts(h *linear) map[float64]uint64 {
	by := make(map[float64]uint64)
	for _, b := range h.write().Bucket {
		by[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	return by
}

func TestLinear(t *testing.T) {
	h := &linear{width: 16}
	h.add(tools.Sample{Index: 0, Count: 1, Add: 3})
	h.add(tools.Sample{Index: 63, Count: 2, Add: 2000})
	before := counts(h)
	if len(before) != 64 || before[16] != 1 || before[1008] != 1 || before[1024] != 3 {
		t.Errorf("got %v", before)
	}
	// A value of twice as wide buckets: the bounds that stay keep their counts.
	h.add(tools.Sample{Schema: 1, Index: 40, Count: 5})
	after := counts(h)
	if len(after) != 64 || after[16*128] != 8 || after[16*2*40] != 3 || after[16*2*41] != 8 {
		t.Errorf("got %v", after)
	}
	for bound, n := range before {
		if now, ok := after[bound]; ok && bound <= 1024 && now != n {
			t.Errorf("le %g went from %d to %d", bound, n, now)
		}
	}
	// One of narrower buckets goes to where it belongs.
	h.add(tools.Sample{Schema: 0, Index: 5, Count: 1})
	if got := counts(h); got[16*2*2] != 1 || got[16*2*3] != 2 {
		t.Errorf("got %v", got)
	}
	h.add(tools.Sample{Schema: tools.MaxDoublings, Index: 63, Count: 1})
	written := h.write()
	if written.GetSampleCount() != 10 || written.GetSampleSum() != 2003 || written.Schema != nil || len(written.PositiveSpan) != 0 {
		t.Errorf("got %v", written)
	}
	if bounds := counts(h); bounds[math.Ldexp(16, tools.MaxDoublings)] != 9 {
		t.Errorf("got %v", bounds)
	}
}

func TestLinearFamily(t *testing.T) {
	c := New(Config{MaxSeries: 10})
	d := linearDefinition()
	if err := c.AddTool(d); err != nil {
		t.Fatal(err)
	}
	m := d.Metrics[0]
	for _, s := range []tools.Sample{
		{Index: 5, Count: 3, Add: 300},
		{Index: 64, Count: 1}, {Index: -1, Count: 1}, {Schema: -1, Count: 1}, {Schema: tools.MaxDoublings + 1, Count: 1}, // no such buckets
	} {
		s.Metric, s.Labels = m, []string{"sda"}
		c.Sample("probe", s)
	}
	f := c.families[m]
	for _, s := range f.all() {
		if h := s.histogram.(*linear); h.count != 3 || h.counts[5] != 3 || h.sum != 300 {
			t.Errorf("got %+v", h)
		}
	}
}
