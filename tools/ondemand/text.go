package ondemand

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"bpf_tools_exporter/tools"
)

// topRows is how many programs and functions the text shows.
const topRows = 40

// WriteText writes the run for a terminal: histograms as bars by octaves, a
// profile as its programs and functions, events as lines.
func (r *Run) WriteText(w io.Writer, events bool) error {
	b := bufio.NewWriter(w)
	p := r.Progress()
	fmt.Fprintf(b, "%s, %s of %s, %d samples: %s\n", r.Definition.Name, p.Elapsed.Round(time.Millisecond*100), r.Duration, p.Samples, p.State)
	if p.Source != nil {
		fmt.Fprintf(b, "from %s %s, %d lost, %d lines not understood\n", p.Source.Source.Backend, plain(p.Source.Version), p.Lost, p.ParseErrors)
	}
	if p.Err != nil {
		fmt.Fprintf(b, "%s\n", plain(p.Err.Error()))
	}
	for _, s := range r.Series() {
		if s.Metric.Type != "histogram" || s.Count == 0 {
			continue
		}
		if s.Metric.Width != 0 {
			writeLinear(b, s)
			continue
		}
		writeHistogram(b, s)
	}
	if r.Definition.Profiles() {
		r.writeTop(b, p.Samples)
	} else {
		r.writeCounters(b)
	}
	if events {
		for _, e := range r.Events() {
			if line, err := e.MarshalJSON(); err == nil {
				fmt.Fprintf(b, "%s\n", line)
			}
		}
	}
	return b.Flush()
}

func seriesName(s Series) string {
	var pairs []string
	for i, label := range s.Metric.Labels {
		pairs = append(pairs, fmt.Sprintf("%s=%q", label, plain(s.Labels[i])))
	}
	if len(pairs) == 0 {
		return s.Metric.Name
	}
	return s.Metric.Name + "{" + strings.Join(pairs, ",") + "}"
}

// maxBar is the length of the longest bar.
const maxBar = 40

func writeHistogram(b *bufio.Writer, s Series) {
	octaves := make(map[int]uint64)
	var most uint64
	first, last := math.MaxInt, math.MinInt
	for index, n := range s.Buckets {
		octave := int(math.Ceil(float64(index) / math.Exp2(float64(s.Schema))))
		octaves[octave] += n
		most = max(most, octaves[octave])
		first, last = min(first, octave), max(last, octave)
	}
	fmt.Fprintf(b, "\n%s: %d, mean %s, median %s, p99 %s\n", seriesName(s), s.Count, seconds(s.Value/float64(s.Count)), seconds(s.Quantile(0.5)), seconds(s.Quantile(0.99)))
	fmt.Fprintf(b, "%23s : %-10s distribution\n", "up to", "count")
	for octave := first; octave <= last; octave++ {
		n := octaves[octave]
		fmt.Fprintf(b, "%23s : %-10d |%-*s|\n", seconds(math.Exp2(float64(octave))), n, maxBar, strings.Repeat("*", int(n*maxBar/most)))
	}
}

func writeLinear(b *bufio.Writer, s Series) {
	all := buckets(s, s.Buckets)
	var most uint64
	for _, bucket := range all {
		most = max(most, bucket.Count)
	}
	fmt.Fprintf(b, "\n%s: %d\n", seriesName(s), s.Count)
	fmt.Fprintf(b, "%23s : %-10s distribution\n", "from, in "+unitOf(s.Metric), "count")
	for _, bucket := range all {
		fmt.Fprintf(b, "%23.0f : %-10d |%-*s|\n", bucket.Lower, bucket.Count, maxBar, strings.Repeat("*", int(bucket.Count*maxBar/most)))
	}
}

// Quantile estimates a quantile from the buckets, by interpolation on a
// logarithmic scale, as Prometheus does for native histograms.
func (s *Series) Quantile(q float64) float64 {
	indices := make([]int, 0, len(s.Buckets))
	for index := range s.Buckets {
		indices = append(indices, index)
	}
	slices.Sort(indices)
	rank, below := q*float64(s.Count), 0.0
	for _, index := range indices {
		n := float64(s.Buckets[index])
		if below+n >= rank {
			return math.Exp2((float64(index-1) + (rank-below)/n) * math.Exp2(-float64(s.Schema)))
		}
		below += n
	}
	return math.NaN()
}

// seconds shows a time with three digits in the unit that suits.
func seconds(s float64) string {
	for _, unit := range []struct {
		name  string
		scale float64
	}{{"s", 1}, {"ms", 1e3}, {"us", 1e6}} {
		if s*unit.scale >= 1 {
			return fmt.Sprintf("%.3g %s", s*unit.scale, unit.name)
		}
	}
	return fmt.Sprintf("%.3g ns", s*1e9)
}

func (r *Run) writeTop(b *bufio.Writer, samples uint64) {
	programs, functions := r.Top()
	share := func(n uint64) float64 { return 100 * float64(n) / float64(max(samples, 1)) }
	fmt.Fprintf(b, "\n%9s %7s  program\n", "samples", "")
	for _, p := range programs[:min(len(programs), topRows)] {
		fmt.Fprintf(b, "%9d %6.1f%%  %s\n", p.Total, share(p.Total), p.Name)
	}
	fmt.Fprintf(b, "\n%9s %7s %9s %7s  function\n", "self", "", "total", "")
	for _, f := range functions[:min(len(functions), topRows)] {
		fmt.Fprintf(b, "%9d %6.1f%% %9d %6.1f%%  %s\n", f.Self, share(f.Self), f.Total, share(f.Total), f.Name)
	}
}

func (r *Run) writeCounters(b *bufio.Writer) {
	var last *tools.Metric
	for _, s := range r.Series() {
		if s.Metric.Type != "counter" {
			continue
		}
		if s.Metric != last {
			fmt.Fprintln(b)
			last = s.Metric
		}
		fmt.Fprintf(b, "%s %g\n", seriesName(s), s.Value)
	}
}
