package collector

import (
	"container/list"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bpf_tools_exporter/tools"
)

const (
	// other is what unbounded labels say in an overflow series.
	other = "other"
	// maxValueLength is how many bytes of a label value are kept.
	maxValueLength = 1024
)

// A family holds the series of one metric.
type family struct {
	tool   string
	metric *tools.Metric
	desc   *prometheus.Desc
	cfg    Config

	mu     sync.Mutex // guards what follows and the content of the series
	series map[string]*series
	// recent holds the series that count against the bound, the most recently
	// changed first.
	recent     *list.List
	overflowed uint64 // samples
	buf        []byte // of key
}

// buckets are a histogram of any kind.
type buckets interface {
	add(s tools.Sample)
	write() *dto.Histogram
}

// A series is one set of label values with its counter or histogram. It is a
// prometheus.Metric.
type series struct {
	family    *family
	key       string
	labels    []*dto.LabelPair
	created   *timestamppb.Timestamp
	changed   time.Time
	element   *list.Element // of family.recent; nil for an overflow series
	value     float64       // of a counter
	histogram buckets       // nil for a counter
}

func newFamily(tool string, m *tools.Metric, cfg Config) (*family, error) {
	if err := check(m); err != nil {
		return nil, err
	}
	f := &family{
		tool:   tool,
		metric: m,
		desc:   prometheus.NewDesc(m.Name, m.Help, m.Labels, nil),
		cfg:    cfg,
		series: make(map[string]*series),
		recent: list.New(),
	}
	// A Desc keeps what is wrong with it to itself until it is used.
	if _, err := prometheus.NewConstMetric(f.desc, prometheus.CounterValue, 0, make([]string, len(m.Labels))...); err != nil {
		return nil, err
	}
	if len(m.Labels) == 0 {
		f.admit(f.add(nil))
	}
	return f, nil
}

func check(m *tools.Metric) error {
	if m.Type != "counter" && m.Type != "histogram" {
		return fmt.Errorf("no such type: %q", m.Type)
	}
	if m.Type == "histogram" && slices.Contains(m.Labels, "le") {
		return errors.New(`a histogram cannot have the label "le"`)
	}
	if strings.HasPrefix(m.Name, "bpf_tool_") {
		return errors.New(`names that begin with "bpf_tool_" are reserved`)
	}
	return nil
}

// sample adds to the series that the labels name, or to an overflow series. A
// sample of zero makes a series known where there is room, and is no change.
func (f *family) sample(s tools.Sample) {
	if !f.takes(s) {
		return
	}
	isZero := s.Add == 0 && (s.Count == 0 || f.metric.Type == "counter")
	f.mu.Lock()
	defer f.mu.Unlock()
	to, ok := f.series[string(f.key(s.Labels))]
	switch {
	case ok:
	case isZero && f.isFull():
		return
	case f.makeRoom():
		to = f.add(s.Labels)
		f.admit(to)
	default:
		f.overflowed++
		to = f.overflow(s.Labels)
	}
	if !isZero {
		to.grow(s)
	}
}

// takes tells whether the sample can be added to a series of the family.
func (f *family) takes(s tools.Sample) bool {
	if len(s.Labels) != len(f.metric.Labels) {
		return false
	}
	if s.Add < 0 || math.IsNaN(s.Add) || math.IsInf(s.Add, 0) {
		return false
	}
	if f.metric.Type == "histogram" && f.metric.Width != 0 {
		return s.Schema >= 0 && s.Schema <= tools.MaxDoublings && s.Index >= 0 && s.Index < tools.LinearBuckets
	}
	return f.metric.Type == "counter" || (s.Schema >= 0 && s.Schema <= maxSchema)
}

func (f *family) isFull() bool {
	return f.recent.Len() >= f.cfg.MaxSeries
}

// makeRoom tells whether one more series may be admitted. It removes one that
// has been idle for long if that helps.
func (f *family) makeRoom() bool {
	if !f.isFull() {
		return true
	}
	oldest := f.recent.Back().Value.(*series)
	if f.cfg.IdleAfter <= 0 || f.cfg.Now().Sub(oldest.changed) < f.cfg.IdleAfter {
		return false
	}
	f.recent.Remove(oldest.element)
	delete(f.series, oldest.key)
	return true
}

// overflow returns the series for samples whose own has no room. Labels that
// are bounded by their nature keep their values until they prove not to be.
func (f *family) overflow(labels []string) *series {
	to := make([]string, len(labels))
	for i, label := range f.metric.Labels {
		to[i] = other
		if f.metric.IsBounded(label) {
			to[i] = labels[i]
		}
	}
	if s, ok := f.series[string(f.key(to))]; ok {
		return s
	}
	if len(f.series)-f.recent.Len() < f.cfg.MaxSeries {
		return f.add(to)
	}
	for i := range to {
		to[i] = other
	}
	if s, ok := f.series[string(f.key(to))]; ok {
		return s
	}
	return f.add(to)
}

// add makes a series that is not in the family yet.
func (f *family) add(labels []string) *series {
	values := make([]string, len(labels))
	for i, label := range labels {
		values[i] = strings.Clone(clean(label))
	}
	now := f.cfg.Now()
	s := &series{
		family:  f,
		key:     string(f.key(labels)),
		labels:  slices.Clip(prometheus.MakeLabelPairs(f.desc, values)),
		created: timestamppb.New(now),
		changed: now,
	}
	if f.metric.Type == "histogram" {
		s.histogram = newHistogram()
		if f.metric.Width != 0 {
			s.histogram = &linear{width: f.metric.Width}
		}
	}
	f.series[s.key] = s
	return s
}

// admit counts the series against the bound.
func (f *family) admit(s *series) {
	s.element = f.recent.PushFront(s)
}

// key returns what identifies a series. It is valid until the next call.
func (f *family) key(labels []string) []byte {
	f.buf = f.buf[:0]
	for _, label := range labels {
		f.buf = append(f.buf, clean(label)...)
		f.buf = append(f.buf, 0xff) // in no valid UTF-8
	}
	return f.buf
}

func (f *family) all() []*series {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]*series, 0, len(f.series))
	for _, s := range f.series {
		all = append(all, s)
	}
	return all
}

// clean returns a label value that can be exposed. Prometheus takes a NUL, but
// what handles strings as C does would cut there.
func clean(label string) string {
	label = label[:min(len(label), maxValueLength)]
	label = strings.ToValidUTF8(label, "\uFFFD")
	return strings.ReplaceAll(label, "\x00", "\uFFFD")
}

// grow adds the sample. The caller holds the family's lock.
func (s *series) grow(by tools.Sample) {
	if s.histogram != nil {
		s.histogram.add(by)
	} else {
		s.value += by.Add
	}
	s.changed = s.family.cfg.Now()
	if s.element != nil {
		s.family.recent.MoveToFront(s.element)
	}
}

// Desc implements prometheus.Metric.
func (s *series) Desc() *prometheus.Desc {
	return s.family.desc
}

// Write implements prometheus.Metric. What it writes is of one moment.
func (s *series) Write(out *dto.Metric) error {
	s.family.mu.Lock()
	defer s.family.mu.Unlock()
	out.Label = s.labels
	if s.histogram != nil {
		out.Histogram = s.histogram.write()
		out.Histogram.CreatedTimestamp = s.created
	} else {
		out.Counter = &dto.Counter{Value: new(s.value), CreatedTimestamp: s.created}
	}
	return nil
}
