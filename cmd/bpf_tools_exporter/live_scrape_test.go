package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metrics is one scrape, by the name of the family.
type metrics map[string]*dto.MetricFamily

// labels select series: those that have all of them.
type labels map[string]string

// scrape reads the text format.
func (e *exporter) scrape(t *testing.T) metrics {
	t.Helper()
	text := e.mustGet(t, "/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("scrape does not parse: %v", err)
	}
	return families
}

// scrapeProtobuf reads the delimited protobuf format, which alone has native
// histograms.
func (e *exporter) scrapeProtobuf(t *testing.T) metrics {
	t.Helper()
	format := expfmt.NewFormat(expfmt.TypeProtoDelim)
	body, err := e.getAs("/metrics", string(format))
	if err != nil {
		t.Fatal(err)
	}
	families := make(metrics)
	decoder := expfmt.NewDecoder(strings.NewReader(body), format)
	for {
		family := new(dto.MetricFamily)
		if err := decoder.Decode(family); err == io.EOF {
			return families
		} else if err != nil {
			t.Fatalf("scrape does not decode: %v", err)
		}
		families[family.GetName()] = family
	}
}

// series are those of a family that have the labels.
func (m metrics) series(name string, want labels) []*dto.Metric {
	var found []*dto.Metric
	for _, series := range m[name].GetMetric() {
		have := make(labels)
		for _, pair := range series.Label {
			have[pair.GetName()] = pair.GetValue()
		}
		matches := true
		for label, value := range want {
			matches = matches && have[label] == value
		}
		if matches {
			found = append(found, series)
		}
	}
	return found
}

// sum adds up the series that have the labels: counters, gauges, and the
// number of observations of histograms.
func (m metrics) sum(name string, want labels) float64 {
	var sum float64
	for _, series := range m.series(name, want) {
		switch {
		case series.Histogram != nil:
			sum += float64(series.Histogram.GetSampleCount())
		case series.Gauge != nil:
			sum += series.Gauge.GetValue()
		default:
			sum += series.Counter.GetValue()
		}
	}
	return sum
}

// with returns the labels and one more.
func (l labels) with(name, value string) labels {
	more := maps.Clone(l)
	more[name] = value
	return more
}

// A count is what a metric must come to.
type count struct {
	metric string
	labels labels
	want   float64
}

// defaultsUp are the tools that run all the time by default.
func defaultsUp() []count {
	var up []count
	for _, tool := range []string{"biolatency", "cachestat", "execsnoop", "tcplife", "tcpretrans"} {
		up = append(up, count{"bpf_tool_up", labels{"tool": tool}, 1})
	}
	return up
}

// expectCounts waits until all counts are reached, and fails if one is not, or
// is exceeded.
func (e *exporter) expectCounts(t *testing.T, counts ...count) {
	t.Helper()
	e.expectRise(t, nil, counts...)
}

// expectRise is expectCounts for what came on top of an earlier scrape.
func (e *exporter) expectRise(t *testing.T, since metrics, counts ...count) {
	t.Helper()
	eventually(t, 10*time.Second, "counts are exact", func() error {
		now := e.scrape(t)
		for _, c := range counts {
			got := now.sum(c.metric, c.labels) - since.sum(c.metric, c.labels)
			if got > c.want || math.IsNaN(got) {
				t.Fatalf("%s%v rose by %v, want exactly %v", c.metric, c.labels, got, c.want)
			}
			if got < c.want {
				return fmt.Errorf("%s%v rose by %v, want %v", c.metric, c.labels, got, c.want)
			}
		}
		return nil
	})
}
