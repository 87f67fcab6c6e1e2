// Package ondemand runs tools for a while when somebody asks.
//
// A [Manager] bounds how long, how many at once, how many wait and how often;
// requests for the same run share one; a run whose last reader has left is
// stopped. What a run yields is kept in a [Run], in bounded memory, for the last
// few of them.
package ondemand

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"bpf_tools_exporter/tools"
)

// Errors of requests. Each is wrapped with what is wrong.
var (
	// ErrTool: there is no such tool, or it cannot run on demand.
	ErrTool = errors.New("no such tool")
	// ErrParameter: a parameter has a value that cannot be.
	ErrParameter = errors.New("parameter")
	// ErrBusy: too many runs, or too often.
	ErrBusy = errors.New("busy")
	// ErrClosed: the exporter is about to end.
	ErrClosed = errors.New("the exporter is stopping")
)

// GoingError says that a run of the tool is going on.
type GoingError struct{ Run *Run }

func (e *GoingError) Error() string {
	return fmt.Sprintf("a run of %s is going on: %s", e.Run.Definition.Name, e.Run.ID)
}

// Reasons for which a run ends before its time.
var (
	errLeft    = errors.New("the last reader left")
	errStopped = errors.New("stopped on request")
)

// The outcomes of runs, as bpf_tool_runs_total has them.
const (
	Success = "success"
	Stopped = "stopped" // on request, or because nobody waited for it any more
	Failed  = "failed"
)

// A Runner runs one tool; [tools.Manager] is one.
type Runner interface {
	// CanRun tells why a tool of the catalogue cannot run, if that is known.
	CanRun(tool string) error
	// Run returns when the tool's process is gone.
	Run(context.Context, tools.RunSpec, tools.RunSink) (tools.RunCounts, error)
}

// Config bounds a Manager.
type Config struct {
	Runner  Runner
	Catalog *tools.Catalog
	// Options are those of the flags, by tool and name, which a request may
	// replace.
	Options map[string]map[string]string

	MaxDuration   time.Duration // of a run; 0 is a minute
	MinDuration   time.Duration // 0 is a second
	StartTimeout  time.Duration // until a run's tool sees events; 0 is two minutes
	MaxConcurrent int           // 0 is one
	// MaxQueue is how many runs may wait for their turn. 0 is 8.
	MaxQueue int
	// Burst is how many runs may begin in a row; a second later one more may.
	// 0 is 60.
	Burst int
	// Keep is how many runs are kept that are over. 0 is 20.
	Keep int
	// KeepBytes bounds what these hold, roughly. 0 is 64 MiB.
	KeepBytes int

	// Finished is told of each run that began, if it is not nil.
	Finished func(tool, outcome string, took time.Duration)
	Logger   log.Logger
}

// A Request asks for a run.
type Request struct {
	Tool     string
	Duration time.Duration
	Options  map[string]string
	// Who asks, for the log.
	Who string
	// Within is how long the asker can wait for the end of the run. 0 is any
	// time.
	Within time.Duration
}

// A Manager starts runs and keeps them. Its methods are safe for concurrent use.
type Manager struct {
	cfg   Config
	tools atomic.Pointer[toolset]
	wait  sync.WaitGroup

	mu      sync.Mutex // guards what follows, and the readers of runs
	closed  bool
	running []*Run
	queue   []*Run
	over    []*Run // the last ones, oldest first
	tokens  float64
	filled  time.Time
}

// NewManager returns a Manager without runs.
func NewManager(cfg Config) *Manager {
	if cfg.MaxDuration <= 0 {
		cfg.MaxDuration = time.Minute
	}
	if cfg.MinDuration <= 0 {
		cfg.MinDuration = time.Second
	}
	if cfg.StartTimeout <= 0 {
		cfg.StartTimeout = 2 * time.Minute
	}
	cfg.MaxConcurrent = max(cfg.MaxConcurrent, 1)
	for value, initial := range map[*int]int{&cfg.MaxQueue: 8, &cfg.Burst: 60, &cfg.Keep: 20, &cfg.KeepBytes: 64 << 20} {
		if *value <= 0 {
			*value = initial
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = log.NewNopLogger()
	}
	m := &Manager{cfg: cfg, tokens: float64(cfg.Burst), filled: time.Now()}
	m.SetToolset(cfg.Catalog, cfg.Options)
	return m
}

// toolset is what can be asked for.
type toolset struct {
	catalog *tools.Catalog
	options map[string]map[string]string
}

// SetToolset replaces the Catalog and the Options of the Config. Runs that are
// going on go on.
func (m *Manager) SetToolset(catalog *tools.Catalog, options map[string]map[string]string) {
	m.tools.Store(&toolset{catalog, options})
}

// MaxDuration is how long a run may be.
func (m *Manager) MaxDuration() time.Duration { return m.cfg.MaxDuration }

// Runnable tells whether a tool has something to show for a run.
func Runnable(d *tools.Definition) bool {
	histogram := slices.ContainsFunc(d.Metrics, func(m *tools.Metric) bool { return m.Type == "histogram" })
	return d.OnDemand() || histogram || d.HasEvents()
}

// Check tells what is wrong with a request, whatever else is going on.
func (m *Manager) Check(r Request) error {
	d := m.tools.Load().catalog.Tool(r.Tool)
	if d == nil {
		return fmt.Errorf("%w: %s", ErrTool, r.Tool)
	}
	if !Runnable(d) {
		return fmt.Errorf("%w to run on demand: %s has neither a histogram nor events", ErrTool, r.Tool)
	}
	if r.Duration < m.cfg.MinDuration || r.Duration > m.cfg.MaxDuration {
		return fmt.Errorf("%w duration=%s: want %s to %s (--ondemand.max-duration)", ErrParameter, r.Duration, m.cfg.MinDuration, m.cfg.MaxDuration)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Options)) {
		if _, ok := d.Options[name]; !ok || !d.OnDemand() {
			return fmt.Errorf("%w %s: %s has no such parameter", ErrParameter, name, r.Tool)
		}
	}
	if err := d.CheckOptions(r.Options); err != nil {
		return fmt.Errorf("%w %w", ErrParameter, err)
	}
	return m.cfg.Runner.CanRun(r.Tool)
}

// options are all of the run's, for a tool that takes any.
func (m *Manager) options(r Request) map[string]string {
	d := m.tools.Load().catalog.Tool(r.Tool)
	all := make(map[string]string)
	if !d.OnDemand() {
		return all
	}
	for name, option := range d.Options {
		all[name] = option.Initial()
	}
	maps.Copy(all, m.tools.Load().options[r.Tool])
	maps.Copy(all, r.Options)
	return all
}

// Start begins a run that goes on until it is over, whoever reads it. Where one
// of the tool is going on already, the error is a [*GoingError].
func (m *Manager) Start(r Request) (*Run, error) {
	if err := m.Check(r); err != nil {
		return nil, err
	}
	r.Options = m.options(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, run := range m.active() {
		if run.Definition.Name == r.Tool && !run.cancelled {
			return nil, &GoingError{run}
		}
	}
	run, err := m.begin(r)
	if err != nil {
		return nil, err
	}
	run.detached = true
	return run, nil
}

// Join returns a run like the one asked for that is going on, or a new one. The
// caller is one of its readers until it calls leave; when the last one has left,
// the run is stopped.
func (m *Manager) Join(r Request) (run *Run, leave func(), err error) {
	if err := m.Check(r); err != nil {
		return nil, nil, err
	}
	r.Options = m.options(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	key := keyOf(r)
	for _, going := range m.active() {
		if going.key == key && !going.cancelled {
			run = going
			m.logRequest(run, r, true)
			break
		}
	}
	if run == nil {
		if run, err = m.begin(r); err != nil {
			return nil, nil, err
		}
	}
	run.readers++
	var once sync.Once
	return run, func() { once.Do(func() { m.leave(run) }) }, nil
}

func (m *Manager) leave(run *Run) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if run.readers--; run.readers == 0 && !run.detached {
		m.cancel(run, errLeft)
	}
}

// active are the runs that are not over, those that wait last.
func (m *Manager) active() []*Run { return slices.Concat(m.running, m.queue) }

// begin makes a new run, and starts it if it is its turn. The caller holds the
// lock.
func (m *Manager) begin(r Request) (*Run, error) {
	if m.closed {
		return nil, ErrClosed
	}
	ahead := len(m.running) + len(m.queue)
	if len(m.queue) >= m.cfg.MaxQueue {
		return nil, fmt.Errorf("%w: %d runs are going on or waiting (--ondemand.max-concurrent=%d)", ErrBusy, ahead, m.cfg.MaxConcurrent)
	}
	if wait := m.turn(); r.Within > 0 && wait > 0 && wait+r.Duration > r.Within {
		return nil, fmt.Errorf("%w: %d runs are going on or waiting, about %s (--ondemand.max-concurrent=%d)", ErrBusy, ahead, wait.Round(time.Second), m.cfg.MaxConcurrent)
	}
	if !m.take() {
		return nil, fmt.Errorf("%w: %d runs in a row, and one a second", ErrBusy, m.cfg.Burst)
	}
	run := newRun(m.tools.Load().catalog.Tool(r.Tool), r)
	m.logRequest(run, r, false)
	if len(m.running) < m.cfg.MaxConcurrent {
		m.launch(run)
	} else {
		m.queue = append(m.queue, run)
	}
	return run, nil
}

// turn is about when a new run would begin.
func (m *Manager) turn() time.Duration {
	if len(m.running) < m.cfg.MaxConcurrent {
		return 0
	}
	var sum time.Duration
	for _, run := range m.active() {
		sum += run.remaining()
	}
	return sum / time.Duration(m.cfg.MaxConcurrent)
}

// take takes a token, if there is one.
func (m *Manager) take() bool {
	now := time.Now()
	m.tokens = min(float64(m.cfg.Burst), m.tokens+now.Sub(m.filled).Seconds())
	m.filled = now
	if m.tokens < 1 {
		return false
	}
	m.tokens--
	return true
}

// launch starts a run. The caller holds the lock.
func (m *Manager) launch(run *Run) {
	m.running = append(m.running, run)
	m.wait.Go(func() { m.serve(run) })
}

// stopTimeout is how long a run may take to end, with what is printed then.
const stopTimeout = time.Minute

func (m *Manager) serve(run *Run) {
	ctx, cancel := context.WithTimeoutCause(run.ctx, m.cfg.StartTimeout+run.Duration+stopTimeout, errors.New("the tool took too long"))
	defer cancel()
	began := time.Now()
	run.begins(began)
	counts, err := m.cfg.Runner.Run(ctx, tools.RunSpec{Tool: run.Definition.Name, Duration: run.Duration, Options: run.Options}, run)
	outcome := run.ends(counts, err)
	run.cancel(nil)
	if m.cfg.Finished != nil {
		m.cfg.Finished(run.Definition.Name, outcome, time.Since(began))
	}
	m.logOver(run, outcome, err)

	m.mu.Lock()
	defer m.mu.Unlock()
	m.running = slices.DeleteFunc(m.running, func(other *Run) bool { return other == run })
	m.keep(run)
	for len(m.queue) > 0 && len(m.running) < m.cfg.MaxConcurrent && !m.closed {
		next := m.queue[0]
		m.queue = slices.Delete(m.queue, 0, 1)
		m.launch(next)
	}
}

// keep keeps a run that is over, and lets old ones go.
func (m *Manager) keep(run *Run) {
	m.over = append(m.over, run)
	bytes := 0
	for i := len(m.over) - 1; i >= 0; i-- {
		bytes += m.over[i].bytes()
		if len(m.over)-i > m.cfg.Keep || bytes > m.cfg.KeepBytes && i < len(m.over)-1 {
			m.over = slices.Clone(m.over[i+1:])
			return
		}
	}
}

// cancel ends a run early. The caller holds the lock.
func (m *Manager) cancel(run *Run, why error) {
	if run.cancelled {
		return
	}
	run.cancelled = true
	run.cancel(why)
	if at := slices.Index(m.queue, run); at >= 0 {
		m.queue = slices.Delete(m.queue, at, at+1)
		outcome := run.ends(tools.RunCounts{}, why)
		m.logOver(run, outcome, why)
		m.keep(run)
	}
}

// Get returns the run of that ID, or nil: it never was, or is not kept any more.
func (m *Manager) Get(id string) *Run {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, run := range slices.Concat(m.over, m.running, m.queue) {
		if run.ID == id {
			return run
		}
	}
	return nil
}

// Runs returns the runs that are kept or going on, the newest first.
func (m *Manager) Runs() []*Run {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Concat(m.over, m.running, m.queue)
	slices.SortStableFunc(all, func(a, b *Run) int { return b.Created.Compare(a.Created) })
	return all
}

// Stop ends a run early. What it has yielded so far is kept.
func (m *Manager) Stop(run *Run, who string) {
	_ = level.Info(m.cfg.Logger).Log("msg", "run stopped on request", "run", run.ID, "tool", run.Definition.Name, "user", who)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cancel(run, errStopped)
}

// Close ends all runs and waits for them. No new ones begin.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	for _, run := range m.active() {
		m.cancel(run, ErrClosed)
	}
	m.mu.Unlock()
	m.wait.Wait()
}

func (m *Manager) logRequest(run *Run, r Request, shared bool) {
	_ = level.Info(m.cfg.Logger).Log("msg", "run requested", "run", run.ID, "tool", r.Tool, "user", r.Who,
		"duration", r.Duration, "options", optionText(r.Options), "shared", shared)
}

func (m *Manager) logOver(run *Run, outcome string, err error) {
	s := run.Progress()
	_ = level.Info(m.cfg.Logger).Log("msg", "run over", "run", run.ID, "tool", run.Definition.Name, "outcome", outcome,
		"duration", run.Duration, "took", s.Elapsed.Round(time.Millisecond), "samples", s.Samples, "err", err)
}

func optionText(options map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(options)) {
		parts = append(parts, name+"="+options[name])
	}
	return strings.Join(parts, ",")
}

// keyOf is what requests for the same run have in common.
func keyOf(r Request) string {
	return fmt.Sprintf("%s %d %s", r.Tool, r.Duration, optionText(r.Options))
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
