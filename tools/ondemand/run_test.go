package ondemand

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/output"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testRun(t *testing.T, tool string) *Run {
	t.Helper()
	catalog, err := tools.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(catalog.Tool(tool), request(tool))
	r.begins(time.Now())
	r.Started(tools.RunSource{Source: &tools.Source{Backend: "bpftrace"}, Version: "0.17.0", Path: "/usr/bin/bpftrace"})
	return r
}

func stack(comm, pid string, count uint64, user, kernel string) output.Stack {
	s := output.Stack{Keys: []string{comm, pid}, Count: count}
	if user != "" {
		s.User = strings.Fields(user)
	}
	if kernel != "" {
		s.Kernel = strings.Fields(kernel)
	}
	return s
}

func profiled(t *testing.T) *Run {
	r := testRun(t, "profile")
	for _, s := range []output.Stack{
		stack("busy", "7", 60, "main spin", ""),
		stack("busy", "7", 10, "main spin", "entry_SYSCALL_64 ksys_read"),
		stack("busy", "8", 5, "main spin", ""),
		stack("busy", "7", 4, "main main main", ""),
		stack("kworker/0:1", "9", 3, "", "ret_from_fork kthread"),
		stack("sh", "10", 2, "[unknown] [unknown]", ""),
		stack("none", "11", 1, "", ""),
		{Keys: []string{"a;b\nc 9", ""}, User: []string{"<img src=x>", "x;y", "\xff\x1b[2J", ""}, Count: 1},
	} {
		r.Stack(s)
	}
	r.Sample("profile", tools.Sample{Metric: r.Definition.Metrics[0], Labels: []string{"busy"}, Add: 79})
	r.Sample("profile", tools.Sample{Metric: r.Definition.Metrics[0], Labels: []string{"other"}, Add: 7})
	r.Tick()
	r.ends(tools.RunCounts{}, nil)
	return r
}

const profiledSamples = 86

func TestFolded(t *testing.T) {
	var b bytes.Buffer
	if err := profiled(t).WriteFolded(&b); err != nil {
		t.Fatal(err)
	}
	want := `busy;main;spin 65
busy;main;spin;entry_SYSCALL_64_[k];ksys_read_[k] 10
busy;main;main;main 4
kworker/0:1;ret_from_fork_[k];kthread_[k] 3
sh;[unknown];[unknown] 2
a:b?c 9;<img src=x>;x:y;??[2J;[unknown] 1
none;[unknown] 1
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestTotalsAgree adds up what each format says.
func TestTotalsAgree(t *testing.T) {
	r := profiled(t)
	var folded bytes.Buffer
	if err := r.WriteFolded(&folded); err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, line := range strings.Split(strings.TrimSpace(folded.String()), "\n") {
		n, err := strconv.ParseUint(line[strings.LastIndexByte(line, ' ')+1:], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	rows := r.FlameGraph()
	var self uint64
	for i, row := range rows {
		self += row.Self
		// A row's value is its own and that of the rows one level below it.
		below := row.Self
		for _, next := range rows[i+1:] {
			if next.Level <= row.Level {
				break
			}
			if next.Level == row.Level+1 {
				below += next.Value
			}
		}
		if below != row.Value {
			t.Errorf("%+v: adds up to %d", row, below)
		}
	}
	programs, functions := r.Top()
	var ofPrograms, ofFunctions uint64
	for _, p := range programs {
		ofPrograms += p.Total
	}
	for _, f := range functions {
		ofFunctions += f.Self
	}
	if sum != profiledSamples || rows[0].Value != profiledSamples || self != profiledSamples || ofPrograms != profiledSamples || ofFunctions != profiledSamples {
		t.Errorf("folded %d, rows %d, self %d, programs %d, functions %d; want %d", sum, rows[0].Value, self, ofPrograms, ofFunctions, profiledSamples)
	}
	if f := functions[0]; f.Name != "spin" || f.Self != 65 || f.Total != 75 {
		t.Errorf("first function %+v", f)
	}
}

func TestPprof(t *testing.T) {
	var b bytes.Buffer
	r := profiled(t)
	if err := r.WritePprof(&b, 49); err != nil {
		t.Fatal(err)
	}
	if b.Bytes()[0] != 0x1f || b.Bytes()[1] != 0x8b {
		t.Error("not gzipped")
	}
	p, err := profile.Parse(&b)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.CheckValid(); err != nil {
		t.Error(err)
	}
	var samples, ns int64
	for _, s := range p.Sample {
		samples += s.Value[0]
		ns += s.Value[1]
	}
	period := int64(1e9) / 49
	if samples != profiledSamples || ns != profiledSamples*period || p.Period != period || p.PeriodType.Unit != "nanoseconds" || p.DurationNanos <= 0 {
		t.Errorf("%d samples, %d ns, period %d %v", samples, ns, p.Period, p.PeriodType)
	}
	first := p.Sample[0]
	var names []string
	for _, l := range first.Location {
		names = append(names, l.Line[0].Function.Name)
	}
	if fmt.Sprint(names) != "[spin main busy]" || first.Label["comm"][0] != "busy" || first.NumLabel["pid"][0] != 7 {
		t.Errorf("first sample %v %v %v", names, first.Label, first.NumLabel)
	}
	for _, s := range p.Sample {
		for _, l := range s.Location {
			name := l.Line[0].Function.Name
			if kernel := l.Mapping.File == "[kernel.kallsyms]"; kernel != strings.Contains(" entry_SYSCALL_64 ksys_read ret_from_fork kthread ", " "+name+" ") {
				t.Errorf("%s is in %s", name, l.Mapping.File)
			}
			if strings.HasPrefix(name, "[unknown]") && !strings.HasPrefix(name, "[unknown] in ") {
				t.Errorf("%s does not say whose it is", name)
			}
		}
	}
}

// latency yields runqlat's values in four intervals.
func latency(t *testing.T) *Run {
	r := testRun(t, "runqlat")
	m := r.Definition.Metrics[0]
	for i := range 4 {
		for j, n := range []uint64{10, 20, 5} {
			// Around 15 us, and 8 ms in the last two.
			index := -130 + j
			if i >= 2 && j == 2 {
				index = -56
			}
			r.Sample("runqlat", tools.Sample{Metric: m, Count: n, Index: index, Schema: 3})
		}
		r.Sample("runqlat", tools.Sample{Metric: m, Add: 0.01})
		r.Tick()
	}
	return r
}

func TestHistogram(t *testing.T) {
	r := latency(t)
	r.seeing = time.Now().Add(-4 * time.Second)
	r.ends(tools.RunCounts{}, nil)
	d := r.Document(true)
	if len(d.Histograms) != 1 || d.Samples != 140 || d.State != Over || d.Progress != 1 {
		t.Fatalf("got %+v", d)
	}
	h := d.Histograms[0]
	var ofIntervals, ofBuckets uint64
	for _, i := range h.Intervals {
		for _, b := range i.Buckets {
			ofIntervals += b.Count
		}
	}
	for _, b := range h.Buckets {
		ofBuckets += b.Count
	}
	if h.Count != 140 || ofIntervals != 140 || ofBuckets != 140 || len(h.Intervals) != 4 || math.Abs(h.Sum-0.04) > 1e-9 {
		t.Errorf("count %d, intervals %d (%d), buckets %d, sum %g", h.Count, ofIntervals, len(h.Intervals), ofBuckets, h.Sum)
	}
	if median := *h.Median; median < 1.2e-5 || median > 1.4e-5 {
		t.Errorf("median %g", median)
	}
	if p99 := *h.P99; p99 < 7.1e-3 || p99 > 7.9e-3 {
		t.Errorf("p99 %g", p99)
	}
	if _, err := json.Marshal(d); err != nil {
		t.Error(err)
	}
	empty := testRun(t, "runqlat").Document(true)
	if text, err := json.Marshal(empty); err != nil || strings.Contains(string(text), "NaN") || empty.Histograms[0].Median != nil {
		t.Errorf("%s, %v", text, err)
	}
}

func TestText(t *testing.T) {
	r := latency(t)
	r.seeing = time.Now().Add(-4 * time.Second)
	r.ends(tools.RunCounts{Lost: 2}, nil)
	var b bytes.Buffer
	if err := r.WriteText(&b, true); err != nil {
		t.Fatal(err)
	}
	b.WriteString("----\n")
	p := profiled(t)
	p.seeing = p.ended.Add(-time.Second)
	if err := p.WriteText(&b, true); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/text.golden"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestIntervalsMerge has more ticks than are kept apart.
func TestIntervalsMerge(t *testing.T) {
	r := testRun(t, "runqlat")
	r.Duration = time.Hour
	m := r.Definition.Metrics[0]
	const ticks = 1000
	for range ticks {
		r.Sample("runqlat", tools.Sample{Metric: m, Count: 1, Index: -100, Schema: 3})
		r.Tick()
	}
	intervals := r.Intervals()
	var sum uint64
	last := time.Duration(0)
	for _, i := range intervals {
		sum += i.Buckets[m][-100]
		if i.End <= last {
			t.Errorf("%s after %s", i.End, last)
		}
		last = i.End
	}
	if len(intervals) > maxIntervals || len(intervals) < maxIntervals/2 || sum != ticks {
		t.Errorf("%d intervals of %d values", len(intervals), sum)
	}
}

// TestRunIsBounded has more of everything than is kept.
func TestRunIsBounded(t *testing.T) {
	r := testRun(t, "profile")
	m := r.Definition.Metrics[0]
	for i := range 2 * maxSeries {
		r.Sample("profile", tools.Sample{Metric: m, Labels: []string{fmt.Sprint(i)}, Add: 1})
	}
	var sum float64
	for _, s := range r.Series() {
		sum += s.Value
	}
	if n := len(r.Series()); n > maxSeries+1 || sum != 2*maxSeries || r.Progress().Samples != 2*maxSeries {
		t.Errorf("%d series of %g", n, sum)
	}
	long := strings.Repeat("x", 500)
	for i := range maxStacks + 1000 {
		r.Stack(output.Stack{Keys: []string{"x", "1"}, User: []string{long, fmt.Sprint(i)}, Count: 1})
	}
	var count uint64
	for _, s := range r.Stacks() {
		count += s.Count
	}
	if n := len(r.Stacks()); n > maxStacks || count != maxStacks+1000 || r.bytes() > 2*maxStackBytes {
		t.Errorf("%d stacks of %d samples, %d bytes", n, count, r.bytes())
	}
	for range 100 {
		r.Event(tools.Event{Values: []string{strings.Repeat("x", maxEventBytes/10)}})
	}
	if n := len(r.Events()); n < 5 || n > 10 {
		t.Errorf("%d events are kept", n)
	}
}

// TestReplay passes what a run counted on to another sink.
func TestReplay(t *testing.T) {
	r := latency(t)
	copied := testRun(t, "runqlat")
	copied.Definition = r.Definition
	r.Replay(copied)
	was, is := r.Series(), copied.Series()
	if fmt.Sprint(was) != fmt.Sprint(is) {
		t.Errorf("got %v, want %v", is, was)
	}
}

// TestLinear has buckets of two widths.
func TestLinear(t *testing.T) {
	r := testRun(t, "biosnoop")
	m := r.Definition.Metric("bpf_biosnoop_offset_bytes")
	for _, s := range []tools.Sample{{Index: 0, Count: 1}, {Index: 5, Count: 2}, {Index: 40, Schema: 1, Count: 4}} {
		s.Metric, s.Labels = m, []string{"vda"}
		r.Sample("biosnoop", s)
	}
	r.Tick()
	d := r.Document(true)
	var h DocumentHistogram
	for _, one := range d.Histograms {
		if one.Name == m.Name {
			h = one
		}
	}
	const width = 2 * 16777216
	want := []DocumentBucket{{0, width, 1}, {2 * width, 3 * width, 2}, {40 * width, 41 * width, 4}}
	if !h.Linear || h.Unit != "bytes" || h.Median != nil || fmt.Sprint(h.Buckets) != fmt.Sprint(want) || fmt.Sprint(h.Intervals[0].Buckets) != fmt.Sprint(want) {
		t.Errorf("got %+v", h)
	}
	copied := testRun(t, "biosnoop")
	copied.Definition = r.Definition
	r.Replay(copied)
	if fmt.Sprint(r.Series()) != fmt.Sprint(copied.Series()) {
		t.Errorf("got %v, want %v", copied.Series(), r.Series())
	}
	var b strings.Builder
	if err := r.WriteText(&b, false); err != nil || !strings.Contains(b.String(), "67108864 : 2          |********************") {
		t.Errorf("%v\n%s", err, b.String())
	}
}
