package ondemand

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"bpf_tools_exporter/tools"
)

// Document is a run as JSON. Keys are only ever added.
type Document struct {
	ID       string            `json:"id"`
	Tool     string            `json:"tool"`
	Help     string            `json:"help"`
	State    State             `json:"state"`
	Error    string            `json:"error"`
	Duration float64           `json:"duration_seconds"`
	Elapsed  float64           `json:"elapsed_seconds"`
	Progress float64           `json:"progress"` // 0 to 1
	Samples  uint64            `json:"samples"`
	Options  map[string]string `json:"options"`
	Created  time.Time         `json:"created"`
	Started  *time.Time        `json:"started"`
	Ended    *time.Time        `json:"ended"`
	// Source is null until the tool sees events.
	Source      *DocumentSource     `json:"source"`
	Lost        uint64              `json:"lost"`
	ParseErrors uint64              `json:"parse_errors"`
	Histograms  []DocumentHistogram `json:"histograms"`
	Counters    []DocumentCounter   `json:"counters"`
	// Fields and events are there for those who may see arguments.
	Fields []DocumentField `json:"fields"`
	Events []tools.Event   `json:"events"`
	// Stacks are there when the run is over.
	Stacks []DocumentStack `json:"stacks"`
}

// DocumentSource is what served a run.
type DocumentSource struct {
	Backend string `json:"backend"`
	Version string `json:"version"`
	Path    string `json:"path"`
}

// DocumentHistogram is one metric with its course.
type DocumentHistogram struct {
	Name   string           `json:"name"`
	Help   string           `json:"help"`
	Unit   string           `json:"unit"` // of bounds and sum, "seconds" but for linear ones
	Linear bool             `json:"linear"`
	Schema int              `json:"schema"`
	Series []DocumentSeries `json:"series"`
	// Buckets are those of all series. Intervals have the same, by time.
	Count     uint64             `json:"count"`
	Sum       float64            `json:"sum"`
	Median    *float64           `json:"median"` // null of nothing
	P99       *float64           `json:"p99"`
	Buckets   []DocumentBucket   `json:"buckets"`
	Intervals []DocumentInterval `json:"intervals"`
}

// DocumentSeries is one set of labels of a histogram.
type DocumentSeries struct {
	Labels  map[string]string `json:"labels"`
	Count   uint64            `json:"count"`
	Sum     float64           `json:"sum"`
	Buckets []DocumentBucket  `json:"buckets"`
}

// DocumentBucket holds values above Lower up to Upper, in seconds.
type DocumentBucket struct {
	Lower float64 `json:"lower"`
	Upper float64 `json:"upper"`
	Count uint64  `json:"count"`
}

// DocumentInterval is what came up to End, in seconds of the run.
type DocumentInterval struct {
	End     float64          `json:"end"`
	Buckets []DocumentBucket `json:"buckets"`
}

// DocumentCounter is a counter.
type DocumentCounter struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	Value  float64           `json:"value"`
}

// DocumentField is a column of the events.
type DocumentField struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// DocumentStack is a sampled stack, outermost frame first.
type DocumentStack struct {
	Comm   string   `json:"comm"`
	PID    string   `json:"pid"`
	User   []string `json:"user"`
	Kernel []string `json:"kernel"`
	Count  uint64   `json:"count"`
}

// Document returns the run as JSON has it. The events are left out for those who
// may not see arguments.
func (r *Run) Document(events bool) Document {
	p := r.Progress()
	d := Document{
		ID: r.ID, Tool: r.Definition.Name, Help: r.Definition.Help, State: p.State,
		Duration: r.Duration.Seconds(), Elapsed: p.Elapsed.Seconds(), Progress: p.Fraction, Samples: p.Samples,
		Options: map[string]string{}, Created: r.Created.UTC(), Started: moment(p.Started), Ended: moment(p.Ended),
		Lost: p.Lost, ParseErrors: p.ParseErrors,
		Counters: []DocumentCounter{}, Fields: []DocumentField{}, Events: []tools.Event{}, Stacks: []DocumentStack{},
	}
	for name, value := range r.Options {
		d.Options[name] = value
	}
	if p.Err != nil {
		d.Error = p.Err.Error()
	}
	if p.Source != nil {
		d.Source = &DocumentSource{Backend: p.Source.Source.Backend, Version: p.Source.Version, Path: p.Source.Path}
	}
	series := r.Series()
	d.Histograms = r.histograms(series)
	for _, s := range series {
		if s.Metric.Type == "counter" {
			d.Counters = append(d.Counters, DocumentCounter{s.Metric.Name, labelsOf(s), s.Value})
		}
	}
	for _, f := range r.Definition.Fields {
		d.Fields = append(d.Fields, DocumentField{f.Name, f.Type})
	}
	if events {
		d.Events = append(d.Events, r.Events()...)
	}
	if p.State.IsOver() {
		for _, s := range r.Stacks() {
			d.Stacks = append(d.Stacks, DocumentStack{s.Keys[0], s.Keys[1], append([]string{}, s.User...), append([]string{}, s.Kernel...), s.Count})
		}
	}
	return d
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (r *Run) histograms(series []Series) []DocumentHistogram {
	all := []DocumentHistogram{}
	intervals := r.Intervals()
	for _, m := range r.Definition.Metrics {
		if m.Type != "histogram" {
			continue
		}
		h := DocumentHistogram{Name: m.Name, Help: m.Help, Unit: unitOf(m), Linear: m.Width != 0, Series: []DocumentSeries{}, Intervals: []DocumentInterval{}}
		total := Series{Metric: m, Buckets: make(map[int]uint64)}
		for _, s := range series {
			if s.Metric != m || s.Count == 0 {
				continue
			}
			h.Series = append(h.Series, DocumentSeries{labelsOf(s), s.Count, s.Value, buckets(s, s.Buckets)})
			total.Schema = s.Schema
			total.Count += s.Count
			total.Value += s.Value
			for index, n := range s.Buckets {
				total.Buckets[index] += n
			}
		}
		h.Schema, h.Count, h.Sum, h.Buckets = total.Schema, total.Count, total.Value, buckets(total, total.Buckets)
		if !h.Linear {
			h.Median, h.P99 = number(total.Quantile(0.5)), number(total.Quantile(0.99))
		}
		for _, i := range intervals {
			h.Intervals = append(h.Intervals, DocumentInterval{i.End.Seconds(), buckets(total, i.Buckets[m])})
		}
		all = append(all, h)
	}
	return all
}

// number is nil for what JSON cannot say.
func number(f float64) *float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return &f
}

// unitOf is what the name of a histogram ends with.
func unitOf(m *tools.Metric) string { return m.Name[strings.LastIndexByte(m.Name, '_')+1:] }

// buckets are counts of a series, or of a part of it, with their bounds.
func buckets(of Series, counts map[int]uint64) []DocumentBucket {
	if of.Metric.Width != 0 {
		return linearBuckets(of, counts)
	}
	indices := slices.Sorted(maps.Keys(counts))
	all := make([]DocumentBucket, len(indices))
	bound := func(index int) float64 { return math.Exp2(float64(index) * math.Exp2(-float64(of.Schema))) }
	for i, index := range indices {
		all[i] = DocumentBucket{bound(index - 1), bound(index), counts[index]}
	}
	return all
}

// linearBuckets are as wide as the widest of the series.
func linearBuckets(of Series, counts map[int]uint64) []DocumentBucket {
	doublings := 0
	for index := range of.Buckets {
		doublings = max(doublings, index/tools.LinearBuckets)
	}
	merged := make(map[int]uint64)
	for index, n := range counts {
		finer := doublings - index/tools.LinearBuckets
		merged[index%tools.LinearBuckets>>finer] += n
	}
	width := float64(of.Metric.Width) * math.Exp2(float64(doublings))
	all := make([]DocumentBucket, 0, len(merged))
	for _, index := range slices.Sorted(maps.Keys(merged)) {
		all = append(all, DocumentBucket{float64(index) * width, float64(index+1) * width, merged[index]})
	}
	return all
}

func labelsOf(s Series) map[string]string {
	labels := make(map[string]string, len(s.Labels))
	for i, name := range s.Metric.Labels {
		labels[name] = s.Labels[i]
	}
	return labels
}
