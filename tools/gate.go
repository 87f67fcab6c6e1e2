package tools

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"bpf_tools_exporter/tools/selftest"
)

// A gate stands behind the feed of a source that has not proven yet that it
// counts right. While it is shut, samples reach nobody: they are added up only,
// for the self-test to look at.
type gate struct {
	open atomic.Bool

	mu      sync.Mutex
	tallies []*tally
}

// tally adds up the samples that an expectation is about.
type tally struct {
	expect *Expectation
	metric string
	labels map[string]string // that the samples must have
	seen   float64
}

// shut tells whether samples do not pass. A nil gate is open.
func (g *gate) shut() bool { return g != nil && !g.open.Load() }

// arm begins a self-test: tallies are of what comes from now on.
func (g *gate) arm(d *Definition, s *Source, options map[string]string, plan *selftest.Plan) {
	var tallies []*tally
	for _, e := range d.SelfTest.Expect {
		if !e.wanted(d, options) || !s.feeds(d, e.Metric) {
			continue
		}
		t := &tally{expect: e, metric: e.Metric, labels: make(map[string]string)}
		for label, value := range e.Labels {
			if name, ok := strings.CutPrefix(value, "$"); ok {
				value = plan.Label(d.SelfTest.Workload, name)
			}
			if value != "" {
				t.labels[label] = value
			}
		}
		tallies = append(tallies, t)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tallies = tallies
}

// take adds a sample up.
func (g *gate) take(s Sample) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.tallies {
		if !t.matches(s) {
			continue
		}
		if s.Metric.Type == "histogram" {
			t.seen += float64(s.Count)
		} else {
			t.seen += s.Add
		}
	}
}

// matches takes a label that the source does not know for the one it should have.
func (t *tally) matches(s Sample) bool {
	if s.Metric.Name != t.metric {
		return false
	}
	for i, label := range s.Metric.Labels {
		if want, ok := t.labels[label]; ok && s.Labels[i] != want && s.Labels[i] != unknown {
			return false
		}
	}
	return true
}

// tallied is a copy of what was seen so far.
func (g *gate) tallied() []tally {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]tally, 0, len(g.tallies))
	for _, t := range g.tallies {
		all = append(all, *t)
	}
	return all
}

// feeds tells whether the source fills the metric at all.
func (s *Source) feeds(d *Definition, metric string) bool {
	switch {
	case len(s.Maps) > 0:
		for _, m := range s.Maps {
			if m.Metric == metric {
				return true
			}
		}
		return false
	case s.Format == "log2":
		return d.Metrics[0].Name == metric
	}
	return true
}

// wanted tells whether the tool's options make the expectation one.
func (e *Expectation) wanted(d *Definition, options map[string]string) bool {
	return !slices.ContainsFunc(sortedKeys(e.When), func(name string) bool { return d.option(name, options) != e.When[name] })
}
