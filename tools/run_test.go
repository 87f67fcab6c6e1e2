package tools

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bpf_tools_exporter/tools/output"
)

// gathered is a RunSink that keeps everything.
type gathered struct {
	mu      sync.Mutex
	source  RunSource
	started int
	counts  map[string]uint64 // of histogram values by metric and index
	sums    map[string]float64
	schema  int
	stacks  []output.Stack
	events  []Event
	ticks   int
}

func newGathered() *gathered {
	return &gathered{counts: make(map[string]uint64), sums: make(map[string]float64)}
}

func (g *gathered) Sample(_ string, s Sample) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.counts[s.Metric.Name] += s.Count
	g.sums[s.Metric.Name+"{"+strings.Join(s.Labels, ",")+"}"] += s.Add
	if s.Count > 0 {
		g.schema = s.Schema
	}
}

func (g *gathered) Started(s RunSource)  { g.mu.Lock(); g.source = s; g.started++; g.mu.Unlock() }
func (g *gathered) Stack(s output.Stack) { g.mu.Lock(); g.stacks = append(g.stacks, s); g.mu.Unlock() }
func (g *gathered) Event(e Event)        { g.mu.Lock(); g.events = append(g.events, e); g.mu.Unlock() }
func (g *gathered) Tick()                { g.mu.Lock(); g.ticks++; g.mu.Unlock() }

func TestLiveRunqlat(t *testing.T) {
	needBPFtrace(t)
	for _, name := range []string{"bpftrace", "libbpf-tools"} {
		sink := &safeSums{sums: newSums(t)}
		m := startManager(t, nil, sink, func(c *Config) { c.Backends = []string{name} }, "runqlat")
		g := newGathered()
		counts, err := m.Run(t.Context(), RunSpec{Tool: "runqlat", Duration: 2500 * time.Millisecond}, g)
		if err != nil {
			t.Fatal(err)
		}
		n := g.counts["bpf_runqlat_seconds"]
		if n < 100 || g.source.Source.Backend != name || g.started != 1 || g.ticks < 3 || counts.ParseErrors > 0 {
			t.Errorf("%s: %d values, source %v, %d ticks, %+v", name, n, g.source, g.ticks, counts)
		}
		if want := map[string]int{"bpftrace": 3, "libbpf-tools": 0}[name]; g.schema != want {
			t.Errorf("%s: schema %d, want %d", name, g.schema, want)
		}
		if got := sink.get("bpf_runqlat_seconds"); got != g.sums["bpf_runqlat_seconds{}"] || got <= 0 {
			t.Errorf("%s: %g s in the manager's sink, %g in the run's", name, got, g.sums["bpf_runqlat_seconds{}"])
		}
		s := status(t, m, "runqlat")
		if s.State != Idle || s.Events != n || s.UserSeconds+s.SystemSeconds <= 0 || s.PID != 0 {
			t.Errorf("%s: status %+v", name, s)
		}
	}
}

// TestLiveRunqlatOfProcess looks at one process alone.
func TestLiveRunqlatOfProcess(t *testing.T) {
	needBPFtrace(t)
	m := startManager(t, nil, &safeSums{sums: newSums(t)}, nil, "runqlat")
	g := newGathered()
	const wakeups = 100
	go func() {
		runtime.LockOSThread()
		for range wakeups {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 20e6}, nil)
		}
	}()
	spec := RunSpec{Tool: "runqlat", Duration: 2 * time.Second, Options: map[string]string{"pid": pidString()}}
	if _, err := m.Run(t.Context(), spec, g); err != nil {
		t.Fatal(err)
	}
	own := g.counts["bpf_runqlat_seconds"]
	g, spec.Options["pid"] = newGathered(), "4194304"
	if _, err := m.Run(t.Context(), spec, g); err != nil {
		t.Fatal(err)
	}
	if none := g.counts["bpf_runqlat_seconds"]; own < wakeups/4 || none > 0 {
		t.Errorf("%d waits of this process and %d of one that is not there", own, none)
	}
}

// TestLiveProfile samples this test, which spins in a function of its own name.
func TestLiveProfile(t *testing.T) {
	needBPFtrace(t)
	m := startManager(t, nil, &safeSums{sums: newSums(t)}, func(c *Config) { c.ExcludeSelf = false }, "profile")
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() { spinForProfile(stop) })
	g := newGathered()
	counts, err := m.Run(t.Context(), RunSpec{Tool: "profile", Duration: 3 * time.Second, Options: map[string]string{"hz": "99"}}, g)
	close(stop)
	done.Wait()
	if err != nil {
		t.Fatal(err)
	}
	var all, spinning, kernel uint64
	for _, s := range g.stacks {
		all += s.Count
		// Test binaries have no symbols.
		if s.Keys[0] == "tools.test" && s.Keys[1] == pidString() && len(s.User) > 0 {
			spinning += s.Count
		}
		if len(s.Kernel) > 0 {
			kernel += s.Count
		}
	}
	var counted float64
	for _, n := range g.sums {
		counted += n
	}
	t.Logf("%s: %d samples in %d stacks, %d spinning, %d in the kernel, %+v", g.source.Source.Backend, all, len(g.stacks), spinning, kernel, counts)
	// One of the CPUs, or less on a busy machine.
	if spinning < 30 || kernel == 0 || all+counts.Lost != uint64(counted) || counts.ParseErrors > 0 {
		t.Errorf("%g counted", counted)
	}
}

//go:noinline
func spinForProfile(stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
	}
}

// TestLiveRunOfRunningTool looks at a tool that runs anyway, and at one that
// does not.
func TestLiveRunOfRunningTool(t *testing.T) {
	needBPFtrace(t)
	sink := &safeSums{sums: newSums(t)}
	m := startManager(t, nil, sink, nil, "execsnoop")
	eventually(t, "execsnoop is up", func() bool { return m.Ready() })
	for _, name := range []string{"execsnoop", "tcplife"} {
		before := len(m.runners())
		g := newGathered()
		finished := make(chan error, 1)
		go func() {
			_, err := m.Run(t.Context(), RunSpec{Tool: name, Duration: 2 * time.Second}, g)
			finished <- err
		}()
		eventually(t, "the run has begun", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.started > 0 })
		if name == "execsnoop" {
			if during := len(m.runners()); during != before {
				t.Errorf("%d processes during the run, %d before", during, before)
			}
			runProgram(t, "/bin/true")
		}
		if err := <-finished; err != nil {
			t.Fatal(err)
		}
		if name == "execsnoop" && (g.sums["bpf_execsnoop_execs_total{true,success}"] < 1 || len(g.events) == 0) {
			t.Errorf("got %v, %d events", g.sums, len(g.events))
		}
		if after := len(m.runners()); after != before {
			t.Errorf("%d processes after the run, %d before", after, before)
		}
	}
	if s := status(t, m, "tcplife"); s.State != Off {
		t.Errorf("tcplife is %s", s.State)
	}
}

// A run that is given up leaves nothing, at whatever moment.
func TestLiveRunGivenUp(t *testing.T) {
	needBPFtrace(t)
	m := startManager(t, nil, &safeSums{sums: newSums(t)}, nil, "runqlat", "profile")
	why := errors.New("the client left")
	for _, after := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond, 1500 * time.Millisecond} {
		for _, name := range []string{"runqlat", "profile"} {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(after, func() { cancel(why) })
			began := time.Now()
			if _, err := m.Run(ctx, RunSpec{Tool: name, Duration: time.Minute}, newGathered()); !errors.Is(err, why) {
				t.Errorf("%s after %s: got %v", name, after, err)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("%s after %s: ended after %s", name, after, took)
			}
			if left := len(m.runners()); left > 0 {
				t.Errorf("%s after %s: %d processes left", name, after, left)
			}
		}
	}
}

// TestRunTriesTheNextSource has a first source that does not attach: the next
// run does not try it again.
func TestRunTriesTheNextSource(t *testing.T) {
	m, _ := fakeManager(t, func(c *Config) { c.Enabled["fake"] = false }, "refuse", "good")
	for range 2 {
		g := newGathered()
		if _, err := m.Run(t.Context(), RunSpec{Tool: "fake", Duration: 500 * time.Millisecond}, g); err != nil {
			t.Fatal(err)
		}
		if g.sums["bpf_fake_events_total{sleep}"] == 0 || g.source.Source.Command[1] != "good" {
			t.Errorf("got %v from %v", g.sums, g.source.Source)
		}
		s := status(t, m, "fake")
		if s.State != Off || len(s.Rejected) != 1 || s.Events == 0 {
			t.Errorf("status %+v", s)
		}
	}
}

func TestRunWithoutSource(t *testing.T) {
	m, _ := fakeManager(t, func(c *Config) { c.Enabled["fake"] = false }, "refuse")
	for range 2 {
		_, err := m.Run(t.Context(), RunSpec{Tool: "fake", Duration: time.Second}, newGathered())
		if !errors.Is(err, ErrCannotRun) || !strings.HasPrefix(err.Error(), "fake cannot run here: exit status 1: Unable to find kernel headers") {
			t.Errorf("got %v", err)
		}
	}
}

func TestRunOfTheUnknown(t *testing.T) {
	m := startManager(t, nil, &safeSums{sums: newSums(t)}, nil)
	if _, err := m.Run(t.Context(), RunSpec{Tool: "nosuch"}, newGathered()); err == nil || err.Error() != "no such tool: nosuch" {
		t.Errorf("got %v", err)
	}
	want := "profile cannot run here: --collector.profile allows it"
	if _, err := m.Run(t.Context(), RunSpec{Tool: "profile"}, newGathered()); !errors.Is(err, ErrCannotRun) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func pidString() string {
	self, _ := os.Readlink("/proc/self")
	return filepath.Base(self)
}

func TestTaps(t *testing.T) {
	base := newGathered()
	taps := newTaps(base)
	m := &Metric{Name: "bpf_x_total"}
	one, two := newGathered(), newGathered()
	send := func() { taps.Sample("x", Sample{Metric: m, Add: 1}) }
	send()
	removeOne := taps.add("x", one)
	send()
	removeTwo := taps.add("x", two)
	taps.Sample("y", Sample{Metric: m, Add: 100})
	send()
	removeOne()
	removeOne()
	send()
	removeTwo()
	send()
	var got []float64
	for _, g := range []*gathered{base, one, two} {
		got = append(got, slices.Collect(maps.Values(g.sums))...)
	}
	if !slices.Equal(got, []float64{105, 2, 2}) || taps.open.Load() != nil {
		t.Errorf("got %v", got)
	}
}

// TestTakeStacks has more samples in the total than in the stacks, and then less.
func TestTakeStacks(t *testing.T) {
	d := builtins(t).Tool("profile")
	c := newTestChild(t, d, sourceOf(t, d, "bpftrace-"))
	c.take([]byte(`{"type": "map", "data": {"@profile_total": 40}}` + "\n" +
		`{"type": "map", "data": {"@profile_stacks": {"28519,0,7,\n    kthread+1\n,\n    main+5\n": 17, "28519,0,7,,\n    caf\uffffffc3\uffffffa9+1\n": 11}}}` + "\n"))
	got := c.stacks
	want := []output.Stack{
		{Keys: []string{"go", "7"}, User: []string{"main"}, Kernel: []string{"kthread"}, Count: 17},
		{Keys: []string{"go", "7"}, User: []string{"café"}, Count: 11},
	}
	if lost := c.tool.counters.lost.Load(); !reflect.DeepEqual(got, want) || lost != 12 {
		t.Errorf("got %+v, lost %d", got, lost)
	}
	c.feed.takeStacks([]byte(`{"type": "map", "data": {"@profile_stacks": {"28519,0,7,,": 41}}}`))
	if n := c.tool.counters.parseErrors.Load(); n != 1 {
		t.Errorf("%d parse errors, want 1 of more samples than there were", n)
	}
}

// TestRunEndsStubbornTool has one that does not mind SIGINT, and one that never
// attaches while its reader leaves.
func TestRunEndsStubbornTool(t *testing.T) {
	m, _ := fakeManager(t, func(c *Config) { c.Enabled["fake"] = false }, "stubborn")
	began := time.Now()
	if _, err := m.Run(t.Context(), RunSpec{Tool: "fake", Duration: 300 * time.Millisecond}, newGathered()); err != nil {
		t.Fatal(err)
	}
	if left := len(m.runners()); left > 0 || time.Since(began) > 30*time.Second {
		t.Errorf("%d processes left after %s", left, time.Since(began))
	}
	m, _ = fakeManager(t, func(c *Config) { c.Enabled["fake"] = false }, "hang")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, context.Canceled)
	defer cancel()
	if _, err := m.Run(ctx, RunSpec{Tool: "fake", Duration: time.Minute}, newGathered()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := len(m.runners()); left > 0 {
		t.Errorf("%d processes left", left)
	}
}

// TestRunOfDyingTool has one that ends before its time.
func TestRunOfDyingTool(t *testing.T) {
	m, _ := fakeManager(t, func(c *Config) { c.Enabled["fake"] = false }, "die")
	_, err := m.Run(t.Context(), RunSpec{Tool: "fake", Duration: time.Minute}, newGathered())
	if err == nil || errors.Is(err, ErrCannotRun) || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("got %v", err)
	}
}

// A tool that is killed before it has printed what it sampled has failed.
func TestRunWithoutYield(t *testing.T) {
	before := stacksGrace
	stacksGrace = 200 * time.Millisecond
	t.Cleanup(func() { stacksGrace = before })
	m, _ := fakeManager(t, func(c *Config) { c.Enabled["fake"] = false }, "stubborn")
	m.byName["fake"].def.Sources[0].Stacks = new(Stacks)
	_, err := m.Run(t.Context(), RunSpec{Tool: "fake", Duration: 100 * time.Millisecond}, newGathered())
	if err == nil || !strings.Contains(err.Error(), "killed by SIGKILL: it did not print its stacks within") {
		t.Errorf("got %v", err)
	}
}
