package ondemand

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/google/pprof/profile"

	"bpf_tools_exporter/tools/output"
)

// frames are a stack from its program on: comm, the user's frames, the kernel's.
// kernelFrom is the index of the first of the kernel's.
func frames(s output.Stack) (all []string, kernelFrom int) {
	all = append(all, s.Keys[0])
	all = append(all, s.User...)
	kernelFrom = len(all)
	all = append(all, s.Kernel...)
	if len(all) == 1 {
		all = append(all, output.UnknownFrame)
		kernelFrom = len(all)
	}
	return all, kernelFrom
}

// plain is a name in which nothing separates, breaks a line or steers a terminal.
func plain(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r == ';':
			return ':'
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, name)
	if name == "" {
		return output.UnknownFrame
	}
	return name
}

// kernelMark is behind the kernel's frames in folded stacks, as flamegraph.pl
// knows it.
const kernelMark = "_[k]"

// labels are the frames of a stack for people and programs that know stacks as
// text.
func labels(s output.Stack) []string {
	all, kernelFrom := frames(s)
	names := make([]string, len(all))
	for i, frame := range all {
		names[i] = plain(frame)
		if i >= kernelFrom {
			names[i] += kernelMark
		}
	}
	return names
}

// WriteFolded writes the stacks of the run as lines of "comm;frame;frame COUNT",
// the outermost frame first.
func (r *Run) WriteFolded(w io.Writer) error {
	counts := make(map[string]uint64)
	for _, s := range r.Stacks() {
		counts[strings.Join(labels(s), ";")] += s.Count
	}
	b := bufio.NewWriter(w)
	for _, stack := range sortedByCount(counts) {
		fmt.Fprintf(b, "%s %d\n", stack, counts[stack])
	}
	return b.Flush()
}

func sortedByCount(counts map[string]uint64) []string {
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), strings.Compare(a, b))
	})
	return names
}

// A Row is one frame of a flame graph as a nested set: the rows below it that
// are deeper are what it called.
type Row struct {
	Level int    `json:"level"`
	Value uint64 `json:"value"`
	Self  uint64 `json:"self"`
	Label string `json:"label"`
}

// node is a frame with what it called.
type node struct {
	value, self uint64
	calls       map[string]*node
}

func (n *node) child(name string) *node {
	if n.calls == nil {
		n.calls = make(map[string]*node)
	}
	if n.calls[name] == nil {
		n.calls[name] = &node{}
	}
	return n.calls[name]
}

// FlameGraph returns the stacks as rows, depth first, as Grafana's flame graph
// takes them. The first is the whole.
func (r *Run) FlameGraph() []Row {
	root := &node{}
	for _, s := range r.Stacks() {
		at := root
		at.value += s.Count
		for _, name := range labels(s) {
			at = at.child(name)
			at.value += s.Count
		}
		at.self += s.Count
	}
	return appendRows(nil, root, "all", 0)
}

func appendRows(rows []Row, n *node, label string, level int) []Row {
	rows = append(rows, Row{Level: level, Value: n.value, Self: n.self, Label: label})
	names := make([]string, 0, len(n.calls))
	for name := range n.calls {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		rows = appendRows(rows, n.calls[name], name, level+1)
	}
	return rows
}

// WritePprof writes the stacks as a gzipped profile of pprof, sampled so many
// times a second. comm and pid are labels, and comm is the outermost frame.
func (r *Run) WritePprof(w io.Writer, hz int64) error {
	return r.pprof(hz).Write(w)
}

func (r *Run) pprof(hz int64) *profile.Profile {
	period := int64(1e9) / hz
	progress := r.Progress()
	b := newPprofBuilder(&profile.Profile{
		SampleType:        []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		DefaultSampleType: "cpu",
		PeriodType:        &profile.ValueType{Type: "cpu", Unit: "nanoseconds"},
		Period:            period,
		TimeNanos:         progress.Started.UnixNano(),
		DurationNanos:     int64(progress.Elapsed),
	})
	for _, s := range r.Stacks() {
		all, kernelFrom := frames(s)
		sample := &profile.Sample{
			Value: []int64{int64(s.Count), int64(s.Count) * period},
			Label: map[string][]string{"comm": {valid(s.Keys[0])}},
		}
		if pid, err := strconv.ParseInt(s.Keys[1], 10, 64); err == nil && pid > 0 {
			sample.NumLabel = map[string][]int64{"pid": {pid}}
		}
		for i := len(all) - 1; i >= 0; i-- {
			name, mapping := valid(all[i]), b.user
			if i >= kernelFrom {
				mapping = b.kernel
			}
			if all[i] == output.UnknownFrame {
				// Else those of all programs would be one function.
				name += " in " + valid(s.Keys[0])
			}
			sample.Location = append(sample.Location, b.location(name, mapping))
		}
		b.p.Sample = append(b.p.Sample, sample)
	}
	return b.p
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// pprofBuilder numbers what samples refer to.
type pprofBuilder struct {
	p            *profile.Profile
	user, kernel *profile.Mapping
	locations    map[pprofFrame]*profile.Location
}

type pprofFrame struct {
	name    string
	mapping *profile.Mapping
}

func newPprofBuilder(p *profile.Profile) *pprofBuilder {
	b := &pprofBuilder{p: p, locations: make(map[pprofFrame]*profile.Location)}
	// Everything has its name already: nothing is left for pprof to look up.
	b.user = &profile.Mapping{ID: 1, File: "[programs]", HasFunctions: true}
	b.kernel = &profile.Mapping{ID: 2, File: "[kernel.kallsyms]", HasFunctions: true}
	p.Mapping = []*profile.Mapping{b.user, b.kernel}
	return b
}

func (b *pprofBuilder) location(name string, m *profile.Mapping) *profile.Location {
	key := pprofFrame{name, m}
	if l := b.locations[key]; l != nil {
		return l
	}
	id := uint64(len(b.p.Location) + 1)
	f := &profile.Function{ID: id, Name: name, SystemName: name, Filename: m.File}
	l := &profile.Location{ID: id, Mapping: m, Line: []profile.Line{{Function: f}}}
	b.p.Function = append(b.p.Function, f)
	b.p.Location = append(b.p.Location, l)
	b.locations[key] = l
	return l
}

// Share is a function, or a program, with its samples.
type Share struct {
	Name        string
	Self, Total uint64
}

// Top returns the programs and the functions by their samples: a program's
// total, and a function's own first.
func (r *Run) Top() (programs, functions []Share) {
	byName, byProgram := make(map[string]*Share), make(map[string]*Share)
	get := func(of map[string]*Share, name string) *Share {
		if of[name] == nil {
			of[name] = &Share{Name: name}
		}
		return of[name]
	}
	for _, s := range r.Stacks() {
		names := labels(s)
		get(byProgram, names[0]).Total += s.Count
		seen := make(map[string]bool)
		for _, name := range names[1:] {
			f := get(byName, name)
			if !seen[name] {
				f.Total += s.Count
				seen[name] = true
			}
		}
		get(byName, names[len(names)-1]).Self += s.Count
	}
	return shares(byProgram), shares(byName)
}

func shares(of map[string]*Share) []Share {
	all := make([]Share, 0, len(of))
	for _, s := range of {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Self, a.Self), cmp.Compare(b.Total, a.Total), strings.Compare(a.Name, b.Name))
	})
	return all
}
