package tools

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/process"
)

// Config says which tools a [Manager] runs and how.
type Config struct {
	Catalog *Catalog
	Enabled map[string]bool // by tool
	// Options are by tool and name. One that is not there has its default.
	Options map[string]map[string]string
	// Backends may serve, in order of preference; Pinned is the only one for a
	// tool.
	Backends []string
	Pinned   map[string]string
	// ExcludeSelf leaves the exporter's processes, and sessions with its
	// ListenPort, out of the counts.
	ExcludeSelf bool
	ListenPort  string
	// A child that takes more than CPULimit cores over a minute, or
	// MemoryLimit bytes of resident memory, is stopped. 0 is no limit.
	CPULimit    float64
	MemoryLimit uint64
	// RestartMaxDelay is the longest pause before a child that ended is
	// started again. 0 is ten seconds.
	RestartMaxDelay time.Duration
	// AttachTimeout bounds the start of a child until it sees events. 0 is
	// two minutes: bcc compiles, and may do so on a slow machine.
	AttachTimeout time.Duration
	// SelfTest makes sources prove that they count right before they serve.
	// Verdicts are kept in StateDirectory; "" keeps them in memory only.
	SelfTest       bool
	StateDirectory string
	Sink           Sink
	// Events is told of each event that is shown, if it is not nil. It must
	// not block.
	Events func(*Definition, Event)
	Logger log.Logger
}

// fileDirs are where a self-test may make a file, if the state directory is on
// no disk.
var fileDirs = []string{"/var/tmp", "/var/lib", "/tmp"}

// ringSize is how many events are kept for each tool.
const ringSize = 1000

// A Manager runs the enabled tools.
type Manager struct {
	cfg    Config
	own    *ownDoings
	tools  []*tool
	byName map[string]*tool
	stats  *bpfStats

	prover   *prover
	verdicts *verdicts
	again    chan struct{} // wakes choose for what is in changes

	cancel context.CancelFunc
	wait   sync.WaitGroup
	found  chan struct{} // closed when it is known which sources may serve
	taps   *taps

	mu         sync.Mutex
	shared     *child          // the bpftrace that answers, or nil
	running    map[int]*runner // by the child's process id
	changes    []change
	noBPFtrace error             // why spec is nil
	spec       *bpftraceSpec     // nil where bpftrace is not installed
	paths      map[string]string // of candidates, for PackageVersion
}

// tool is one of the catalogue with what has become of it.
type tool struct {
	def      *Definition
	options  map[string]string
	ring     *Ring
	enabled  bool
	counters counters

	mu         sync.Mutex
	state      State
	reason     string
	source     *Source
	version    string
	path       string
	rejected   []Rejection
	candidates []*candidate
	runner     *runner
	restarts   map[string]uint64
	selfTest   Verdict
	runs       int   // on-demand runs that are going on
	spent      spent // by runners and runs that are over

	appeared bool // the last look of watch has found a program that was missing
}

// candidate is a source that may serve on this host, with its program.
type candidate struct {
	source *Source
	path   string
}

// NewManager prepares the tools. It starts nothing.
func NewManager(cfg Config) *Manager {
	if cfg.AttachTimeout == 0 {
		cfg.AttachTimeout = 2 * time.Minute
	}
	if cfg.RestartMaxDelay == 0 {
		cfg.RestartMaxDelay = 10 * time.Second
	}
	taps := newTaps(cfg.Sink)
	cfg.Sink = taps
	m := &Manager{cfg: cfg, byName: make(map[string]*tool), running: make(map[int]*runner), stats: newBPFStats(), found: make(chan struct{}), taps: taps,
		prover: &prover{dirs: fileDirs}, verdicts: newVerdicts(cfg.StateDirectory), again: make(chan struct{}, 1),
		own: &ownDoings{on: cfg.ExcludeSelf, pid: strconv.Itoa(os.Getpid()), port: cfg.ListenPort}}
	m.prover.own = m.own
	if cfg.StateDirectory != "" {
		m.prover.dirs = append([]string{cfg.StateDirectory}, fileDirs...)
	}
	for _, d := range cfg.Catalog.Tools() {
		t := &tool{def: d, options: cfg.Options[d.Name], enabled: cfg.Enabled[d.Name], state: Off, restarts: make(map[string]uint64)}
		if t.enabled && !d.OnDemand() {
			for _, reason := range restartReasons {
				t.restarts[reason] = 0
			}
		}
		if t.enabled {
			t.state, t.reason = Starting, "looking for a source"
			if d.HasEvents() {
				t.ring = NewRing(ringSize)
				if cfg.Events != nil {
					t.ring.tell = func(e Event) { cfg.Events(d, e) }
				}
			}
		}
		m.tools = append(m.tools, t)
		m.byName[d.Name] = t
	}
	return m
}

// Start finds a source for each enabled tool and runs it until Stop. It
// returns at once.
func (m *Manager) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.wait.Add(1)
	go func() {
		defer m.wait.Done()
		m.findCandidates()
		close(m.found)
		m.choose(ctx)
	}()
	m.wait.Add(1)
	go func() {
		defer m.wait.Done()
		m.watch(ctx)
	}()
}

// Stop ends all children and waits for them: their last values are still
// taken.
func (m *Manager) Stop() {
	m.cancel()
	m.wait.Wait()
}

// findCandidates rules out what cannot work here before anything runs.
func (m *Manager) findCandidates() {
	m.findBPFtrace()
	for _, t := range m.tools {
		if t.enabled {
			m.find(t)
		}
	}
}

func runningKernel() backend.Version {
	release, _ := backend.KernelRelease()
	kernel, _ := backend.ParseVersion(release)
	return kernel
}

// find looks for the candidates of a tool, as if for the first time.
func (m *Manager) find(t *tool) {
	kernel := runningKernel()
	t.mu.Lock()
	t.candidates, t.rejected = nil, nil
	t.mu.Unlock()
	for _, s := range m.ordered(t.def) {
		path, why := m.usable(t.def, s, kernel)
		if why != "" {
			t.reject(s, why)
			continue
		}
		t.mu.Lock()
		t.candidates = append(t.candidates, &candidate{source: s, path: path})
		t.mu.Unlock()
	}
	m.settle(t)
	if t.def.OnDemand() && len(t.candidates) > 0 {
		t.setState(Idle)
	}
}

func (m *Manager) findBPFtrace() {
	spec, err := m.newBPFtraceSpec()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spec, m.noBPFtrace = spec, err
}

// bpftrace is nil, with the reason, where there is none.
func (m *Manager) bpftrace() (*bpftraceSpec, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.spec == nil && m.noBPFtrace == nil {
		return nil, backend.ErrNotInstalled
	}
	return m.spec, m.noBPFtrace
}

func (m *Manager) newBPFtraceSpec() (*bpftraceSpec, error) {
	path, err := backend.Find(backend.BPFtrace, "")
	if err != nil {
		return nil, err
	}
	version, err := backend.BPFtraceVersion(path)
	if err != nil {
		return nil, fmt.Errorf("%s does not tell its version: %w", path, err)
	}
	// In a container's PID namespace the exporter's own id is another one than
	// BPF programs see: it can neither ask nor be left out by it.
	host := backend.InitialPIDNamespace()
	spec := &bpftraceSpec{path: path, version: version, canAsk: host && backend.HasTracepoint(askTracepoint)}
	if m.cfg.ExcludeSelf {
		spec.port = m.cfg.ListenPort
		if host {
			spec.exclude = m.own.pid
		}
	}
	return spec, nil
}

// ordered are the sources of a tool that its options and the flags admit, the
// preferred first.
func (m *Manager) ordered(d *Definition) []*Source {
	return m.orderedFor(d, m.cfg.Options[d.Name])
}

func (m *Manager) orderedFor(d *Definition, options map[string]string) []*Source {
	backends := m.cfg.Backends
	if pin := m.cfg.Pinned[d.Name]; pin != "" {
		backends = []string{pin}
	}
	var sources []*Source
	if slices.Equal(backends, backend.Names) {
		// Nobody chose an order: the definition's.
		for _, s := range d.Sources {
			if wanted(d, s, options) {
				sources = append(sources, s)
			}
		}
		return sources
	}
	for _, name := range backends {
		for _, s := range d.Sources {
			if s.Backend == name && wanted(d, s, options) {
				sources = append(sources, s)
			}
		}
	}
	return sources
}

func wanted(d *Definition, s *Source, options map[string]string) bool {
	for option, value := range s.When {
		if d.option(option, options) != value {
			return false
		}
	}
	return true
}

// excludes tells why a source is not for a kernel, "" if it is.
func (k Kernel) excludes(kernel backend.Version) string {
	from, _ := backend.ParseVersion(k.From)
	below, _ := backend.ParseVersion(k.Below)
	if kernel.Less(from) || below != nil && !kernel.Less(below) {
		return fmt.Sprintf("not on kernel %s: %s", kernel, k.Because)
	}
	return ""
}

// usable tells where a source's program is, or why it cannot serve.
func (m *Manager) usable(d *Definition, s *Source, kernel backend.Version) (path, why string) {
	// Where a self-test gives evidence, a newer package may prove a rule
	// outdated. Scripts come with their rules.
	evidence := m.cfg.SelfTest && d.SelfTest != nil && s.Backend != backend.BPFtrace
	if why := s.Kernel.excludes(kernel); why != "" && !evidence {
		return "", why
	}
	if s.Backend != backend.BPFtrace {
		if _, err := d.arguments(s, m.cfg.Options[d.Name]); err != nil {
			return "", err.Error()
		}
		path, err := backend.Find(s.Backend, s.Command[0])
		if err != nil {
			return "", err.Error()
		}
		return path, ""
	}
	bpftrace, err := m.bpftrace()
	if err != nil {
		return "", err.Error()
	}
	script, err := d.Script(s, m.cfg.Options[d.Name])
	if err != nil {
		return "", err.Error()
	}
	for _, name := range tracepoints(script) {
		if !backend.HasTracepoint(name) {
			return "", "this kernel has no tracepoint " + name
		}
	}
	return bpftrace.path, ""
}

// first is the candidate to try, nil if there is none left.
func (t *tool) first() *candidate {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.enabled || len(t.candidates) == 0 {
		return nil
	}
	return t.candidates[0]
}

func (t *tool) current() *runner {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.runner
}

// attachAll tries the candidates, all tools at once, until each tool is up or
// has none left.
func (m *Manager) attachAll(ctx context.Context) {
	for pending := true; pending && ctx.Err() == nil; {
		pending = false
		var wait sync.WaitGroup
		for _, t := range m.tools {
			if c := t.first(); c != nil && c.source.Backend != backend.BPFtrace && t.current() == nil && !t.def.OnDemand() {
				pending = true
				wait.Go(func() { m.attachText(ctx, t) })
			}
		}
		for ctx.Err() == nil {
			shared := m.sharing()
			if !slices.ContainsFunc(shared, func(t *tool) bool { return t.current() == nil }) {
				break
			}
			pending = true
			m.attachShared(ctx, shared)
		}
		wait.Wait()
	}
}

// sharing are the tools for which bpftrace serves, or is to be tried.
func (m *Manager) sharing() []*tool {
	var shared []*tool
	for _, t := range m.tools {
		if c := t.first(); c != nil && c.source.Backend == backend.BPFtrace && !t.def.OnDemand() {
			shared = append(shared, t)
		}
	}
	return shared
}

// attachText tries a tool's candidates up to the first that is a bpftrace.
func (m *Manager) attachText(ctx context.Context, t *tool) {
	for c := t.first(); c != nil && c.source.Backend != backend.BPFtrace && ctx.Err() == nil; c = t.first() {
		r := m.newRunner([]*tool{t}, c.path)
		err := r.try(ctx)
		if err == nil && c.source.Interval == 0 {
			err = m.proveAlone(ctx, r)
		}
		if err == nil {
			r.up(r.current())
			m.keep(ctx, r)
			return
		}
		r.stopChild(ctx)
		m.next(ctx, t, err)
	}
}

// proveAlone returns why the only member of a runner must not serve.
func (m *Manager) proveAlone(ctx context.Context, r *runner) error {
	bad, err := m.prove(ctx, r)
	for _, why := range bad {
		return selfTestError(why)
	}
	return err
}

// attachShared starts one bpftrace for all tools, or finds one that it does not
// start with, or some that it counts wrong for, and gives those up.
func (m *Manager) attachShared(ctx context.Context, shared []*tool) {
	for _, t := range shared {
		m.endRunner(t)
	}
	r := m.newRunner(shared, shared[0].first().path)
	if err := r.try(ctx); err != nil {
		culprit, why := m.culprit(ctx, shared, err)
		m.next(ctx, culprit, why)
		return
	}
	bad, err := m.prove(ctx, r)
	if err == nil && len(bad) == 0 {
		r.up(r.current())
		m.keep(ctx, r)
		return
	}
	r.stopChild(ctx)
	for member, why := range bad {
		m.next(ctx, member.tool, selfTestError(why))
	}
	if err != nil {
		culprit, why := m.culprit(ctx, shared, err)
		m.next(ctx, culprit, why)
	}
}

// culprit finds a tool with which bpftrace does not start, when it does not with
// all of them: the last one of the shortest beginning of the list that fails. Tools that
// are on by default stand first, so that others give way.
func (m *Manager) culprit(ctx context.Context, shared []*tool, err error) (*tool, error) {
	shared = slices.Clone(shared)
	slices.SortStableFunc(shared, func(a, b *tool) int { return rank(a) - rank(b) })
	good := 0 // so many start
	for bad := len(shared); bad-good > 1 && ctx.Err() == nil; {
		n := (good + bad) / 2
		if one := m.tryOnly(ctx, shared[:n]); one != nil {
			bad, err = n, one
			shared = shared[:n]
		} else {
			good = n
		}
	}
	last := shared[len(shared)-1]
	if len(shared) == 1 || ctx.Err() != nil {
		return last, err
	}
	if alone := m.tryOnly(ctx, shared[len(shared)-1:]); alone != nil {
		return last, alone
	}
	return last, fmt.Errorf("only together with others: %w", err)
}

func rank(t *tool) int {
	if t.def.Default {
		return 0
	}
	return 1
}

// tryOnly tells why bpftrace does not start with just these tools.
func (m *Manager) tryOnly(ctx context.Context, tools []*tool) error {
	r := m.newRunner(tools, tools[0].first().path)
	err := r.try(ctx)
	r.stopChild(ctx)
	return err
}

// next gives up a tool's first candidate.
func (m *Manager) next(ctx context.Context, t *tool, err error) {
	if ctx.Err() != nil {
		return
	}
	t.reject(t.first().source, err.Error())
	t.mu.Lock()
	t.candidates = t.candidates[1:]
	if t.selfTest.Result == Pending {
		t.selfTest = Verdict{}
	}
	t.mu.Unlock()
	m.settle(t)
}

func (t *tool) setRunner(r *runner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runner = r
}

func (t *tool) reject(s *Source, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rejected = append(t.rejected, Rejection{Source: s, Reason: why})
}

// settle gives a tool up that has no candidate left, and says why, once.
func (m *Manager) settle(t *tool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.candidates) > 0 {
		return
	}
	var why []string
	for _, r := range t.rejected {
		why = append(why, r.Source.Backend+": "+r.Reason)
	}
	if len(why) == 0 {
		why = append(why, "no source is allowed by --tools.backends and the tool's options")
	}
	t.state, t.reason = Down, strings.Join(why, "; ")
	_ = level.Error(m.cfg.Logger).Log("msg", "no source serves this tool here", "tool", t.def.Name, "reason", t.reason)
}

// keep hands an attached runner to a goroutine of its own, and what it has to
// prove yet to another one.
func (m *Manager) keep(ctx context.Context, r *runner) {
	for _, t := range r.tools() {
		t.setRunner(r)
	}
	ctx, r.over = context.WithCancel(ctx)
	m.wait.Go(func() {
		defer r.over()
		r.keep(ctx)
	})
	if unproven := r.unproven(); len(unproven) > 0 {
		m.wait.Go(func() { m.proveLater(ctx, r) })
	}
}

// Refresh asks the tools that can be asked for their values and returns when
// they have come, or at the end of ctx: then the last ones stand.
func (m *Manager) Refresh(ctx context.Context) {
	m.mu.Lock()
	shared := m.shared
	var r *runner
	if shared != nil {
		r = m.running[shared.process.Pid()]
	}
	m.mu.Unlock()
	if shared == nil || !m.canAsk() {
		return
	}
	if r != nil {
		r.countSkipped(m.stats)
	}
	if err := shared.ask(ctx); err != nil {
		for _, member := range shared.members {
			member.tool.counters.stale.Add(1)
		}
	}
}

func (m *Manager) canAsk() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spec != nil && m.spec.canAsk
}

// Ready tells whether each enabled tool is up or has been given up.
func (m *Manager) Ready() bool {
	for _, t := range m.tools {
		t.mu.Lock()
		starting := t.state == Starting
		t.mu.Unlock()
		if starting {
			return false
		}
	}
	return true
}

// Ring returns the recent events of a tool, or nil if it has none.
func (m *Manager) Ring(name string) *Ring {
	if t := m.byName[name]; t != nil {
		return t.ring
	}
	return nil
}

// Status tells of every tool of the catalogue, by name.
func (m *Manager) Status() []Status {
	all := make([]Status, 0, len(m.tools))
	for _, t := range m.tools {
		all = append(all, t.status())
	}
	return all
}

func (t *tool) status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Status{
		Definition: t.def, State: t.state, Reason: t.reason, Source: t.source, Version: t.version, Path: t.path,
		Rejected: slices.Clone(t.rejected), Restarts: make(map[string]uint64, len(t.restarts)),
		Events: t.counters.events.Load(), EventsLost: t.counters.lost.Load(), EventsNotShown: t.counters.notShown.Load(),
		ParseErrors: t.counters.parseErrors.Load(), Stale: t.counters.stale.Load(), SelfTest: t.selfTest,
	}
	for reason, n := range t.restarts {
		s.Restarts[reason] = n
	}
	if t.runner != nil {
		t.runner.cost(&s)
	}
	t.spent.addTo(&s)
	return s
}

// started records a child, so that its doings are known as the exporter's own.
func (m *Manager) started(r *runner, p *process.Process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running[p.Pid()] = r
	m.shareKids()
}

func (m *Manager) ended(p *process.Process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.running, p.Pid())
	m.shareKids()
}

func (m *Manager) shareKids() {
	kids := make(map[string]bool, len(m.running))
	for pid := range m.running {
		kids[strconv.Itoa(pid)] = true
	}
	m.own.kids.Store(&kids)
}
