package tools

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"bpf_tools_exporter/tools/selftest"
)

// SelfTest says how a source of the tool proves that it counts right: what is
// done, and what the source must have seen of it.
type SelfTest struct {
	// Workload is one of selftest.Workloads.
	Workload string `yaml:"workload"`
	// Expect are the bounds of what must be seen.
	Expect []*Expectation `yaml:"expect"`
}

// An Expectation bounds the sum of a metric's samples.
type Expectation struct {
	// When lists the options with the values under which this is expected.
	When   map[string]string `yaml:"when"`
	Metric string            `yaml:"metric"`
	// Labels are those of the samples that count. A value may be $ and a name
	// that the workload gives.
	Labels map[string]string `yaml:"labels"`
	// AtLeast and AtMost are inclusive: a number, the name of one that the
	// workload gives, or both, such as "0.9 execs".
	AtLeast string `yaml:"at_least"`
	AtMost  string `yaml:"at_most"`
}

// amount is a number of an expectation.
type amount struct {
	factor float64
	name   string // "" for a plain number
}

func parseAmount(text string, names []string) (amount, error) {
	a := amount{factor: 1}
	words := strings.Fields(text)
	if len(words) > 0 {
		if factor, err := strconv.ParseFloat(words[0], 64); err == nil && factor > 0 && factor < 1e15 {
			a.factor, words = factor, words[1:]
			if len(words) == 0 {
				return a, nil
			}
		}
	}
	if len(words) != 1 || !slices.Contains(names, words[0]) {
		return a, fmt.Errorf("%q: want a number above 0, one of %s, or both, such as 0.9 %s", text, strings.Join(names, ", "), names[0])
	}
	a.name = words[0]
	return a, nil
}

func (a amount) value(numbers map[string]float64) float64 {
	if a.name == "" {
		return a.factor
	}
	return a.factor * numbers[a.name]
}

// judge says what is wrong with a tally, "" if nothing is. Too much is final,
// while of too little more may come.
func (t *tally) judge(w *selftest.Workload, numbers map[string]float64) (fault string, final bool) {
	value := func(text string) float64 {
		a, _ := parseAmount(text, w.Numbers) // checked by the catalogue
		return a.value(numbers)
	}
	switch {
	case t.expect.AtLeast != "" && t.seen < value(t.expect.AtLeast):
		return fmt.Sprintf("saw %s, want at least %s", t.what(), plain(value(t.expect.AtLeast))), false
	case t.expect.AtMost != "" && t.seen > value(t.expect.AtMost):
		return fmt.Sprintf("saw %s, want at most %s", t.what(), plain(value(t.expect.AtMost))), true
	}
	return "", false
}

// plain has six decimals at most, so that 0.8 of a count shows as such.
func plain(f float64) string { return strconv.FormatFloat(math.Round(f*1e6)/1e6, 'f', -1, 64) }

// what says what was seen: "0 misses", "12 opens of result ENOTDIR".
func (t *tally) what() string {
	name := "values" // of a histogram
	if counter, ok := strings.CutSuffix(t.metric, "_total"); ok {
		_, name, _ = strings.Cut(strings.TrimPrefix(counter, "bpf_"), "_")
		name = strings.ReplaceAll(name, "_", " ")
	}
	var of []string
	for _, label := range sortedKeys(t.labels) {
		of = append(of, label+" "+t.labels[label])
	}
	text := plain(t.seen) + " " + name
	if len(of) > 0 {
		text += " of " + strings.Join(of, ", ")
	}
	return text
}

// checkSelfTest makes sure that a workload can fulfil what is expected.
func (c *checker) checkSelfTest() error {
	t := c.d.SelfTest
	if t == nil {
		return nil
	}
	w := selftest.Workloads[t.Workload]
	switch {
	case w == nil:
		return c.fail("workload %q: want one of %s", a(t.Workload, strings.Join(selftest.Names(), ", ")), "selftest", "workload")
	case len(t.Expect) == 0:
		return c.fail("selftest has no expect: say what must be seen of the workload", nil, "selftest")
	}
	for i, e := range t.Expect {
		if err := c.checkExpectation(i, e, w); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) checkExpectation(i int, e *Expectation, w *selftest.Workload) error {
	at := []any{"selftest", "expect", i}
	if e == nil {
		return c.fail("this expectation is empty", nil, at...)
	}
	metric := c.d.Metric(e.Metric)
	if metric == nil {
		return c.fail("no metric %q among metrics", a(e.Metric), append(at, "metric")...)
	}
	for _, option := range sortedKeys(e.When) {
		if o, ok := c.d.Options[option]; !ok {
			return c.fail("when names option %q, which is not among options", a(option), append(at, "when", option)...)
		} else if err := o.Check(e.When[option]); err != nil {
			return c.fail("when: option %s: %v", a(option, err), append(at, "when", option)...)
		}
	}
	for _, label := range sortedKeys(e.Labels) {
		name, isName := strings.CutPrefix(e.Labels[label], "$")
		if !slices.Contains(metric.Labels, label) {
			return c.fail("%s has no label %q", a(e.Metric, label), append(at, "labels", label)...)
		}
		if isName && !slices.Contains(w.Names, name) {
			return c.fail("label %s: workload %s gives no $%s; it gives $%s", a(label, c.d.SelfTest.Workload, name, strings.Join(w.Names, ", $")), append(at, "labels", label)...)
		}
	}
	if e.AtLeast == "" && e.AtMost == "" {
		return c.fail("this expectation bounds nothing: want at_least or at_most", nil, at...)
	}
	bounds := map[string]string{"at_least": e.AtLeast, "at_most": e.AtMost}
	for _, key := range sortedKeys(bounds) {
		if bounds[key] == "" {
			continue
		}
		if _, err := parseAmount(bounds[key], w.Numbers); err != nil {
			return c.fail("%s: %v", a(key, err), append(at, key)...)
		}
	}
	return nil
}
