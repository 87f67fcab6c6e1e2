package ondemand

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/output"
)

// fakeRunner runs nothing. Each run waits for its duration or for release.
type fakeRunner struct {
	cannot  error
	err     error
	hold    chan struct{} // closed to let runs end; nil is at once
	yield   func(tools.RunSpec, tools.RunSink)
	started atomic.Int64
	now     atomic.Int64
	most    atomic.Int64
}

func (f *fakeRunner) CanRun(string) error { return f.cannot }

func (f *fakeRunner) Run(ctx context.Context, spec tools.RunSpec, sink tools.RunSink) (tools.RunCounts, error) {
	f.started.Add(1)
	for now := f.now.Add(1); ; {
		most := f.most.Load()
		if now <= most || f.most.CompareAndSwap(most, now) {
			break
		}
	}
	defer f.now.Add(-1)
	sink.Started(tools.RunSource{Source: &tools.Source{Backend: "bpftrace"}, Version: "0.17.0"})
	if f.yield != nil {
		f.yield(spec, sink)
	}
	sink.Tick()
	if f.hold != nil {
		select {
		case <-ctx.Done():
			return tools.RunCounts{}, context.Cause(ctx)
		case <-f.hold:
		}
	}
	return tools.RunCounts{Lost: 3}, f.err
}

func newTestManager(t *testing.T, f *fakeRunner, change func(*Config)) *Manager {
	t.Helper()
	catalog, err := tools.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Runner: f, Catalog: catalog, MinDuration: time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	m := NewManager(cfg)
	t.Cleanup(m.Close)
	return m
}

func request(tool string) Request { return Request{Tool: tool, Duration: time.Second, Who: "test"} }

// deadlineRunner tells until when its run may take.
type deadlineRunner struct {
	fakeRunner
	deadline chan time.Time
}

func (d *deadlineRunner) Run(ctx context.Context, _ tools.RunSpec, _ tools.RunSink) (tools.RunCounts, error) {
	end, _ := ctx.Deadline()
	d.deadline <- end
	return tools.RunCounts{}, nil
}

// A run may take its start, its duration and its end.
func TestStartTimeout(t *testing.T) {
	for set, want := range map[time.Duration]time.Duration{0: 2 * time.Minute, 20 * time.Minute: 20 * time.Minute} {
		d := &deadlineRunner{deadline: make(chan time.Time, 1)}
		m := newTestManager(t, &d.fakeRunner, func(c *Config) { c.Runner, c.StartTimeout = d, set })
		before := time.Now()
		if _, err := m.Start(request("runqlat")); err != nil {
			t.Fatal(err)
		}
		end, want := <-d.deadline, want+time.Second+stopTimeout
		if end.Before(before.Add(want)) || end.After(time.Now().Add(want)) {
			t.Errorf("start timeout %s: the run may take %s, want %s", set, end.Sub(before), want)
		}
	}
}

func TestCheck(t *testing.T) {
	m := newTestManager(t, &fakeRunner{}, nil)
	for _, c := range []struct {
		change func(*Request)
		is     error
		text   string
	}{
		{func(r *Request) {}, nil, ""},
		{func(r *Request) { r.Options = map[string]string{"pid": "12"} }, nil, ""},
		{func(r *Request) { r.Tool = "nosuch" }, ErrTool, "no such tool: nosuch"},
		{func(r *Request) { r.Tool = "cachestat" }, ErrTool, "no such tool to run on demand: cachestat has neither a histogram nor events"},
		{func(r *Request) { r.Duration = 0 }, ErrParameter, "parameter duration=0s: want 1ms to 1m0s (--ondemand.max-duration)"},
		{func(r *Request) { r.Duration = time.Hour }, ErrParameter, "parameter duration=1h0m0s: want 1ms to 1m0s (--ondemand.max-duration)"},
		{func(r *Request) { r.Options = map[string]string{"command": "x"} }, ErrParameter, "parameter command: runqlat has no such parameter"},
		{func(r *Request) { r.Options = map[string]string{"pid": "-1"} }, ErrParameter, `parameter pid: "-1": want a whole number from 0 to 4194304`},
		{func(r *Request) { r.Options = map[string]string{"pid": "1; id"} }, ErrParameter, `parameter pid: "1; id": want a whole number from 0 to 4194304`},
		{func(r *Request) { r.Tool, r.Options = "execsnoop", map[string]string{"failed": "true"} }, ErrParameter, "parameter failed: execsnoop has no such parameter"},
	} {
		r := request("runqlat")
		c.change(&r)
		err := m.Check(r)
		if !errors.Is(err, c.is) || err != nil && err.Error() != c.text {
			t.Errorf("%+v: got %v, want %s", r, err, c.text)
		}
	}
	m = newTestManager(t, &fakeRunner{cannot: tools.ErrCannotRun}, nil)
	if _, err := m.Start(request("runqlat")); !errors.Is(err, tools.ErrCannotRun) {
		t.Errorf("got %v", err)
	}
}

// TestSharing has two readers of one run, and a third who asks for another.
func TestSharing(t *testing.T) {
	f := &fakeRunner{hold: make(chan struct{})}
	m := newTestManager(t, f, func(c *Config) { c.MaxConcurrent = 2 })
	one, leaveOne, err1 := m.Join(request("runqlat"))
	two, leaveTwo, err2 := m.Join(request("runqlat"))
	other := request("runqlat")
	other.Options = map[string]string{"pid": "1"}
	three, leaveThree, err3 := m.Join(other)
	if err1 != nil || err2 != nil || err3 != nil || one != two || one == three {
		t.Fatalf("runs %p %p %p, %v %v %v", one, two, three, err1, err2, err3)
	}
	leaveOne()
	leaveOne()
	select {
	case <-one.Done():
		t.Error("a run ended that has a reader")
	case <-time.After(20 * time.Millisecond):
	}
	leaveTwo()
	<-one.Done()
	if p := one.Progress(); p.State != Ended || !errors.Is(p.Err, errLeft) {
		t.Errorf("got %+v", p)
	}
	close(f.hold)
	<-three.Done()
	leaveThree()
	if p := three.Progress(); p.State != Over || p.Fraction != 1 || p.Lost != 3 {
		t.Errorf("got %+v", p)
	}
	if n := f.started.Load(); n != 2 {
		t.Errorf("%d runs started, want 2", n)
	}
}

// TestStart has a run that nobody reads and that goes on.
func TestStart(t *testing.T) {
	f := &fakeRunner{hold: make(chan struct{})}
	m := newTestManager(t, f, nil)
	run, err := m.Start(request("runqlat"))
	if err != nil {
		t.Fatal(err)
	}
	var going *GoingError
	again := request("runqlat")
	again.Duration = 2 * time.Second
	if _, err := m.Start(again); !errors.As(err, &going) || going.Run != run {
		t.Errorf("got %v, want the run that is going on", err)
	}
	joined, leave, err := m.Join(request("runqlat"))
	if err != nil || joined != run {
		t.Fatal(err)
	}
	leave()
	if p := run.Progress(); p.State.IsOver() {
		t.Errorf("ended with its reader: %+v", p)
	}
	if m.Get(run.ID) != run || m.Get("nosuch") != nil || len(m.Runs()) != 1 {
		t.Error("the run is not found")
	}
	m.Stop(run, "test")
	<-run.Done()
	if p := run.Progress(); p.State != Ended || !errors.Is(p.Err, errStopped) || m.Get(run.ID) != run {
		t.Errorf("got %+v", p)
	}
	m.Stop(run, "test")
}

// TestBounds asks for fifty different runs at once.
func TestBounds(t *testing.T) {
	f := &fakeRunner{hold: make(chan struct{})}
	m := newTestManager(t, f, func(c *Config) { c.MaxConcurrent, c.MaxQueue = 2, 5 })
	var wait sync.WaitGroup
	var took, busy atomic.Int64
	for i := range 50 {
		wait.Go(func() {
			r := request("runqlat")
			r.Options = map[string]string{"pid": fmt.Sprint(i)}
			run, leave, err := m.Join(r)
			switch {
			case errors.Is(err, ErrBusy) && strings.HasPrefix(err.Error(), "busy: 7 runs are going on or waiting"):
				busy.Add(1)
			case err != nil:
				t.Error(err)
			default:
				took.Add(1)
				defer leave()
				<-run.Done()
			}
		})
	}
	for busy.Load() < 43 {
		time.Sleep(time.Millisecond)
	}
	close(f.hold)
	wait.Wait()
	if took.Load() != 7 || f.most.Load() != 2 || f.started.Load() != 7 {
		t.Errorf("%d took place, %d at once, %d started", took.Load(), f.most.Load(), f.started.Load())
	}
}

// TestQueue has a run that waits for its turn, and others that do not want to.
func TestQueue(t *testing.T) {
	f := &fakeRunner{hold: make(chan struct{})}
	m := newTestManager(t, f, nil)
	first, err := m.Start(request("runqlat"))
	if err != nil {
		t.Fatal(err)
	}
	hurried := request("profile")
	hurried.Within = 1500 * time.Millisecond
	if _, _, err := m.Join(hurried); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want busy", err)
	}
	second, err := m.Start(request("profile"))
	if err != nil || second.Progress().State != Queued {
		t.Fatalf("%v, %+v", err, second.Progress())
	}
	third, leave, err := m.Join(Request{Tool: "biolatency", Duration: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	leave()
	<-third.Done()
	if p := third.Progress(); p.State != Ended {
		t.Errorf("got %+v", p)
	}
	close(f.hold)
	<-first.Done()
	<-second.Done()
	if p := second.Progress(); p.State != Over || f.started.Load() != 2 {
		t.Errorf("got %+v after %d starts", p, f.started.Load())
	}
}

func TestRate(t *testing.T) {
	m := newTestManager(t, &fakeRunner{}, func(c *Config) { c.Burst = 3 })
	for i := range 4 {
		run, leave, err := m.Join(request("runqlat"))
		if i == 3 {
			if !errors.Is(err, ErrBusy) || err.Error() != "busy: 3 runs in a row, and one a second" {
				t.Errorf("got %v", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		<-run.Done()
		leave()
	}
	m.mu.Lock()
	m.filled = m.filled.Add(-1100 * time.Millisecond)
	m.mu.Unlock()
	if _, _, err := m.Join(request("runqlat")); err != nil {
		t.Errorf("a second later: %v", err)
	}
}

func TestOutcomes(t *testing.T) {
	var mu sync.Mutex
	var got []string
	f := &fakeRunner{}
	m := newTestManager(t, f, func(c *Config) {
		c.Finished = func(tool, outcome string, took time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, tool+" "+outcome)
		}
	})
	for _, err := range []error{nil, errors.New("no luck")} {
		f.err = err
		run, startErr := m.Start(request("profile"))
		if startErr != nil {
			t.Fatal(startErr)
		}
		<-run.Done()
		m.wait.Wait()
	}
	if fmt.Sprint(got) != "[profile success profile failed]" {
		t.Errorf("got %v", got)
	}
}

func TestClose(t *testing.T) {
	f := &fakeRunner{hold: make(chan struct{})}
	m := newTestManager(t, f, nil)
	run, err := m.Start(request("runqlat"))
	waiting, err2 := m.Start(request("profile"))
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	m.Close()
	for _, r := range []*Run{run, waiting} {
		<-r.Done()
		if p := r.Progress(); p.State != Ended || !errors.Is(p.Err, ErrClosed) {
			t.Errorf("got %+v", p)
		}
	}
	if _, err := m.Start(request("runqlat")); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestManyRuns has runs in a row that leave nothing but the last few.
func TestManyRuns(t *testing.T) {
	f := &fakeRunner{yield: func(_ tools.RunSpec, s tools.RunSink) {
		s.Stack(output.Stack{Keys: []string{"x", "1"}, User: []string{strings.Repeat("f", 500)}, Count: 1})
	}}
	m := newTestManager(t, f, func(c *Config) { c.Burst, c.Keep, c.KeepBytes = 1000, 10, 8000 })
	before := runtime.NumGoroutine()
	for range 200 {
		run, err := m.Start(request("profile"))
		if err != nil {
			t.Fatal(err)
		}
		<-run.Done()
		m.wait.Wait()
	}
	if n := len(m.Runs()); n == 0 || n > 5 {
		t.Errorf("%d runs are kept", n)
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
