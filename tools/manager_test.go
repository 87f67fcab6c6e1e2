package tools

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/process"
)

// safeSums is sums for a manager's goroutines.
type safeSums struct {
	mu sync.Mutex
	*sums
}

func (s *safeSums) Sample(tool string, sample Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sums.Sample(tool, sample)
}

func (s *safeSums) get(series string) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add[series]
}

const fakeTool = `name: fake
help: A tool to test with.
fields: {comm: string, pid: int}
metrics: [{name: bpf_fake_events_total, help: Rows., type: counter, labels: [comm]}]
sources:
`

func fakeSource(mode string) string {
	return "  - {backend: bcc, command: [fake, " + mode + "], format: columns, columns: 'comm pid:int', headers: [COMM PID]}\n"
}

const fakeEvents = `bpf_fake_events_total{comm="sleep"}`

// fakeManager runs a tool whose sources misbehave in these ways.
func fakeManager(t *testing.T, change func(*Config), modes ...string) (*Manager, *safeSums) {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, "not root: a tool loads a BPF program")
	}
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		unable(t, "no python3")
	}
	programs := t.TempDir()
	if modes[0] != "absent" {
		if err := os.CopyFS(programs, os.DirFS("testdata/fake")); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(programs, "fake-bpfcc"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dirs := backend.Dirs
	backend.Dirs = []string{programs}
	t.Cleanup(func() { backend.Dirs = dirs })

	text := fakeTool
	for _, mode := range modes {
		text += fakeSource(mode)
	}
	folder := filepath.Join(t.TempDir(), "tools")
	write(t, folder+"/fake/tool.yaml", text)
	sink := &safeSums{sums: newSums(t)}
	return startManager(t, []string{folder}, sink, change, "fake"), sink
}

func startManager(t *testing.T, folders []string, sink Sink, change func(*Config), enabled ...string) *Manager {
	t.Helper()
	catalog, err := Load(folders)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Catalog: catalog, Enabled: make(map[string]bool), Backends: backend.Names, Sink: sink, Logger: log.NewNopLogger(), AttachTimeout: time.Minute}
	for _, name := range enabled {
		cfg.Enabled[name] = true
	}
	if change != nil {
		change(&cfg)
	}
	m := NewManager(cfg)
	m.Start()
	t.Cleanup(m.Stop)
	return m
}

// eventually polls until a condition holds; a minute is for a busy machine.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func status(t *testing.T, m *Manager, name string) Status {
	t.Helper()
	for _, s := range m.Status() {
		if s.Definition.Name == name {
			return s
		}
	}
	t.Fatalf("no status of %s", name)
	return Status{}
}

func gone(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return pid > 0 && os.IsNotExist(err)
}

func TestToolServes(t *testing.T) {
	m, sink := fakeManager(t, nil, "serve")
	eventually(t, "three rows", func() bool { return sink.get(fakeEvents) == 3 && m.Ready() })
	s := status(t, m, "fake")
	if s.State != Up || s.Reason != "" || s.Source == nil || s.PID == 0 || s.Events != 3 || s.ParseErrors != 0 || s.Path == "" {
		t.Errorf("%+v", s)
	}
	if got := len(m.Ring("fake").Recent(10)); got != 3 {
		t.Errorf("%d events kept, want 3", got)
	}
	if s := status(t, m, "execsnoop"); s.State != Off || m.Ring("execsnoop") != nil {
		t.Errorf("execsnoop is %s", s.State)
	}
	m.Stop()
	if got := sink.get(fakeEvents); got != 4 {
		t.Errorf("%g rows, want 4: the one that the tool prints at its end too", got)
	}
	if !gone(s.PID) {
		t.Errorf("process %d is left", s.PID)
	}
}

func TestToolDoesNotServe(t *testing.T) {
	for _, c := range []struct {
		modes   []string
		timeout time.Duration
		want    string
	}{
		{[]string{"absent"}, time.Minute, "bcc: not installed"},
		{[]string{"refuse"}, time.Minute, "bcc: exit status 1: Unable to find kernel headers. Try rebuilding the kernel"},
		{[]string{"quit"}, time.Minute, "bcc: exit status 0"},
		{[]string{"hang"}, time.Second, "bcc: not attached after 1s"},
		{[]string{"refuse", "quit"}, time.Minute, "bcc: exit status 1: Unable to find kernel headers. Try rebuilding the kernel; bcc: exit status 0"},
	} {
		t.Run(strings.Join(c.modes, ","), func(t *testing.T) {
			m, sink := fakeManager(t, func(cfg *Config) { cfg.AttachTimeout = c.timeout }, c.modes...)
			eventually(t, "the tool is given up", func() bool { return m.Ready() })
			s := status(t, m, "fake")
			if s.State != Down || s.Reason != c.want || len(s.Rejected) != len(c.modes) {
				t.Errorf("%s, %q, rejected %d; want down, %q", s.State, s.Reason, len(s.Rejected), c.want)
			}
			if len(sink.text()) != 0 {
				t.Errorf("samples of a tool that is down:\n%s", sink.text())
			}
			if left := m.runners(); len(left) != 0 {
				t.Errorf("%d children are left", len(left))
			}
		})
	}
}

func TestNextSource(t *testing.T) {
	m, _ := fakeManager(t, nil, "refuse", "serve")
	eventually(t, "the second source serves", func() bool { return m.Ready() })
	s := status(t, m, "fake")
	if s.State != Up || s.Source != s.Definition.Sources[1] || len(s.Rejected) != 1 || s.Rejected[0].Source != s.Definition.Sources[0] {
		t.Errorf("%+v", s)
	}
}

// A tool that ends is started again, and its counts go on.
func TestToolDies(t *testing.T) {
	m, sink := fakeManager(t, nil, "die")
	eventually(t, "two restarts", func() bool { return status(t, m, "fake").Restarts["exit"] >= 2 && sink.get(fakeEvents) >= 9 })
	m.Stop()
	s := status(t, m, "fake")
	if got := sink.get(fakeEvents); uint64(got) != s.Events || s.Events < 9 {
		t.Errorf("%g rows, %d events", got, s.Events)
	}
	if s.UserSeconds+s.SystemSeconds <= 0 {
		t.Error("the children that ended have cost nothing")
	}
}

func TestToolPrintsGarbage(t *testing.T) {
	m, sink := fakeManager(t, nil, "garbage")
	eventually(t, "the row after the garbage", func() bool { return sink.get(fakeEvents) == 4 && m.Ready() })
	// bytes(range(256)) has a newline in it.
	if s := status(t, m, "fake"); s.State != Up || s.ParseErrors != 6 {
		t.Errorf("%s, %d parse errors; want up, 6", s.State, s.ParseErrors)
	}
}

func TestToolLosesEvents(t *testing.T) {
	m, _ := fakeManager(t, nil, "lose")
	eventually(t, "twelve lost", func() bool { return status(t, m, "fake").EventsLost == 12 })
}

func TestToolIgnoresStop(t *testing.T) {
	m, sink := fakeManager(t, nil, "stubborn")
	eventually(t, "three rows", func() bool { return sink.get(fakeEvents) == 3 && m.Ready() })
	pid := status(t, m, "fake").PID
	m.Stop()
	if !gone(pid) {
		t.Errorf("process %d is left", pid)
	}
}

// A child that floods is stopped for minutes; ending the manager does not wait
// for that.
func TestToolFloods(t *testing.T) {
	m, _ := fakeManager(t, nil, "flood")
	eventually(t, "the tool is up", func() bool { return status(t, m, "fake").State == Up })
	pid := status(t, m, "fake").PID
	for _, r := range m.runners() {
		r.mu.Lock()
		r.outAt = -1e15 // as if all that had come since the last check
		r.mu.Unlock()
	}
	m.check(context.Background())
	eventually(t, "the flood is noticed", func() bool { return status(t, m, "fake").Restarts[reasonFlood] == 1 })
	if s := status(t, m, "fake"); s.State != Starting || !strings.HasSuffix(s.Reason, ": flood") || !gone(pid) {
		t.Errorf("%s, %q", s.State, s.Reason)
	}
}

func TestFails(t *testing.T) {
	sleep, err := process.Start(process.Spec{Path: "/bin/sleep", Args: []string{"600"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sleep.Stop(context.Background()) })
	long := time.Now().Add(-time.Hour)
	asked, polled := &Manager{spec: &bpftraceSpec{canAsk: true}}, &Manager{spec: &bpftraceSpec{}}
	for _, c := range []struct {
		name   string
		change func(r *runner, c *child, cfg *Config)
		want   string
	}{
		{"nothing", func(*runner, *child, *Config) {}, ""},
		{"not attached yet", func(r *runner, c *child, _ *Config) { c.attached, r.outAt = make(chan struct{}), -1e15 }, ""},
		{"flood", func(r *runner, _ *child, _ *Config) { r.outAt = -1e15 }, reasonFlood},
		{"much, long ago", func(r *runner, _ *child, _ *Config) { r.outAt, r.checked = -1e9, long }, ""},
		{"busy for a minute", func(r *runner, _ *child, cfg *Config) {
			cfg.CPULimit, r.cpuAt, r.cpuSince = 0.5, -60, time.Now().Add(-time.Minute)
		}, reasonCPU},
		{"busy for less", func(r *runner, _ *child, cfg *Config) {
			cfg.CPULimit, r.cpuAt, r.cpuSince = 0.5, -60, time.Now().Add(-30*time.Second)
		}, ""},
		{"busy, but no limit", func(r *runner, _ *child, _ *Config) { r.cpuAt, r.cpuSince = -6000, time.Now().Add(-time.Minute) }, ""},
		{"within the limit", func(r *runner, _ *child, cfg *Config) {
			cfg.CPULimit, r.cpuAt, r.cpuSince = 2, -60, time.Now().Add(-time.Minute)
		}, ""},
		{"memory", func(_ *runner, _ *child, cfg *Config) { cfg.MemoryLimit = 1000 }, reasonMemory},
		{"memory within the limit", func(_ *runner, _ *child, cfg *Config) { cfg.MemoryLimit = 1 << 40 }, ""},
		{"no output of an interval", func(r *runner, c *child, _ *Config) {
			r.members[0].source.Interval, c.started = 5, time.Now().Add(-51*time.Second)
		}, reasonHang},
		{"output may be late", func(r *runner, c *child, _ *Config) {
			r.members[0].source.Interval, c.started = 5, time.Now().Add(-45*time.Second)
		}, ""},
		{"it took long to start", func(r *runner, c *child, _ *Config) {
			r.members[0].source.Interval, c.started, c.tookToAttach = 5, long, time.Hour-45*time.Second
		}, ""},
		{"it took long to start, and hangs", func(r *runner, c *child, _ *Config) {
			r.members[0].source.Interval, c.started, c.tookToAttach = 5, long, time.Minute
		}, reasonHang},
		{"silence of a tool that prints events", func(_ *runner, c *child, _ *Config) { c.started = long }, ""},
		{"no answers", func(_ *runner, c *child, _ *Config) {
			c.answers, c.missed, c.since = true, 3, time.Now().Add(-31*time.Second)
		}, reasonHang},
		{"no answers for a while", func(_ *runner, c *child, _ *Config) {
			c.answers, c.missed, c.since = true, 30, time.Now().Add(-20*time.Second)
		}, ""},
		{"two answers missed", func(_ *runner, c *child, _ *Config) { c.answers, c.missed, c.since = true, 2, long }, ""},
		{"no unasked answers", func(r *runner, c *child, _ *Config) {
			r.m, c.answers, c.last = polled, true, time.Now().Add(-51*time.Second)
		}, reasonHang},
		{"unasked answers may be late", func(r *runner, c *child, _ *Config) {
			r.m, c.answers, c.last = polled, true, time.Now().Add(-45*time.Second)
		}, ""},
	} {
		attached := make(chan struct{})
		close(attached)
		ch := &child{process: sleep, attached: attached, started: time.Now(), last: time.Now()}
		r := &runner{m: asked, child: ch, members: []*member{{source: &Source{}}}, checked: time.Now().Add(-10 * time.Second), cpuSince: time.Now()}
		cfg := Config{}
		c.change(r, ch, &cfg)
		if got := r.fails(cfg); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestOrderedSources(t *testing.T) {
	catalog := builtins(t)
	for _, c := range []struct {
		tool     string
		backends []string
		options  map[string]string
		pinned   string
		want     string
	}{
		{"execsnoop", backend.Names, nil, "", "bpftrace:0 libbpf-tools:2 bcc:4"},
		{"execsnoop", backend.Names, map[string]string{"failed": "true"}, "", "bpftrace:1 libbpf-tools:3 bcc:5"},
		{"execsnoop", []string{"bcc", "libbpf-tools"}, nil, "", "bcc:4 libbpf-tools:2"},
		{"execsnoop", backend.Names, nil, "bcc", "bcc:4"},
		{"execsnoop", []string{"bpftrace"}, nil, "bcc", "bcc:4"},
		{"tcpretrans", []string{"libbpf-tools"}, nil, "", ""},
		{"tcpretrans", nil, nil, "", ""},
	} {
		m := &Manager{cfg: Config{Backends: c.backends, Options: map[string]map[string]string{c.tool: c.options}, Pinned: map[string]string{c.tool: c.pinned}}}
		d := catalog.Tool(c.tool)
		var got []string
		for _, s := range m.ordered(d) {
			for i := range d.Sources {
				if d.Sources[i] == s {
					got = append(got, fmt.Sprintf("%s:%d", s.Backend, i))
				}
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func TestUsable(t *testing.T) {
	dirs := backend.Dirs
	backend.Dirs = []string{t.TempDir()}
	t.Cleanup(func() { backend.Dirs = dirs })
	d := builtins(t).Tool("cachestat")
	text := d.Sources[firstOf(d, backend.Libbpf)]
	for kernel, want := range map[string]string{
		"5.10.0":  "not installed",
		"5.15.99": "not installed",
		"5.16.0":  "not on kernel 5.16.0: " + text.Kernel.Because,
		"7.2":     "not on kernel 7.2: " + text.Kernel.Because,
	} {
		v, err := backend.ParseVersion(kernel)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := (&Manager{}).usable(d, text, v); got != want {
			t.Errorf("%s: got %q, want %q", kernel, got, want)
		}
	}
	// Each kernel has one script of cachestat.
	for kernel, script := range map[[2]int]string{{5, 4}: "reads_generic.bt", {5, 11}: "reads_generic.bt", {5, 12}: "reads_pages.bt",
		{5, 15}: "reads_pages.bt", {5, 16}: "reads.bt", {6, 11}: "reads.bt", {6, 12}: "cachestat.bt", {7, 2}: "cachestat.bt"} {
		var scripts []string
		for _, s := range d.Sources {
			if s.Backend == backend.BPFtrace && s.Kernel.excludes(backend.Version(kernel[:])) == "" {
				scripts = append(scripts, s.Scripts...)
			}
		}
		// The first is for a tracepoint, which older kernels do not have.
		if len(scripts) == 0 || scripts[len(scripts)-1] != script || len(scripts) > 2 {
			t.Errorf("%v: %q, want %q last", kernel, scripts, script)
		}
	}
	if _, got := (&Manager{}).usable(d, d.Sources[0], backend.Version{6, 12}); got != "not installed" {
		t.Errorf("without bpftrace: %q", got)
	}
}

// firstOf is the index of the first source by a backend.
func firstOf(d *Definition, name string) int {
	return slices.IndexFunc(d.Sources, func(s *Source) bool { return s.Backend == name })
}

func TestComplaint(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{nil, ""},
		{[]string{"one", " two "}, "two"},
		{[]string{"ERROR: Unknown error -1: couldn't set RLIMIT_MEMLOCK", "stdin:1:2-3: ERROR: no such field", "more"}, "stdin:1:2-3: ERROR: no such field"},
		{[]string{"a\x1b[31m\xffb\tc: not found", "later"}, "a [31m b c: not found"},
		{[]string{"Traceback (most recent call last):", `  File "bcc/__init__.py", line 1, in attach`, `    raise Exception("Failed to attach %s" % fn)`, "Exception: Failed to attach b'x'", ""}, "Exception: Failed to attach b'x'"},
		{[]string{strings.Repeat("x", 1000)}, strings.Repeat("x", 400)},
	} {
		ch := &child{}
		for _, line := range c.lines {
			ch.note([]byte(line))
		}
		if got := ch.complaint(); got != c.want {
			t.Errorf("%q: got %q, want %q", c.lines, got, c.want)
		}
	}
	ch := &child{}
	for i := range 1000 {
		ch.note([]byte(fmt.Sprint("line ", i)))
	}
	if len(ch.lines) != 20 || ch.complaint() != "line 999" {
		t.Errorf("%d lines kept, the last %q", len(ch.lines), ch.complaint())
	}
}

// TestBPFtraceServes runs the real thing: all built-in tools and one whose
// script does not compile, which is left out.
func TestBPFtraceServes(t *testing.T) {
	needBPFtrace(t)
	folder := filepath.Join(t.TempDir(), "tools")
	write(t, folder+"/broken/tool.yaml", `name: broken
help: A tool that does not compile.
metrics: [{name: bpf_broken_total, help: Nothing., type: counter}]
sources: [{backend: bpftrace, scripts: [broken.bt], maps: {broken_count: {metric: bpf_broken_total}}}]
`)
	write(t, folder+"/broken/broken.bt", "tracepoint:sched:sched_process_exec { @broken_count = no_such_function(); }\n")
	sink := &safeSums{sums: newSums(t)}
	m := startManager(t, []string{folder}, sink, func(cfg *Config) { cfg.Backends = []string{"bpftrace"} }, "execsnoop", "tcpretrans", "broken")
	eventually(t, "the tools are up", m.Ready)
	if s := status(t, m, "broken"); s.State != Down || !strings.Contains(s.Reason, "no_such_function") {
		t.Errorf("broken is %s: %s", s.State, s.Reason)
	}
	pid := status(t, m, "execsnoop").PID
	for _, name := range []string{"execsnoop", "tcpretrans"} {
		if s := status(t, m, name); s.State != Up || s.PID != pid || pid == 0 {
			t.Errorf("%s is %s (%s), process %d of %d", name, s.State, s.Reason, s.PID, pid)
		}
	}

	program := filepath.Join(t.TempDir(), "managed,\"é")
	content, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, content, 0o755); err != nil {
		t.Fatal(err)
	}
	const series = `bpf_execsnoop_execs_total{comm="managed,\"é",result="success"}`
	execs := func(n int) {
		for range n {
			runProgram(t, program)
		}
	}
	execs(20)
	refresh := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		m.Refresh(ctx)
	}
	refresh()
	if got := sink.get(series); got != 20 {
		t.Errorf("%g execs counted, want 20", got)
	}
	execs(7)
	var together sync.WaitGroup
	for range 5 {
		together.Add(1)
		go func() {
			defer together.Done()
			refresh()
		}()
	}
	together.Wait()
	refresh()
	if got := sink.get(series); got != 27 {
		t.Errorf("%g execs counted, want 27", got)
	}
	execs(3)
	m.Stop()
	if got := sink.get(series); got != 30 {
		t.Errorf("%g execs counted, want 30: bpftrace prints its maps when it ends", got)
	}
	if !gone(pid) {
		t.Errorf("process %d is left", pid)
	}
}
