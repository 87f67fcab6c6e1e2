package tools

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"bpf_tools_exporter/tools/output"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// sums is a Sink that adds up what each series gets and refuses what no
// collector could take.
type sums struct {
	t       testing.TB
	add     map[string]float64
	buckets map[string]map[string]uint64 // by series and schema:index
}

func newSums(t testing.TB) *sums {
	return &sums{t: t, add: make(map[string]float64), buckets: make(map[string]map[string]uint64)}
}

func (s *sums) Sample(tool string, sample Sample) {
	switch {
	case sample.Metric == nil:
		s.t.Errorf("%s: sample without a metric", tool)
		return
	case len(sample.Labels) != len(sample.Metric.Labels):
		s.t.Errorf("%s: %d labels for %s, which has %d", tool, len(sample.Labels), sample.Metric.Name, len(sample.Metric.Labels))
		return
	case !(sample.Add >= 0) || math.IsInf(sample.Add, 0):
		s.t.Errorf("%s: %s grows by %g", tool, sample.Metric.Name, sample.Add)
	case sample.Metric.Type == "counter" && sample.Count != 0:
		s.t.Errorf("%s: bucket of a counter %s", tool, sample.Metric.Name)
	case sample.Count > 0 && (sample.Index < -1100*8 || sample.Index > 1100*8):
		s.t.Errorf("%s: bucket %d of %s", tool, sample.Index, sample.Metric.Name)
	}
	var labels []string
	for i, name := range sample.Metric.Labels {
		labels = append(labels, fmt.Sprintf("%s=%q", name, sample.Labels[i]))
	}
	series := sample.Metric.Name
	if len(labels) > 0 {
		series += "{" + strings.Join(labels, ",") + "}"
	}
	s.add[series] += sample.Add
	if sample.Count > 0 {
		if s.buckets[series] == nil {
			s.buckets[series] = make(map[string]uint64)
		}
		s.buckets[series][fmt.Sprintf("%d:%04d", sample.Schema, sample.Index)] += sample.Count
	}
}

// text has one line for each series, sorted.
func (s *sums) text() string {
	var b strings.Builder
	for _, series := range sortedKeys(s.add) {
		fmt.Fprintf(&b, "%s %.9g", series, s.add[series])
		buckets := s.buckets[series]
		names := sortedKeys(buckets)
		sort.Slice(names, func(i, j int) bool { return bucketIndex(names[i]) < bucketIndex(names[j]) })
		for _, name := range names {
			fmt.Fprintf(&b, " %s=%d", strings.Replace(name, ":0", ":", 1), buckets[name])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func bucketIndex(name string) (n int) {
	fmt.Sscanf(name[strings.Index(name, ":")+1:], "%d", &n)
	return n
}

var fixedTime = time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)

// testChild is a child without a process, whose one member gets the lines that
// a test has for it.
type testChild struct {
	*child
	sums *sums
	feed *feed
	tool *tool

	stacks []output.Stack
}

func newTestChild(t testing.TB, d *Definition, s *Source) *testChild {
	t.Helper()
	sink := newSums(t)
	tl := &tool{def: d, ring: NewRing(ringSize)}
	m := newMember(tl, s, sink, &ownDoings{})
	m.feed.now = func() time.Time { return fixedTime }
	c := &testChild{child: &child{members: []*member{m}, attached: make(chan struct{})}, sums: sink, feed: m.feed, tool: tl}
	m.feed.stacks = func(s output.Stack) { c.stacks = append(c.stacks, s) }
	return c
}

// take feeds the lines of a tool's stdout to it.
func (c *testChild) take(printed []byte) {
	line, flush := c.message, func() {}
	if c.members[0].source.Backend != "bpftrace" {
		decoder := c.feed.lineDecoder()
		line, flush = decoder.line, decoder.flush
	}
	lines := bufio.NewScanner(bytes.NewReader(printed))
	lines.Buffer(nil, 1<<22)
	for lines.Scan() {
		line(lines.Bytes(), false)
	}
	flush()
	if c.endStacks != nil {
		c.feed.takeStacks(c.endStacks)
	}
}

func (c *testChild) accounts() string {
	n := &c.tool.counters
	return fmt.Sprintf("events %d, lost %d, not shown %d, parse errors %d",
		n.events.Load(), n.lost.Load(), n.notShown.Load(), n.parseErrors.Load())
}

func builtins(t testing.TB) *Catalog {
	t.Helper()
	c, err := Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sourceOf is the source that a recording's name begins with. Recordings of
// bpftrace count failed execs, too.
func sourceOf(t testing.TB, d *Definition, name string) *Source {
	t.Helper()
	values := make(map[string]string)
	for option := range d.Options {
		values[option] = fmt.Sprint(strings.Contains(name, option))
	}
	if d.Name == "execsnoop" {
		values["failed"] = fmt.Sprint(strings.HasPrefix(name, "bpftrace-"))
	}
	for _, s := range d.Sources {
		if strings.HasPrefix(name, s.Backend+"-") && !slices.ContainsFunc(sortedKeys(s.When), func(option string) bool { return s.When[option] != values[option] }) {
			return s
		}
	}
	t.Fatalf("%s has no source for %s", d.Name, name)
	return nil
}

// TestRecordings takes real output through the sources of the built-in tools.
// The recordings of bpftrace are of these scripts under a small load; its three
// versions print in three ways, and have to come to the same.
func TestRecordings(t *testing.T) {
	blockDevices = "/nonexistent/" // devices are numbers, whatever this host has
	t.Cleanup(func() { blockDevices = "/sys/dev/block/" })
	for _, d := range builtins(t).Tools() {
		files, err := filepath.Glob(filepath.Join(d.Name, "testdata", "*.*"))
		if err != nil {
			t.Fatal(err)
		}
		tried := 0
		for _, file := range files {
			if strings.HasSuffix(file, ".golden") {
				continue
			}
			tried++
			t.Run(file, func(t *testing.T) {
				output, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				c := newTestChild(t, d, sourceOf(t, d, filepath.Base(file)))
				c.take(output)
				golden(t, file+".golden", c.report(t))
			})
		}
		if tried < 1 {
			t.Errorf("%s has %d recordings", d.Name, tried)
		}
	}
}

// Three versions of bpftrace print in three ways and have to come to the same
// counts of the same load: what it did is in this table.
func TestVersionsAgree(t *testing.T) {
	want := map[string]float64{
		`bpf_execsnoop_execs_total{comm="\xff\xfe",result="success"}`:                        4,
		`bpf_execsnoop_execs_total{comm="a,b\"c",result="success"}`:                          2,
		`bpf_execsnoop_execs_total{comm="café",result="success"}`:                            4,
		`bpf_execsnoop_execs_total{comm="fifteen-and-mor",result="success"}`:                 2,
		`bpf_execsnoop_execs_total{comm="new\nline",result="success"}`:                       4,
		`bpf_execsnoop_execs_total{comm="tools.test",result="EACCES"}`:                       6,
		`bpf_execsnoop_execs_total{comm="tools.test",result="ENOENT"}`:                       6,
		`bpf_tcplife_sessions_total{comm="tools.test",direction="inbound",family="ipv4"}`:    8,
		`bpf_tcplife_sessions_total{comm="tools.test",direction="inbound",family="ipv6"}`:    8,
		`bpf_tcplife_sessions_total{comm="tools.test",direction="outbound",family="ipv4"}`:   8,
		`bpf_tcplife_sessions_total{comm="tools.test",direction="outbound",family="ipv6"}`:   8,
		`bpf_tcplife_transmitted_bytes_total{comm="tools.test",direction="inbound"}`:         16 * 5000,
		`bpf_tcplife_transmitted_bytes_total{comm="tools.test",direction="outbound"}`:        16 * 20000,
		`bpf_tcplife_received_bytes_total{comm="tools.test",direction="inbound"}`:            16 * 20000,
		`bpf_tcplife_received_bytes_total{comm="tools.test",direction="outbound"}`:           16 * 5000,
		`bpf_opensnoop_opens_total{comm="new\nline",result="success"}`:                       4,
		`bpf_opensnoop_opens_total{comm="a,b\"c",result="ENOENT"}`:                           3,
		`bpf_opensnoop_opens_total{comm="\xff\xfe",result="ENOTDIR"}`:                        1,
		`bpf_opensnoop_opens_total{comm="  blanks ",result="success"}`:                       4,
		`bpf_exitsnoop_exits_total{comm="café",status="3",signal="none"}`:                    2,
		`bpf_exitsnoop_exits_total{comm="café",status="255",signal="none"}`:                  1,
		`bpf_exitsnoop_exits_total{comm="fifteen-and-mor",status="0",signal="none"}`:         1,
		`bpf_exitsnoop_exits_total{comm="new\nline",status="signal",signal="SIGKILL"}`:       1,
		`bpf_exitsnoop_exits_total{comm="\xff\xfe",status="signal",signal="SIGSEGV"}`:        1,
		`bpf_tcpretrans_retransmits_total{kind="retransmit",state="SYN_SENT",family="ipv4"}`: 3,
		`bpf_tcpretrans_retransmits_total{kind="retransmit",state="SYN_SENT",family="ipv6"}`: 3,
		`bpf_tcpretrans_peer_retransmits_total{peer="127.0.0.1",port="80"}`:                  3,
		`bpf_tcpretrans_peer_retransmits_total{peer="::1",port="443"}`:                       3,
	}
	for _, version := range []string{"0.17", "0.23", "0.27"} {
		got := make(map[string]float64)
		for _, name := range []string{"execsnoop", "exitsnoop", "opensnoop", "tcplife", "tcpretrans"} {
			d := builtins(t).Tool(name)
			file := "bpftrace-" + version + ".json"
			output, err := os.ReadFile(filepath.Join(name, "testdata", file))
			if err != nil {
				t.Fatal(err)
			}
			c := newTestChild(t, d, sourceOf(t, d, file))
			c.take(output)
			maps.Copy(got, c.sums.add)
		}
		for series, n := range want {
			if got[series] != n {
				t.Errorf("bpftrace %s: %s is %g, want %g", version, series, got[series], n)
			}
		}
	}
}

// report is all that came of the output.
func (c *testChild) report(t testing.TB) string {
	t.Helper()
	report := c.sums.text() + "# " + c.accounts() + "\n" + c.stackReport()
	for _, e := range c.tool.ring.Recent(ringSize) {
		b, err := json.Marshal(e)
		if err != nil {
			t.Errorf("%q: %v", e.Values, err)
		}
		report += string(b) + "\n"
	}
	return report
}

// stackReport is of the stacks and the most frequent of them.
func (c *testChild) stackReport() string {
	if len(c.stacks) == 0 {
		return ""
	}
	var samples uint64
	for _, s := range c.stacks {
		samples += s.Count
	}
	report := fmt.Sprintf("# %d samples in %d stacks\n", samples, len(c.stacks))
	slices.SortStableFunc(c.stacks, func(a, b output.Stack) int { return int(b.Count) - int(a.Count) })
	for _, s := range c.stacks[:min(len(c.stacks), 8)] {
		report += fmt.Sprintf("%d %q user %q kernel %q\n", s.Count, s.Keys, s.User, s.Kernel)
	}
	return report
}

func golden(t testing.TB, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("not what %s says (go test -update writes it anew):\n%s", file, got)
	}
}

// countingTool is a definition with all that a map can be.
const countingTool = `name: probe
help: A tool to test with.
fields: {comm: string, result: string, kind: string}
metrics:
  - {name: bpf_probe_events_total, help: Events., type: counter, labels: [comm, result]}
  - {name: bpf_probe_hits_total, help: Hits., type: counter}
  - {name: bpf_probe_seconds, help: Latency., type: histogram, labels: [kind]}
  - {name: bpf_probe_bytes_total, help: Bytes., type: counter, labels: [kind]}
sources:
  - backend: bpftrace
    scripts: [probe.bt]
    maps:
      probe_events: {keys: [c0, c1], with: {ret: "0"}, metric: bpf_probe_events_total, total: probe_total}
      probe_failed: {keys: [c0, c1, ret], metric: bpf_probe_events_total}
      probe_hits: {metric: bpf_probe_hits_total, minus: probe_misses}
      probe_slots: {keys: [kind, slot], metric: bpf_probe_seconds}
      probe_ns: {keys: [kind], metric: bpf_probe_seconds, scale: 1.0e-9}
      probe_kib: {keys: [kind], metric: bpf_probe_bytes_total, scale: 1024}
    rows: c0:int c1:int ret:int
    events: probe_total
    lost: probe_dropped
    set: {comm: "comm(c0, c1)", result: errno(ret), kind: kind}
`

func countingChild(t testing.TB) *testChild {
	t.Helper()
	d, err := parse(fstest.MapFS{
		"tool.yaml": {Data: []byte(countingTool)},
		"probe.bt":  {Data: []byte("@probe_events @probe_failed @probe_hits @probe_misses @probe_slots @probe_ns @probe_kib @probe_total @probe_dropped")},
	}, "probe", "tool.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return newTestChild(t, d, d.Sources[0])
}

const endLine = `{"type": "printf", "data": "end\n"}`

func mapLine(name, data string) string {
	return `{"type": "map", "data": {"@probe_` + name + `": ` + data + `}}`
}

func TestCumulativeValues(t *testing.T) {
	const events = `bpf_probe_events_total{comm="a",result="success"}`
	for _, c := range []struct {
		name     string
		lines    []string // RESET stands for a new process
		want     string   // of sums.text
		accounts string
	}{
		{"the same snapshot twice", []string{
			mapLine("events", `{"97,0": 5}`), endLine, mapLine("events", `{"97,0": 5}`), endLine,
		}, events + " 5\n", "events 5, lost 0, not shown 0, parse errors 0"},
		{"growth", []string{
			mapLine("events", `{"97,0": 5}`), endLine, mapLine("events", `{"97,0": 7, "98,0": 1}`), endLine,
		}, events + " 7\n" + `bpf_probe_events_total{comm="b",result="success"} 1` + "\n", "events 8, lost 0, not shown 0, parse errors 0"},
		{"keys in another order", []string{
			mapLine("events", `{"97,0": 5, "98,0": 1}`), endLine, mapLine("events", `{"98,0": 1, "97,0": 5}`), endLine,
		}, events + " 5\n" + `bpf_probe_events_total{comm="b",result="success"} 1` + "\n", "events 6, lost 0, not shown 0, parse errors 0"},
		{"a new process counts from zero", []string{
			mapLine("events", `{"97,0": 5}`), endLine, "RESET", mapLine("events", `{"97,0": 2}`), endLine,
		}, events + " 7\n", "events 7, lost 0, not shown 0, parse errors 0"},
		{"a value never goes back", []string{
			mapLine("events", `{"97,0": 5}`), mapLine("events", `{"97,0": 3}`), mapLine("events", `{"97,0": 6}`),
		}, events + " 6\n", "events 6, lost 0, not shown 0, parse errors 1"},
		{"two names of the same beginning", []string{
			mapLine("events", `{"97,0": 5, "97,7016996765293437281": 2}`),
		}, events + " 7\n", "events 7, lost 0, not shown 0, parse errors 0"},
		{"a negative value", []string{
			mapLine("events", `{"97,0": -5}`), mapLine("kib", `{"r": -1}`),
		}, "", "events 0, lost 0, not shown 0, parse errors 2"},
		{"negative keys", []string{
			mapLine("failed", `{"97,0,-2": 1, "97,0,2": 2}`), mapLine("events", `{"-1,-1": 3}`),
		}, `bpf_probe_events_total{comm="` + strings.Repeat(`\xff`, 16) + `",result="success"} 3` + "\n" +
			`bpf_probe_events_total{comm="a",result="ENOENT"} 3` + "\n", "events 6, lost 0, not shown 0, parse errors 0"},
		{"a map that nobody named", []string{
			mapLine("rows", "5"), mapLine("start", `{"1,2": 3}`), `{"type": "map", "data": {"@other": 5}}`, `{"type": "map", "data": {"@": 5}}`,
		}, "", "events 0, lost 0, not shown 0, parse errors 0"},
		{"keys of too many or too few parts", []string{
			mapLine("events", `{"97": 1, "97,0,0": 2, "": 3, ",": 4, "97,0": 5}`),
		}, events + " 5\n" + `bpf_probe_events_total{comm="unknown",result="success"} 4` + "\n", "events 9, lost 0, not shown 0, parse errors 3"},
		{"a scalar where keys should be", []string{mapLine("events", "5")},
			"", "events 0, lost 0, not shown 0, parse errors 1"},
		{"keys where a scalar should be", []string{mapLine("hits", `{"a,b": 5}`), endLine},
			"bpf_probe_hits_total 5\n", "events 0, lost 0, not shown 0, parse errors 0"},
		{"slots", []string{
			mapLine("slots", `{"r,0": 1, "r,239": 2, "r,327": 3}`), mapLine("ns", `{"r": 1500000000}`),
			mapLine("slots", `{"r,239": 4}`), mapLine("ns", `{"r": 2500000000}`),
		}, `bpf_probe_seconds{kind="r"} 2.5 3:-239=1 3:000=4 3:088=3` + "\n", "events 0, lost 0, not shown 0, parse errors 0"},
		{"slots that schema3 has not", []string{
			mapLine("slots", `{"r,-1": 1, "r,328": 2, "r,x": 3, "r,": 4, "r,9999999999999999999": 5}`),
		}, "", "events 0, lost 0, not shown 0, parse errors 5"},
		{"scale", []string{mapLine("kib", `{"r": 3}`), mapLine("kib", `{"r": 5}`)},
			`bpf_probe_bytes_total{kind="r"} 5120` + "\n", "events 0, lost 0, not shown 0, parse errors 0"},
		{"minus", []string{
			mapLine("hits", "100"), mapLine("misses", "30"), endLine,
			mapLine("hits", "110"), mapLine("misses", "90"), endLine, // 20 now: 50 too many were passed on
			mapLine("hits", "160"), mapLine("misses", "90"), endLine, // 70 again
			mapLine("hits", "161"), mapLine("misses", "90"), endLine,
		}, "bpf_probe_hits_total 71\n", "events 0, lost 0, not shown 0, parse errors 0"},
		{"minus before the end of an answer", []string{mapLine("hits", "100"), mapLine("misses", "30")},
			"", "events 0, lost 0, not shown 0, parse errors 0"},
		{"minus is more", []string{mapLine("hits", "10"), mapLine("misses", "30"), endLine},
			"", "events 0, lost 0, not shown 0, parse errors 0"},
		{"minus never seen", []string{mapLine("hits", "10"), endLine},
			"bpf_probe_hits_total 10\n", "events 0, lost 0, not shown 0, parse errors 0"},
		{"minus of a new process", []string{
			mapLine("hits", "10"), mapLine("misses", "4"), endLine, "RESET", mapLine("hits", "3"), mapLine("misses", "1"), endLine,
		}, "bpf_probe_hits_total 8\n", "events 0, lost 0, not shown 0, parse errors 0"},
		{"stats where integers should be", []string{
			`{"type": "stats", "data": {"@probe_kib": {"r": {"count": 2, "average": 3, "total": 6}}}}`,
		}, "", "events 0, lost 0, not shown 0, parse errors 1"},
		{"lines that are none", []string{
			`{"type": "map", "data": {"@probe_events": {"97,0": 1d}}}`, `{"type": "map", "data": {"@probe_events": {"97,0"`, `{"type": "map"`, "plain text", "",
		}, "", "events 0, lost 0, not shown 0, parse errors 3"},
		{"rows, shown and not", []string{
			`{"type": "printf", "data": "probe 97 0 0\n"}`, `{"type": "printf", "data": "probe 97 0 -2\n"}`,
			mapLine("total", "5"), endLine, mapLine("total", "5"), endLine,
			`{"type": "printf", "data": "probe 97 0 0\n"}`, mapLine("total", "9"), endLine,
		}, "", "events 0, lost 0, not shown 6, parse errors 0"},
		{"rows ahead of their count", []string{
			`{"type": "printf", "data": "probe 97 0 0\n"}`, `{"type": "printf", "data": "probe 97 0 0\n"}`,
			mapLine("total", "1"), endLine, mapLine("total", "2"), endLine, mapLine("total", "3"), endLine,
		}, "", "events 0, lost 0, not shown 1, parse errors 0"},
		{"rows of another shape", []string{
			`{"type": "printf", "data": "probe 97 0\n"}`, `{"type": "printf", "data": "probe x y z\n"}`, `{"type": "printf", "data": "probe\n"}`,
			`{"type": "printf", "data": "other 97 0 0\n"}`, `{"type": "printf", "data": "\n"}`,
		}, "", "events 0, lost 0, not shown 0, parse errors 3"},
		{"losses", []string{
			`{"type": "lost_events", "data": {"events": 7}}`, "Lost 3 events",
			mapLine("dropped", "4"), endLine, mapLine("dropped", "4"), endLine, mapLine("dropped", "6"), endLine,
		}, "", "events 0, lost 16, not shown 0, parse errors 0"},
		{"losses of a new process", []string{
			mapLine("dropped", "4"), endLine, "RESET", mapLine("dropped", "2"), endLine,
		}, "", "events 0, lost 6, not shown 0, parse errors 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			child := countingChild(t)
			for _, line := range c.lines {
				if line == "RESET" {
					child.feed.reset()
					continue
				}
				child.take([]byte(line + "\n"))
			}
			if got := child.sums.text(); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
			if got := child.accounts(); got != c.accounts {
				t.Errorf("got  %s\nwant %s", got, c.accounts)
			}
		})
	}
}

// What the kernel skipped is lost, or counted with labels that say unknown.
func TestSkipped(t *testing.T) {
	c := countingChild(t)
	c.feed.takeSkipped(3)
	if got, want := c.accounts(), "events 0, lost 3, not shown 0, parse errors 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.feed.s.Skipped = []string{"bpf_probe_events_total", "bpf_probe_bytes_total"}
	c.feed.takeSkipped(4)
	want := `bpf_probe_bytes_total{kind="unknown"} 4` + "\n" + `bpf_probe_events_total{comm="unknown",result="unknown"} 4` + "\n"
	if got := c.sums.text(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got, want := c.accounts(), "events 4, lost 3, not shown 0, parse errors 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What a full map drops goes to "other": all of it, once, and never more than
// the total says.
func TestFullMap(t *testing.T) {
	c := countingChild(t)
	snapshot := func(keys, each, total int) {
		t.Helper()
		var b strings.Builder
		for i := range keys {
			fmt.Fprintf(&b, `, "%d,0": %d`, (i+1)<<8|'x', each)
		}
		c.take([]byte(mapLine("total", fmt.Sprint(total)) + "\n" + mapLine("events", "{"+b.String()[2:]+"}") + "\n" + endLine + "\n"))
		all, other := 0.0, c.sums.add[`bpf_probe_events_total{comm="other",result="other"}`]
		for series, n := range c.sums.add {
			if strings.HasPrefix(series, "bpf_probe_events_total") {
				all += n
			}
		}
		wantOther := 0
		if keys == mapKeys {
			wantOther = max(0, total-keys*each)
		}
		if int(other) != wantOther || int(all) != keys*each+wantOther {
			t.Errorf("%d keys of %d, %d in all: counted %g, of these %g other; want %d", keys, each, total, all, other, wantOther)
		}
	}
	snapshot(mapKeys-1, 1, mapKeys) // not full: the total is ahead for another reason
	snapshot(mapKeys, 1, mapKeys)
	snapshot(mapKeys, 1, mapKeys+1)
	snapshot(mapKeys, 1, mapKeys+50)
	snapshot(mapKeys, 1, mapKeys+50)
	snapshot(mapKeys, 2, 2*mapKeys+50) // the keys that it has grow on
	snapshot(mapKeys, 2, 2*mapKeys+70)

	c.feed.reset()
	before := c.sums.add[`bpf_probe_events_total{comm="other",result="other"}`]
	c.take([]byte(mapLine("total", "10") + "\n" + mapLine("events", `{"97,0": 5}`) + "\n" + endLine + "\n"))
	if after := c.sums.add[`bpf_probe_events_total{comm="other",result="other"}`]; after != before {
		t.Errorf("other grew by %g with an empty map", after-before)
	}
}

// A total that is read after its map would count what the map does not hold
// yet, and so would a map that is read after what is subtracted from it.
func TestOrderOfMaps(t *testing.T) {
	at := make(map[string]int)
	for i, name := range countingChild(t).feed.mapNames() {
		at[name] = i
	}
	if at["@probe_total"] > at["@probe_events"] {
		t.Errorf("the total comes after its map: %v", at)
	}
	if len(at) != 9 {
		t.Errorf("%d maps, want 9: %v", len(at), at)
	}
	for _, d := range builtins(t).Tools() {
		for _, s := range d.Sources {
			names := make(map[string]int)
			for i, name := range newTestChild(t, d, s).feed.mapNames() {
				names[name] = i + 1
			}
			for name, m := range s.Maps {
				if m.Total != "" && names["@"+m.Total] > names["@"+name] {
					t.Errorf("%s: total %s comes after %s", d.Name, m.Total, name)
				}
				if m.Minus != "" && names["@"+m.Minus] < names["@"+name] {
					t.Errorf("%s: %s comes before %s, from which it is subtracted", d.Name, m.Minus, name)
				}
			}
		}
	}
}

const textTool = `name: probe
help: A tool to test with.
fields: {comm: string, pid: int, ppid: int, lport: int, seconds: float}
exclude_self: {pids: [pid, ppid], ports: [lport]}
metrics:
  - {name: bpf_probe_events_total, help: Events., type: counter, labels: [comm]}
  - {name: bpf_probe_seconds, help: Latency., type: histogram, value: seconds}
sources:
  - {backend: bcc, command: [probe], format: columns, columns: "comm/6 pid:int ppid:int lport:int seconds", headers: [COMM PID PPID LPORT S]}
  - {backend: bcc, command: [probe], format: columns, columns: "comm/6 pid:int ppid:int lport:int seconds", interval: 5}
`

func textChild(t testing.TB, source int) *testChild {
	t.Helper()
	d, err := parse(fstest.MapFS{"tool.yaml": {Data: []byte(textTool)}}, "probe", "tool.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return newTestChild(t, d, d.Sources[source])
}

func TestLines(t *testing.T) {
	c := textChild(t, 0)
	c.take([]byte(`COMM PID PPID LPORT S
sshd   1 2 22 0.25
a b    1 2 22 1

ssh    1 2 22 NaN
ssh    1 2 22 Inf
ssh    1 2 22 -1
ssh    1 2 22 x
ssh    one 2 22 1
ssh 1 2
`))
	want := `bpf_probe_events_total{comm="a b"} 1
bpf_probe_events_total{comm="ssh"} 4
bpf_probe_events_total{comm="sshd"} 1
bpf_probe_seconds 1.25 3:-016=1 3:000=1
`
	if got := c.sums.text(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got, want := c.accounts(), "events 6, lost 0, not shown 0, parse errors 6"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if n := len(c.tool.ring.Recent(100)); n != 6 {
		t.Errorf("%d events kept, want 6", n)
	}
}

func TestCutLine(t *testing.T) {
	for _, s := range []string{"execsnoop", "tcplife"} {
		d := builtins(t).Tool(s)
		for _, source := range d.Sources {
			if source.Format != "columns" {
				continue
			}
			c := newTestChild(t, d, source)
			decoder := c.feed.lineDecoder()
			line := "sleep            123    45       0 " + strings.Repeat("x", 300)
			if source.Backend == "bcc" {
				line = "sleep            123     45        0 " + strings.Repeat("x", 300)
			}
			decoder.line([]byte(line), true)
			decoder.flush()
			want := "events 0, lost 0, not shown 0, parse errors 1"
			if s == "execsnoop" {
				want = "events 1, lost 0, not shown 0, parse errors 0"
			}
			if got := c.accounts(); got != want {
				t.Errorf("%s, %s: %s, want %s", s, source.Backend, got, want)
			}
		}
	}
}

func TestIntervalHasNoEvents(t *testing.T) {
	c := textChild(t, 1)
	c.take([]byte("sshd   1 2 22 0.25\n"))
	if n := len(c.tool.ring.Recent(100)); n != 0 {
		t.Errorf("%d events kept of a table", n)
	}
	if got, want := c.accounts(), "events 1, lost 0, not shown 0, parse errors 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestExcludeSelf(t *testing.T) {
	kids := map[string]bool{"500": true}
	for _, c := range []struct {
		line string
		on   bool
		want uint64
	}{
		{"ssh    10 2 22 1", true, 1},
		{"ssh    99 2 22 1", true, 0},    // the exporter
		{"ssh    10 99 22 1", true, 0},   // its child
		{"ssh    500 2 22 1", true, 0},   // a tool
		{"ssh    10 500 22 1", true, 0},  // a tool's child
		{"ssh    10 2 10101 1", true, 0}, // a scrape
		{"ssh    10101 2 99 1", true, 1},
		{"ssh    99 99 10101 1", false, 1},
	} {
		child := textChild(t, 0)
		child.feed.own = &ownDoings{on: c.on, pid: "99", port: "10101"}
		child.feed.own.kids.Store(&kids)
		child.take([]byte(c.line + "\n"))
		if got := child.tool.counters.events.Load(); got != c.want {
			t.Errorf("%q, exclude %v: %d events, want %d", c.line, c.on, got, c.want)
		}
	}
	child := textChild(t, 0)
	child.feed.own = &ownDoings{on: true, pid: "99"} // no port is known, and no child yet
	child.take([]byte("ssh    10 2 0 1\n"))
	if got := child.tool.counters.events.Load(); got != 1 {
		t.Errorf("%d events, want 1", got)
	}
}

// A flood is counted whole and kept at a bounded rate.
func TestRowLimit(t *testing.T) {
	c := textChild(t, 0)
	now := fixedTime
	c.feed.now = func() time.Time { return now }
	burst := []byte(strings.Repeat("sshd   1 2 22 0.25\n", 1500))
	c.take(burst)
	if got, want := c.accounts(), "events 1500, lost 0, not shown 500, parse errors 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	now = now.Add(time.Second)
	c.take(burst)
	if got, want := c.accounts(), "events 3000, lost 0, not shown 1800, parse errors 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	now = now.Add(-time.Hour) // the clock is set back
	c.take(burst[:19])
	now = now.Add(2 * time.Hour)
	c.take(burst)
	if got, want := c.tool.counters.notShown.Load(), uint64(1801+500); got != want {
		t.Errorf("%d not shown, want %d", got, want)
	}
}

// Two tools share a bpftrace: each takes its own maps and rows.
func TestSharedChild(t *testing.T) {
	c := builtins(t)
	sink := newSums(t)
	shared := &child{attached: make(chan struct{})}
	var all []*tool
	for _, name := range []string{"execsnoop", "tcpretrans"} {
		d := c.Tool(name)
		tl := &tool{def: d, ring: NewRing(10)}
		all = append(all, tl)
		shared.members = append(shared.members, newMember(tl, d.Sources[0], sink, &ownDoings{}))
	}
	for _, line := range []string{
		`{"type": "map", "data": {"@execsnoop_total": 3}}`,
		`{"type": "map", "data": {"@execsnoop_execs": {"97,0": 3}}}`,
		`{"type": "map", "data": {"@tcpretrans_segments": {"2,1,4": 2}}}`,
		`{"type": "printf", "data": "tcpretrans 1 2 1 4 ::ffff:10.0.0.1 50000 ::ffff:10.0.0.2 443 443\n"}`,
		`{"type": "lost_events", "data": {"events": 5}}`,
		`{"type": "map", "data": {"@tcpretrans_seg`,
		endLine,
	} {
		shared.message([]byte(line), false)
	}
	want := `bpf_execsnoop_execs_total{comm="a",result="success"} 3
bpf_tcpretrans_retransmits_total{kind="tlp",state="ESTABLISHED",family="ipv4"} 2
`
	if got := sink.text(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for i, events := range []int{0, 1} {
		n := &all[i].counters
		// Nothing tells whose lost events and broken lines are.
		if len(all[i].ring.Recent(10)) != events || n.lost.Load() != 5 || n.parseErrors.Load() != 1 {
			t.Errorf("%s: %d events, lost %d, parse errors %d; want %d, 5, 1",
				all[i].def.Name, len(all[i].ring.Recent(10)), n.lost.Load(), n.parseErrors.Load(), events)
		}
	}
	select {
	case <-shared.attached:
	default:
		t.Error("an answer is no sign of being attached")
	}
}

// A row need not have the columns of the maps' keys.
func TestRowWithoutKeys(t *testing.T) {
	c := countingChild(t)
	c.take([]byte(`{"type": "printf", "data": "probe 97 0 0\n"}` + "\n"))
	b, err := json.Marshal(c.tool.ring.Recent(1)[0])
	if want := `{"time":"2026-01-02T03:04:05.678900Z","comm":"a","result":"success"}`; err != nil || string(b) != want {
		t.Errorf("got %s (%v), want %s", b, err, want)
	}
}

func FuzzFeed(f *testing.F) {
	c, err := Load(nil)
	if err != nil {
		f.Fatal(err)
	}
	files, _ := filepath.Glob("*/testdata/*.[jo]*")
	for i, file := range files {
		if b, err := os.ReadFile(file); err == nil && !strings.HasSuffix(file, ".golden") {
			f.Add(uint8(i), b[:min(len(b), 2000)])
		}
	}
	f.Add(uint8(0), []byte(`{"type": "map", "data": {"@biolatency_slots": {"1,R,5": 2}}}`))
	f.Add(uint8(1), []byte(`{"type": "map", "data": {"@cachestat_accesses": 9223372036854775807}}`+"\n"+endLine))
	type served struct {
		tool   *Definition
		source *Source
	}
	var sources []served
	for _, d := range c.Tools() {
		for _, s := range d.Sources {
			sources = append(sources, served{d, s})
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, output []byte) {
		s := sources[int(which)%len(sources)]
		child := newTestChild(t, s.tool, s.source)
		child.take(output)
		for _, e := range child.tool.ring.Recent(ringSize) {
			if b, err := json.Marshal(e); err != nil || !json.Valid(b) {
				t.Errorf("event %q: %s, %v", e.Values, b, err)
			}
		}
	})
}

// bcc's execsnoop has filled ids with blanks to six characters, to seven since,
// and calls its first column by two names.
func TestExecsnoopLayouts(t *testing.T) {
	d := builtins(t).Tool("execsnoop")
	for _, s := range d.Sources {
		if s.Backend != "bcc" || s.When["failed"] == "true" {
			continue
		}
		c := newTestChild(t, d, s)
		c.take([]byte("PCOMM            PID    PPID   RET ARGS\n" +
			"sh               12345  1        0 /bin/sh -c true\n" +
			"a b              1      1234567   0 /bin/x\n" +
			"COMM             PID     PPID    RET ARGS\n" +
			"sh               12345   1         0 /bin/sh -c true\n" +
			"sh               1234567 1234567  -2 \n"))
		want := `bpf_execsnoop_execs_total{comm="a b",result="success"} 1
bpf_execsnoop_execs_total{comm="sh",result="ENOENT"} 1
bpf_execsnoop_execs_total{comm="sh",result="success"} 2
`
		if got := c.sums.text(); got != want || c.tool.counters.parseErrors.Load() != 0 {
			t.Errorf("got\n%s%s\nwant\n%s", got, c.accounts(), want)
		}
	}
}

// What tools print whose recordings are none of ours, by the formats in their
// sources (bcc 0.18 to 0.37).
func TestLayouts(t *testing.T) {
	for _, c := range []struct {
		name    string
		tool    string
		backend string
		options map[string]string
		lines   string
		want    string
	}{
		{"exitsnoop of bcc, ids of six characters", "exitsnoop", "bcc", nil, `PCOMM            PID    PPID   TID    AGE(s)  EXIT_CODE
sleep            19004  19003  19004  1.65    0
bash             1      1234567 1      0.00    code 255
two words        65307  65303  65307  3.00    signal 11 (SEGV), core dumped
x                65307  65303  65307  12345678.90 signal 34 (34)
`, `bpf_exitsnoop_exits_total{comm="bash",status="255",signal="none"} 1
bpf_exitsnoop_exits_total{comm="sleep",status="0",signal="none"} 1
bpf_exitsnoop_exits_total{comm="two words",status="signal",signal="SIGSEGV"} 1
bpf_exitsnoop_exits_total{comm="x",status="signal",signal="SIG34"} 1
`},
		{"softirqs of bcc", "softirqs", "bcc", nil, `Tracing soft irq event time... Hit Ctrl-C to end.

softirq = net_rx
     usecs               : count     distribution
         0 -> 1          : 0        |                                        |
         2 -> 3          : 4        |****************************************|

softirq = rcu
     usecs               : count     distribution
         0 -> 1          : 2        |****************************************|

`, `bpf_softirqs_seconds{vector="net_rx"} 1.2e-05 0:-18=4
bpf_softirqs_seconds{vector="rcu"} 2e-06 0:-19=2
`},
		{"syscount of bcc", "syscount", "bcc", map[string]string{"time": "true"}, `Tracing syscalls, printing top 1000... Ctrl+C to quit.
[10:11:12]
SYSCALL                   COUNT        TIME (us)
futex                      3156     42074611.331
[unknown: 9999]               1            2.000

`, `bpf_syscount_calls_total{syscall="futex"} 3156
bpf_syscount_calls_total{syscall="syscall_9999"} 1
bpf_syscount_seconds_total{syscall="futex"} 42.0746113
bpf_syscount_seconds_total{syscall="syscall_9999"} 2e-06
`},
		{"biosnoop of bcc 0.18, without bytes", "biosnoop", "bcc", nil, `TIME(s)     COMM           PID    DISK    T SECTOR     BYTES  LAT(ms)
0.000000    supervise      1950   xvda1   W 13092560   0         0.74
12345.678901 two words      1234567 nvme0n1 R 18446744073709551615 0       123.45
`, `bpf_biosnoop_bytes_total{device="nvme0n1",operation="read",comm="two words"} 0
bpf_biosnoop_bytes_total{device="xvda1",operation="write",comm="supervise"} 0
bpf_biosnoop_latency_seconds{device="nvme0n1",operation="read"} 0.12345 3:-24=1
bpf_biosnoop_latency_seconds{device="xvda1",operation="write"} 0.00074 3:-83=1
bpf_biosnoop_offset_bytes{device="nvme0n1"} 9.44473297e+21 44:32=1
bpf_biosnoop_offset_bytes{device="xvda1"} 6.70339072e+09 3:49=1
`},
		{"biosnoop -Q of bcc", "biosnoop", "bcc", map[string]string{"queued": "true"}, `TIME(s)     COMM           PID     DISK      T SECTOR     BYTES  QUE(ms) LAT(ms)
0.000000    dd             629     vda       R 2424984    4096      0.15    0.85
`, `bpf_biosnoop_bytes_total{device="vda",operation="read",comm="dd"} 4096
bpf_biosnoop_latency_seconds{device="vda",operation="read"} 0.001 3:-79=1
bpf_biosnoop_offset_bytes{device="vda"} 1.24159181e+09 1:37=1
`},
		{"biosnoop -Q of libbpf-tools, a flush without a sector", "biosnoop", "libbpf-tools", map[string]string{"queued": "true"}, `TIME(s)     COMM           PID     DISK    T    SECTOR     BYTES   QUE(ms) LAT(ms)
0.000000    kworker/0:1H   671     vda     FF   -1         0         0.100   0.900
0.000000    a b  c         671     vda     FWS  8          512      -1.000   2.000
`, `bpf_biosnoop_bytes_total{device="vda",operation="flush",comm="kworker/0:1H"} 0
bpf_biosnoop_bytes_total{device="vda",operation="write",comm="a b  c"} 512
bpf_biosnoop_latency_seconds{device="vda",operation="flush"} 0.001 3:-79=1
bpf_biosnoop_latency_seconds{device="vda",operation="write"} 0.002 3:-71=1
bpf_biosnoop_offset_bytes{device="vda"} 4096 0:0=1
`},
		{"tcpconnlat of bcc 0.18", "tcpconnlat", "bcc", nil, `PID    COMM         IP SADDR            DADDR            DPORT LAT(ms)
32151  isc-worker00 4  10.66.210.240    10.66.253.100    53    178.14
1234567 two words    6  2001:db8:aaaa:bbbb:cccc:dddd:eeee:1 2001:db8::2      443   0.50
12     ` + "bad\nrow" + `      4  10.66.210.240    10.66.253.100    53    178.14
`, `bpf_tcpconnlat_seconds{family="ipv4"} 0.17814 3:-19=1
bpf_tcpconnlat_seconds{family="ipv6"} 0.0005 3:-87=1
`},
		{"xfsslower of bcc", "fsslower", "bcc", nil, `Tracing XFS operations
TIME     COMM           PID    T BYTES   OFF_KB   LAT(ms) FILENAME
13:07:14 b two words    1234567 R 12492   0          20.00 cksum
13:07:14 dd             31155  S 9223372036854775807 0         0.50 a name
`, `bpf_fsslower_latency_seconds{operation="fsync"} 0.0005 3:-87=1
bpf_fsslower_latency_seconds{operation="read"} 0.02 3:-45=1
`},
		{"xfsslower of libbpf-tools", "fsslower", "libbpf-tools", nil, `Tracing xfs operations... Hit Ctrl-C to end.
TIME     COMM             PID     T BYTES   OFF_KB   LAT(ms) FILENAME
13:07:14 two words        31155   F LL_MAX  0          20.00 a name
`, `bpf_fsslower_latency_seconds{operation="fsync"} 0.02 3:-45=1
`},
		{"opensnoop of bcc, its header behind a row", "opensnoop", "bcc", nil, `212    python3             4   0 PID    COMM               FD ERR PATH
/proc/567/fd
1234567 two words          -1   2 /a name
`, `bpf_opensnoop_opens_total{comm="python3",result="success"} 1
bpf_opensnoop_opens_total{comm="two words",result="ENOENT"} 1
`},
		{"oomkill of bcc, with stacks", "oomkill", "bcc", nil, `Tracing OOM kills... Ctrl-C to stop.
21:03:39 Triggered by PID 3297 ("ntpd"), OOM kill of PID 22516 ("two words"), 3850642 pages, loadavg: 0.99 0.39 0.30 3/282 22724
`, `bpf_oomkill_kills_total{comm="two words"} 1
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := builtins(t).Tool(c.tool)
			m := &Manager{cfg: Config{Backends: []string{c.backend}, Options: map[string]map[string]string{c.tool: c.options}}}
			child := newTestChild(t, d, m.ordered(d)[0])
			child.take([]byte(c.lines))
			got := strings.NewReplacer(":-0", ":-", ":00", ":", ":0", ":").Replace(child.sums.text())
			got = strings.ReplaceAll(got, ":=", ":0=")
			if got != c.want {
				t.Errorf("got\n%s%s\nwant\n%s", got, child.accounts(), c.want)
			}
		})
	}
}
