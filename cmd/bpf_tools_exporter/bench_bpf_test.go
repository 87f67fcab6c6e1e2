package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// runTimeStats is BPF_STATS_RUN_TIME of include/uapi/linux/bpf.h.
const runTimeStats = 0

// bpfSpent is what programs took.
type bpfSpent struct{ ns, runs float64 }

func (s bpfSpent) plus(t bpfSpent) bpfSpent { return bpfSpent{s.ns + t.ns, s.runs + t.runs} }

// bpfWindow runs work while the kernel takes the run time of BPF programs, and
// returns what those of one process took of it: all, and those with the names,
// which bpftrace calls after their tracepoints, cut to 15 bytes.
func bpfWindow(b *testing.B, pid int, names []string, work func() error) (all, named bpfSpent) {
	b.Helper()
	enabled, err := ebpf.EnableStats(runTimeStats)
	if err != nil {
		b.Fatal(err)
	}
	defer enabled.Close()
	before := readPrograms(pid)
	if err := work(); err != nil {
		b.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // for what ends after the call that began it
	for id, after := range readPrograms(pid) {
		spent := bpfSpent{after.ns - before[id].ns, after.runs - before[id].runs}
		all = all.plus(spent)
		if slices.Contains(names, programName(id)) {
			named = named.plus(spent)
		}
	}
	return all, named
}

func readPrograms(pid int) map[uint32]bpfSpent {
	programs := make(map[uint32]bpfSpent)
	for _, info := range fdInfos(pid) {
		if info["prog_id"] == "" || info["run_cnt"] == "" {
			continue // a link has an id, but no times
		}
		id, _ := strconv.ParseUint(info["prog_id"], 10, 32)
		var p bpfSpent
		p.ns, _ = strconv.ParseFloat(info["run_time_ns"], 64)
		p.runs, _ = strconv.ParseFloat(info["run_cnt"], 64)
		programs[uint32(id)] = p
	}
	return programs
}

// mapMiB is the kernel memory of a process's BPF maps.
func mapMiB(pid int) float64 {
	maps := make(map[string]float64)
	for _, info := range fdInfos(pid) {
		if id := info["map_id"]; id != "" {
			maps[id], _ = strconv.ParseFloat(info["memlock"], 64)
		}
	}
	var sum float64
	for _, bytes := range maps {
		sum += bytes / (1 << 20)
	}
	return sum
}

// fdInfos are the fields of /proc/PID/fdinfo/*, file by file.
func fdInfos(pid int) []map[string]string {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	var all []map[string]string
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		info := make(map[string]string)
		for lines := bufio.NewScanner(f); lines.Scan(); {
			key, value, _ := strings.Cut(lines.Text(), ":")
			info[key] = strings.TrimSpace(value)
		}
		f.Close()
		all = append(all, info)
	}
	return all
}

func programName(id uint32) string {
	program, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return ""
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return ""
	}
	return info.Name
}

// A bpfEvent is something that tools count.
type bpfEvent struct {
	what     string
	n        int     // repetitions of the work
	events   float64 // of each
	work     func(n int) error
	programs []string // that count it in the exporter
	tool     string   // that shows rows of it; "" for none
	script   string   // a bare bpftrace that counts the same
	text     []string // a bare libbpf-tool; nil for none
	expected string
}

func bpfEvents(b *testing.B) []bpfEvent {
	b.Helper()
	return []bpfEvent{
		{
			what: "exec", n: 600, events: 1, work: execWork(b), programs: []string{"sched_process_e"}, tool: "execsnoop",
			script:   `tracepoint:sched:sched_process_exec { @[comm] = count(); }`,
			text:     []string{"execsnoop"},
			expected: "450",
		},
		{
			what: "tcp_end", n: 2000, events: 2, work: tcpWork(b), programs: []string{"inet_sock_set_s"}, tool: "tcplife",
			script: `tracepoint:sock:inet_sock_set_state /args->protocol == 6/ {
				if (args->newstate == 2 || args->newstate == 3) { @start[args->skaddr] = nsecs; }
				if (args->newstate == 7) {
					$start = @start[args->skaddr];
					if ($start > 0) { @[comm] = count(); @usecs = hist((nsecs - $start) / 1000); }
					delete(@start[args->skaddr]);
				}
			}`,
			text:     []string{"tcplife"},
			expected: "1300 for 7 runs",
		},
		{
			what: "block_io", n: 2000, events: 1, work: blockWork(b), programs: []string{"block_rq_issue", "block_rq_comple"},
			script: `tracepoint:block:block_rq_issue { @start[args->dev, args->sector] = nsecs; }
				tracepoint:block:block_rq_complete {
					$start = @start[args->dev, args->sector];
					if ($start > 0) { @usecs[args->dev] = hist((nsecs - $start) / 1000); }
					delete(@start[args->dev, args->sector]);
				}`,
			text:     []string{"biolatency", "-D", "5"},
			expected: "400",
		},
		{
			what: "cached_read", n: 100_000, events: 1, work: cacheWork(b), programs: []string{"mm_filemap_get_"},
			script: `tracepoint:filemap:mm_filemap_get_pages { @[comm] = count(); }`,
		},
	}
}

// bpfRounds is how often each is measured, for the median.
const bpfRounds = 5

// perEvent is what an event takes of all programs of a process, and of those
// that count it in the exporter, from the same windows, and how many runs that
// is: more than there should be tell of other events on this machine.
func (e *bpfEvent) perEvent(b *testing.B, pid int) (all, named bpfSpent) {
	b.Helper()
	var alls, nameds []bpfSpent
	for range bpfRounds {
		all, named := bpfWindow(b, pid, e.programs, func() error { return e.work(e.n) })
		alls, nameds = append(alls, all), append(nameds, named)
	}
	events := e.events * float64(e.n)
	return medianSpent(alls, events), medianSpent(nameds, events)
}

func medianSpent(windows []bpfSpent, events float64) bpfSpent {
	ns, runs := make([]float64, len(windows)), make([]float64, len(windows))
	for i, w := range windows {
		ns[i], runs[i] = w.ns/events, w.runs/events
	}
	return bpfSpent{median(ns), median(runs)}
}

// benchBPF compares the run time of BPF programs for each event: the exporter's
// with all five tools, a bare bpftrace that counts the same, and the
// libbpf-tool.
func benchBPF(b *testing.B) []figure {
	exporter := benchExporter(b)
	type cost struct {
		ours  bpfSpent
		whole bpfSpent // with what other tools' programs take of the same work
		rows  rowCost
	}
	events := slices.DeleteFunc(bpfEvents(b), func(e bpfEvent) bool { return e.work == nil })
	costs := make([]cost, len(events))
	for i, e := range events {
		if e.tool != "" {
			costs[i].rows = measureRows(b, exporter, e)
		}
		costs[i].whole, costs[i].ours = e.perEvent(b, exporter.bpftrace)
	}
	exporter.end()

	var figures []figure
	for i, e := range events {
		c := costs[i]
		unit := "ns/" + e.what
		bare := e.bare(b, "bpftrace", "-e", e.script)
		add := func(what string, ours, than float64, beside string) {
			figures = append(figures, figure{what: "bpf_" + e.what + what, unit: unit, ours: ours, bare: than, beside: beside})
		}
		add("", c.ours.ns, bare.ns, fmt.Sprintf("bpftrace one-liner; %.1f runs an event, each %.0f ns, bare %.1f", c.ours.runs, c.ours.ns/c.ours.runs, bare.runs))
		figures[len(figures)-1].expected = e.expected
		if e.tool != "" {
			add("_count_only", c.rows.count, bare.ns, "bpftrace one-liner")
			add("_row", c.rows.row, 0, fmt.Sprintf("of each row on top: %.1f rows/s at %.0f events/s", c.rows.perSecond, c.rows.eventsPerSecond))
		}
		if e.text != nil {
			if text := e.bare(b, e.text...); text.runs > 0 {
				add("_libbpf", c.ours.ns, text.ns, fmt.Sprintf("libbpf-tools %s; %.1f runs an event", e.text[0], text.runs))
			}
		}
		add("_all_tools", c.whole.ns, 0, fmt.Sprintf("all programs of the exporter; %.1f runs an event", c.whole.runs))
	}
	return figures
}

// bare measures a tool alone; nothing if it is not installed.
func (e *bpfEvent) bare(b *testing.B, argv ...string) bpfSpent {
	b.Helper()
	path, err := findTool(argv[0])
	if err != nil {
		fmt.Printf("%s is not installed: left out\n", argv[0])
		return bpfSpent{}
	}
	t := startBare(b, e.work, append([]string{path}, argv[1:]...)...)
	defer t.end()
	all, _ := e.perEvent(b, t.bpftrace)
	return all
}

// rowCost tells the counting of events from the printing of rows.
type rowCost struct {
	count, row                 float64 // ns
	perSecond, eventsPerSecond float64
}

// measureRows measures twice: a few events, which are all shown after a quiet
// time, and many, of which few are. With n events and r rows either takes
// n * count + r * row.
func measureRows(b *testing.B, t *tracer, e bpfEvent) rowCost {
	b.Helper()
	measure := func(n int) (spent, events, rows float64, took time.Duration) {
		before, begin := countRows(b, t, e.tool), time.Now()
		_, s := bpfWindow(b, t.bpftrace, e.programs, func() error { return e.work(n) })
		took = time.Since(begin)
		time.Sleep(100 * time.Millisecond) // for the last rows to arrive
		return s.ns, float64(n) * e.events, countRows(b, t, e.tool) - before, took
	}
	few, fewEvents, fewRows, _ := measure(20)
	many, manyEvents, manyRows, took := measure(3 * e.n)
	determinant := fewEvents*manyRows - manyEvents*fewRows
	if determinant == 0 {
		b.Fatalf("%s: %v rows of %v events and %v of %v", e.tool, fewRows, fewEvents, manyRows, manyEvents)
	}
	return rowCost{
		count:     (few*manyRows - many*fewRows) / determinant,
		row:       (fewEvents*many - manyEvents*few) / determinant,
		perSecond: manyRows / took.Seconds(), eventsPerSecond: manyEvents / took.Seconds(),
	}
}

// countRows is how many rows the exporter holds; at most 1,000.
func countRows(b *testing.B, t *tracer, tool string) float64 {
	b.Helper()
	text, err := t.get("/tools/" + tool + "/events?n=1000")
	if err != nil {
		b.Fatal(err)
	}
	return float64(strings.Count(text, "\n"))
}
