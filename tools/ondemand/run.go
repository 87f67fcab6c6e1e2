package ondemand

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/output"
)

// The bounds of what one run keeps.
const (
	maxSeries     = 200 // per metric; what comes beyond is other
	maxIntervals  = 120 // then two become one
	maxEvents     = 1000
	maxEventBytes = 4 << 20
	maxStacks     = 100_000
	maxStackBytes = 48 << 20
)

// other is the label of what had no room of its own.
const other = "other"

// A Run is one run of a tool, from the request on. It is the sink of its tool.
// Its methods are safe for concurrent use.
type Run struct {
	ID         string
	Definition *tools.Definition
	Duration   time.Duration
	Options    map[string]string // all of them
	Created    time.Time

	key    string
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{}

	// Under the manager's lock.
	readers   int
	detached  bool
	cancelled bool

	mu     sync.Mutex
	state  State
	source *tools.RunSource
	err    error
	began  time.Time // the attempt to start the tool
	seeing time.Time // since when the tool sees events
	ended  time.Time

	samples   uint64
	series    map[string]*Series
	perMetric map[*tools.Metric]int
	intervals []Interval
	now       map[*tools.Metric]map[int]uint64 // of the interval that is going on
	step      int                              // ticks to an interval
	ticks     int                              // in the present interval
	stacks    map[string]*output.Stack
	kept      int // bytes of stacks
	events    []tools.Event
	shown     int // bytes of events
	counts    tools.RunCounts
}

// State is what has become of a run.
type State string

// The states of a run.
const (
	Queued  State = "queued"   // others are before it
	Begins  State = "starting" // the tool is being started
	Running State = "running"
	Over    State = "done"
	Ended   State = "stopped"
	Broken  State = "failed"
)

// IsOver tells whether nothing will change any more.
func (s State) IsOver() bool { return s == Over || s == Ended || s == Broken }

// A Series is what a run counted under one set of labels.
type Series struct {
	Metric *tools.Metric
	Labels []string
	Value  float64 // of a counter, or the sum of a histogram
	Count  uint64  // of a histogram
	Schema int
	// Buckets are by native index; those of a linear histogram by
	// Schema*LinearBuckets + Index of their samples.
	Buckets map[int]uint64
}

// An Interval is what the histograms of a run counted in about a second, or a
// few.
type Interval struct {
	End     time.Duration // since the tool has been seeing events
	Buckets map[*tools.Metric]map[int]uint64
}

// Progress is how far a run is.
type Progress struct {
	State    State
	Err      error
	Elapsed  time.Duration // since the tool has been seeing events
	Fraction float64       // of the duration, 0 to 1
	Samples  uint64        // so far
	Source   *tools.RunSource
	Started  time.Time // zero if the tool never saw events
	Ended    time.Time
	tools.RunCounts
}

func newRun(d *tools.Definition, r Request) *Run {
	run := &Run{
		ID: newID(), Definition: d, Duration: r.Duration, Options: maps.Clone(r.Options), Created: time.Now(), key: keyOf(r),
		done: make(chan struct{}), state: Queued, step: 1,
		series: make(map[string]*Series), perMetric: make(map[*tools.Metric]int), now: make(map[*tools.Metric]map[int]uint64),
		stacks: make(map[string]*output.Stack),
	}
	run.ctx, run.cancel = context.WithCancelCause(context.Background())
	return run
}

// Done is closed when the run is over.
func (r *Run) Done() <-chan struct{} { return r.done }

func (r *Run) begins(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.began = Begins, now
}

// ends records how the run went.
func (r *Run) ends(counts tools.RunCounts, err error) (outcome string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts, r.err, r.ended = counts, err, time.Now()
	switch {
	case err == nil:
		r.state, outcome = Over, Success
	case errors.Is(err, errLeft) || errors.Is(err, errStopped) || errors.Is(err, ErrClosed):
		r.state, outcome = Ended, Stopped
	default:
		r.state, outcome = Broken, Failed
	}
	close(r.done)
	return outcome
}

// remaining is about how long the run will take from now on.
func (r *Run) remaining() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seeing.IsZero() {
		return r.Duration
	}
	return max(0, r.Duration-time.Since(r.seeing))
}

// Progress tells how far the run is.
func (r *Run) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := Progress{State: r.state, Err: r.err, Samples: r.samples, Source: r.source, Started: r.seeing, Ended: r.ended, RunCounts: r.counts}
	if !r.seeing.IsZero() {
		end := time.Now()
		if !r.ended.IsZero() {
			end = r.ended
		}
		// Stopping the tool, and its symbols, come after the duration.
		p.Elapsed = min(end.Sub(r.seeing), r.Duration)
		p.Fraction = float64(p.Elapsed) / float64(r.Duration)
	}
	if r.state == Over {
		p.Fraction = 1
	}
	return p
}

// Started implements [tools.RunSink].
func (r *Run) Started(s tools.RunSource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.source, r.seeing = Running, &s, time.Now()
}

// Sample implements [tools.Sink].
func (r *Run) Sample(_ string, s tools.Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Metric == r.Definition.Metrics[0] {
		r.samples += s.Count
		if s.Metric.Type == "counter" {
			r.samples += uint64(s.Add)
		}
	}
	to := r.seriesOf(s.Metric, s.Labels)
	to.Value += s.Add
	if s.Count == 0 {
		return
	}
	index := s.Index
	to.Count += s.Count
	if s.Metric.Width == 0 {
		to.Schema = s.Schema
	} else {
		index += s.Schema * tools.LinearBuckets
	}
	to.Buckets[index] += s.Count
	if r.now[s.Metric] == nil {
		r.now[s.Metric] = make(map[int]uint64)
	}
	r.now[s.Metric][index] += s.Count
}

func (r *Run) seriesOf(m *tools.Metric, labels []string) *Series {
	key := m.Name + "\xff" + strings.Join(labels, "\xff")
	if s := r.series[key]; s != nil {
		return s
	}
	if r.perMetric[m] >= maxSeries {
		labels = slices.Repeat([]string{other}, len(labels))
		key = m.Name + "\xff" + strings.Join(labels, "\xff")
		if s := r.series[key]; s != nil {
			return s
		}
	}
	s := &Series{Metric: m, Labels: make([]string, len(labels)), Buckets: make(map[int]uint64)}
	for i, label := range labels {
		s.Labels[i] = strings.Clone(label)
	}
	r.series[key] = s
	r.perMetric[m]++
	return s
}

// Tick implements [tools.RunSink].
func (r *Run) Tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := min(time.Since(r.seeing), r.Duration)
	if last := len(r.intervals) - 1; last >= 0 && (r.ticks < r.step || end == r.intervals[last].End) {
		// The rest that a tool prints when it ends belongs to the last interval.
		add(r.intervals[last].Buckets, r.now)
		r.intervals[last].End = end
	} else {
		r.intervals = append(r.intervals, Interval{End: end, Buckets: r.now})
		r.ticks = 0
	}
	r.now = make(map[*tools.Metric]map[int]uint64)
	r.ticks++
	if len(r.intervals) > maxIntervals {
		r.merge()
	}
}

// merge makes one of each two intervals.
func (r *Run) merge() {
	var merged []Interval
	for i := 0; i < len(r.intervals); i += 2 {
		one := r.intervals[i]
		if i+1 < len(r.intervals) {
			add(one.Buckets, r.intervals[i+1].Buckets)
			one.End = r.intervals[i+1].End
		}
		merged = append(merged, one)
	}
	r.intervals, r.step = merged, 2*r.step
}

func add(to, from map[*tools.Metric]map[int]uint64) {
	for m, buckets := range from {
		if to[m] == nil {
			to[m] = make(map[int]uint64)
		}
		for index, n := range buckets {
			to[m][index] += n
		}
	}
}

// beyond is the frame of stacks that had no room.
const beyond = "[more stacks than are kept]"

// Stack implements [tools.RunSink].
func (r *Run) Stack(s output.Stack) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.addStack(s) {
		return
	}
	r.addStack(output.Stack{Keys: []string{other, ""}, User: []string{beyond}, Count: s.Count})
}

func (r *Run) addStack(s output.Stack) bool {
	key := strings.Join(s.Keys, "\xff") + "\xff\xff" + strings.Join(s.User, "\xff") + "\xff\xff" + strings.Join(s.Kernel, "\xff")
	if known := r.stacks[key]; known != nil {
		known.Count += s.Count
		return true
	}
	full := len(r.stacks) >= maxStacks || r.kept+len(key) > maxStackBytes
	if full && s.Keys[0] != other {
		return false
	}
	// The frames of a tool's line share its memory.
	copied := output.Stack{Keys: cloned(s.Keys), User: cloned(s.User), Kernel: cloned(s.Kernel), Count: s.Count}
	r.stacks[key] = &copied
	r.kept += 2*len(key) + 16*(len(s.User)+len(s.Kernel))
	return true
}

func cloned(all []string) []string {
	copied := make([]string, len(all))
	for i, s := range all {
		copied[i] = strings.Clone(s)
	}
	return copied
}

// Event implements [tools.RunSink].
func (r *Run) Event(e tools.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	r.shown += eventBytes(e)
	for len(r.events) > maxEvents || r.shown > maxEventBytes {
		r.shown -= eventBytes(r.events[0])
		r.events = r.events[1:]
	}
}

func eventBytes(e tools.Event) int {
	n := 100
	for _, value := range e.Values {
		n += 16 + len(value)
	}
	return n
}

// bytes is about what the run holds.
func (r *Run) bytes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 1000 + r.kept + r.shown
	for _, s := range r.series {
		n += 200 + 40*len(s.Buckets)
	}
	for _, i := range r.intervals {
		for _, buckets := range i.Buckets {
			n += 100 + 40*len(buckets)
		}
	}
	return n
}

// Series returns what was counted, by metric in the definition's order and then
// by labels.
func (r *Run) Series() []Series {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Series, 0, len(r.series))
	for _, s := range r.series {
		one := *s
		one.Buckets = maps.Clone(s.Buckets)
		all = append(all, one)
	}
	order := func(m *tools.Metric) int { return slices.Index(r.Definition.Metrics, m) }
	slices.SortFunc(all, func(a, b Series) int {
		if a.Metric != b.Metric {
			return order(a.Metric) - order(b.Metric)
		}
		return slices.Compare(a.Labels, b.Labels)
	})
	return all
}

// Intervals returns the course of the histograms so far.
func (r *Run) Intervals() []Interval {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Interval, len(r.intervals))
	for i, interval := range r.intervals {
		all[i] = Interval{End: interval.End, Buckets: make(map[*tools.Metric]map[int]uint64)}
		add(all[i].Buckets, interval.Buckets)
	}
	return all
}

// Events returns the last events, the newest first.
func (r *Run) Events() []tools.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.events)
	slices.Reverse(all)
	return all
}

// Stacks returns the stacks, the most frequent first.
func (r *Run) Stacks() []output.Stack {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := slices.Sorted(maps.Keys(r.stacks))
	all := make([]output.Stack, len(keys))
	for i, key := range keys {
		all[i] = *r.stacks[key]
	}
	slices.SortStableFunc(all, func(a, b output.Stack) int {
		switch {
		case a.Count > b.Count:
			return -1
		case a.Count < b.Count:
			return 1
		}
		return 0
	})
	return all
}

// Frequency is how often a profile was sampled, in samples a second on each
// CPU.
func (r *Run) Frequency() int64 {
	hz, err := strconv.ParseInt(r.Options["hz"], 10, 64)
	if err != nil || hz < 1 {
		return 1
	}
	return hz
}

// Replay passes on all that was counted.
func (r *Run) Replay(to tools.Sink) {
	for _, s := range r.Series() {
		sample := tools.Sample{Metric: s.Metric, Labels: s.Labels, Add: s.Value}
		to.Sample(r.Definition.Name, sample)
		for index, n := range s.Buckets {
			schema := s.Schema
			if s.Metric.Width != 0 {
				schema, index = index/tools.LinearBuckets, index%tools.LinearBuckets
			}
			to.Sample(r.Definition.Name, tools.Sample{Metric: s.Metric, Labels: s.Labels, Count: n, Index: index, Schema: schema})
		}
	}
}
