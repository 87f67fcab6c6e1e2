package tools

import (
	"regexp"
	"strings"
	"testing"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/selftest"
)

// shutFeed is the feed of a source of a built-in tool that is in a self-test.
func shutFeed(t *testing.T, name string, source int, options map[string]string) (*feed, *selftest.Plan) {
	t.Helper()
	d := builtins(t).Tool(name)
	f := newFeed(d, d.Sources[source], options, failingSink{t}, NewRing(10), new(counters), new(ownDoings))
	f.gate = new(gate)
	plan := selftest.NewPlan([]string{d.SelfTest.Workload}, nil)
	f.gate.arm(d, d.Sources[source], options, plan)
	return f, plan
}

// failingSink is behind a shut gate.
type failingSink struct{ t *testing.T }

func (s failingSink) Sample(tool string, sample Sample) {
	s.t.Errorf("a sample of %s passed: %v", tool, sample)
}

func lines(f *feed, text string) {
	decoder := f.lineDecoder()
	for line := range strings.Lines(text) {
		decoder.line([]byte(strings.TrimSuffix(line, "\n")), false)
	}
	decoder.flush()
}

var commOfTest = regexp.MustCompile(`self[0-9a-f]{6}`)

// verdict is what the first unfulfilled expectation says.
func (f *feed) verdict(numbers map[string]float64) string {
	for _, t := range f.gate.tallied() {
		if fault, _ := t.judge(selftest.Workloads[f.d.SelfTest.Workload], numbers); fault != "" {
			return commOfTest.ReplaceAllString(fault, "COMM")
		}
	}
	return ""
}

func TestGate(t *testing.T) {
	const header = "PCOMM            PID    PPID   RET ARGS\n"
	row := func(comm, result string) string {
		return comm + strings.Repeat(" ", 17-len(comm)) + "1000   999    " + result + " /bin/x\n"
	}
	for _, c := range []struct {
		name   string
		text   func(comm string) string
		failed string // option
		want   string
	}{
		{"just that", func(comm string) string { return strings.Repeat(row(comm, "  0"), 10) }, "false", ""},
		{"and others", func(comm string) string { return row("sh", "  0") + strings.Repeat(row(comm, "  0"), 10) }, "false", ""},
		{"failed ones too", func(comm string) string { return strings.Repeat(row(comm, "  0")+row(comm, "-20"), 10) }, "true", ""},
		{"failed ones missing", func(comm string) string { return strings.Repeat(row(comm, "  0"), 10) }, "true", "saw 0 execs of comm COMM, result ENOTDIR, want at least 8"},
		{"nothing", func(string) string { return "" }, "false", "saw 0 execs of comm COMM, result success, want at least 8"},
		{"a fixed table", func(string) string { return strings.Repeat(row("sshd", "  0")+row("bash", "  0"), 20) }, "false", "saw 0 execs of comm COMM, result success, want at least 8"},
		{"every row twice", func(comm string) string { return strings.Repeat(row(comm, "  0"), 20) }, "false", "saw 20 execs of comm COMM, result success, want at most 10"},
	} {
		options := map[string]string{"failed": c.failed}
		f, plan := shutFeed(t, "execsnoop", 2, options)
		lines(f, header+c.text(plan.Comm))
		if got := f.verdict(map[string]float64{"execs": 10, "failed": 10}); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if n := f.counters.events.Load() + f.counters.notShown.Load() + uint64(len(f.ring.Recent(10))); n != 0 {
			t.Errorf("%s: %d events counted or shown", c.name, n)
		}
		f.gate.open.Store(true)
		sink := newSums(t)
		f.sink = sink
		lines(f, header+row("after", "  0"))
		if sink.add[`bpf_execsnoop_execs_total{comm="after",result="success"}`] != 1 || len(f.ring.Recent(10)) != 1 {
			t.Errorf("%s: after it is open: %v", c.name, sink.add)
		}
	}
}

// cachestat of bcc 0.26 on a kernel that it does not fit, and nonsense.
func TestGateOfInterval(t *testing.T) {
	numbers := map[string]float64{"pages": 1000, "warm": 3000, "max_missed": 1500, "max_dirtied": 1200}
	const header = "    HITS   MISSES  DIRTIES HITRATIO   BUFFERS_MB  CACHED_MB\n"
	for _, c := range []struct{ name, rows, want string }{
		{"right", "    2900     1000     1010   74.36%          1        100\n     100        0        0  100.00%          1        100\n", ""},
		{"no hits", "       0     1000     1010    0.00%          1        100\n", "saw 0 hits, want at least 2400"},
		{"no misses", "    4000        0     1010  100.00%          1        100\n", "saw 0 misses, want at least 800"},
		{"too many misses", "    4000     3000     1010   57.14%          1        100\n", "saw 3000 misses, want at most 1500"},
		{"too much dirtied", "    4000     1000     9999   80.00%          1        100\n", "saw 9999 dirties, want at most 1200"},
		{"silence", "", "saw 0 hits, want at least 2400"},
	} {
		f, _ := shutFeed(t, "cachestat", firstOf(builtins(t).Tool("cachestat"), backend.Libbpf), nil)
		lines(f, header+c.rows)
		if got := f.verdict(numbers); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// A source that does not know a label is not failed for that.
func TestGateUnknownLabel(t *testing.T) {
	text := func(device string, n string) string {
		return "Tracing block device I/O... Hit Ctrl-C to end.\n\ndisk = " + device + "\n     usecs               : count     distribution\n" +
			"        32 -> 63         : " + n + "      |****************************************|\n\n"
	}
	d := builtins(t).Tool("biolatency")
	bcc := len(d.Sources) - 2
	for _, c := range []struct{ name, device, n, want string }{
		{"no operation", "vda", "200", ""},
		{"another disk", "sdb", "200", "saw 0 values of device vda, operation read, want at least 80"},
		{"too few", "vda", "70", "saw 70 values of device vda, operation read, want at least 80"},
		{"too many", "vda", "401", "saw 401 values, want at most 400"},
	} {
		f := newFeed(d, d.Sources[bcc], nil, failingSink{t}, nil, new(counters), new(ownDoings))
		f.gate = new(gate)
		plan := selftest.NewPlan([]string{"disk"}, nil)
		plan.Device = "vda"
		f.gate.arm(d, d.Sources[bcc], nil, plan)
		lines(f, text(c.device, c.n))
		got := f.verdict(map[string]float64{"reads": 100, "writes": 100, "max_requests": 400})
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestAmount(t *testing.T) {
	names := []string{"execs", "failed"}
	for text, want := range map[string]float64{"execs": 10, "0.8 execs": 8, "2 failed": 6, "5": 5, "1e3": 1000} {
		a, err := parseAmount(text, names)
		if got := a.value(map[string]float64{"execs": 10, "failed": 3}); got != want || err != nil {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "runs", "execs 2", "-1 execs", "0", "NaN", "Inf execs", "1e99", "execs failed"} {
		if _, err := parseAmount(text, names); err == nil {
			t.Errorf("%q is an amount", text)
		}
	}
}

// One tool may be in its self-test while another serves already.
func TestOthersSelfTest(t *testing.T) {
	d := builtins(t).Tool("execsnoop")
	sink := newSums(t)
	f := newFeed(d, d.Sources[2], nil, sink, NewRing(10), new(counters), new(ownDoings))
	text := "PCOMM            PID    PPID   RET ARGS\n" +
		"selfabcdef       1000   999      0 /tmp/selfabcdef\nsh               1001   999      0 /bin/sh\n"
	lines(f, text)
	f.own.addTest("selfabcdef", "127.64.1.1")
	lines(f, text)
	f.own.addTest("selfabcdee")
	lines(f, text)
	if test, other := sink.add[`bpf_execsnoop_execs_total{comm="selfabcdef",result="success"}`], sink.add[`bpf_execsnoop_execs_total{comm="sh",result="success"}`]; test != 1 || other != 3 {
		t.Errorf("%v execs of a self-test and %v others, want 1 from before it was one, and 3", test, other)
	}
	if n := len(f.ring.Recent(10)); n != 4 || f.counters.events.Load() != 4 {
		t.Errorf("%d events shown, %d counted, want 4", n, f.counters.events.Load())
	}
}
