package kernels

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// document is what the runs write.
const document = "../../docs/kernels.md"

// backends in the order of the table's columns.
var backends = []string{"bpftrace", "libbpf-tools", "bcc"}

// Result is what the machine reports.
type Result struct {
	Kernel   string
	Versions map[string]string // of each backend's package, "" if the suite has none
	Cells    []Cell
	Checks   []Check
	Done     bool // all steps were taken
}

// Cell is one tool with one backend.
type Cell struct {
	Tool, Backend string
	// Verdict is "counts", "refuses" (the exporter says why) or "wrong".
	Verdict string
	Detail  string
}

// Check is something else that was tried.
type Check struct {
	Name   string
	Passed bool
	Detail string
}

func (r *Result) check(name string, err error, detail string) {
	c := Check{Name: name, Passed: err == nil, Detail: detail}
	if err != nil {
		c.Detail = err.Error()
	}
	r.Checks = append(r.Checks, c)
}

// over puts what this run has found over what was known, if that is of the same
// kernel and tools. The order stays.
func (r *Result) over(before *Result) *Result {
	if before.Kernel != r.Kernel || !maps.Equal(before.Versions, r.Versions) {
		return r
	}
	all := *before
	for _, c := range r.Cells {
		i := slices.IndexFunc(all.Cells, func(old Cell) bool { return c.Tool == old.Tool && c.Backend == old.Backend })
		if i < 0 {
			i, all.Cells = len(all.Cells), append(all.Cells, c)
		}
		all.Cells[i] = c
	}
	for _, c := range r.Checks {
		i := slices.IndexFunc(all.Checks, func(old Check) bool { return c.Name == old.Name })
		if i < 0 {
			i, all.Checks = len(all.Checks), append(all.Checks, c)
		}
		all.Checks[i] = c
	}
	return &all
}

// faults are what must not be.
func (r *Result) faults() []string {
	var faults []string
	for _, c := range r.Cells {
		if c.Verdict != "counts" && c.Verdict != "refuses" {
			faults = append(faults, fmt.Sprintf("%s by %s: %s: %s", c.Tool, c.Backend, c.Verdict, c.Detail))
		}
	}
	for _, c := range r.Checks {
		if !c.Passed {
			faults = append(faults, fmt.Sprintf("%s: %s", c.Name, c.Detail))
		}
	}
	if !r.Done {
		faults = append(faults, "the machine ended before all steps were taken")
	}
	return faults
}

const (
	noBackend = "(not in this release)"
	noCell    = "not in this release"
	blank     = "not tried"
	yes, no   = "yes", "**no**"
)

// section is the part of docs/kernels.md about one kernel, which readSection
// reads.
func (r *Result) section(suite string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## Linux %s, Debian %s\n\n| tool |", r.Kernel, suite)
	for _, backend := range backends {
		fmt.Fprintf(&b, " %s %s |", backend, cmp.Or(r.Versions[backend], noBackend))
	}
	b.WriteString("\n| --- | --- | --- | --- |\n")
	cells := make(map[string]Cell)
	var tools []string
	for _, c := range r.Cells {
		cells[c.Tool+" "+c.Backend] = c
		if !slices.Contains(tools, c.Tool) {
			tools = append(tools, c.Tool)
		}
	}
	slices.Sort(tools)
	for _, tool := range tools {
		fmt.Fprintf(&b, "| %s |", tool)
		for _, backend := range backends {
			c, ok := cells[tool+" "+backend]
			switch {
			case r.Versions[backend] == "":
				fmt.Fprintf(&b, " %s |", noCell)
			case !ok:
				fmt.Fprintf(&b, " %s |", blank)
			default:
				fmt.Fprintf(&b, " %s |", outcome(c.Verdict, c.Detail))
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, c := range r.Checks {
		answer := yes
		if !c.Passed {
			answer = no
		}
		fmt.Fprintf(&b, "- %s: %s\n", c.Name, outcome(answer, c.Detail))
	}
	return b.String()
}

// outcome is a verdict, with a reason if there is one. judgement takes it apart.
func outcome(verdict, detail string) string {
	if detail == "" {
		return verdict
	}
	return verdict + ": " + plain(detail)
}

func judgement(outcome string) (verdict, detail string) {
	verdict, detail, _ = strings.Cut(strings.TrimSpace(outcome), ": ")
	return verdict, strings.NewReplacer(`\|`, "|", "&lt;", "<").Replace(detail)
}

// plain makes text fit for a table of Markdown.
func plain(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(strings.TrimSpace(s))
}

var (
	heading = regexp.MustCompile(`^## Linux (\S+), Debian `)
	bar     = regexp.MustCompile(`[^|\\](?:\\.|[^|\\])*`) // what is between two bars of a table
	item    = regexp.MustCompile(`^- (.*?): ((?:yes|\*\*no\*\*)(?:: .*)?)$`)
)

// readSection reads what section has written: all that is known about a kernel.
func readSection(section string) *Result {
	r := &Result{Versions: make(map[string]string)}
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if m := heading.FindStringSubmatch(line); m != nil {
			r.Kernel = m[1]
		} else if m := item.FindStringSubmatch(line); m != nil {
			answer, detail := judgement(m[2])
			r.Checks = append(r.Checks, Check{Name: m[1], Passed: answer == yes, Detail: detail})
		} else if fields := bar.FindAllString(line, -1); strings.HasPrefix(line, "| ") && len(fields) == 1+len(backends) {
			r.readRow(strings.TrimSpace(fields[0]), fields[1:])
		}
	}
	return r
}

// readRow reads a row of the table, or its heads.
func (r *Result) readRow(tool string, fields []string) {
	for i, backend := range backends {
		version := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(fields[i]), backend))
		verdict, detail := judgement(fields[i])
		switch {
		case tool == "tool" && version != noBackend:
			r.Versions[backend] = version
		case tool == "tool", tool == "---", verdict == blank, verdict == noCell:
		default:
			r.Cells = append(r.Cells, Cell{Tool: tool, Backend: backend, Verdict: verdict, Detail: detail})
		}
	}
}

// update writes into the file what is known about a suite's kernel with this run:
// between the marks of the suite.
func (r *Result) update(file, suite string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := fmt.Sprintf("<!-- begin %s -->\n", suite), fmt.Sprintf("<!-- end %s -->\n", suite)
	before, rest, ok := strings.Cut(string(text), begin)
	section, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: no lines %q and %q to write between", file, begin, end)
	}
	section = r.over(readSection(section)).section(suite)
	return os.WriteFile(file, []byte(before+begin+section+end+after), 0o644)
}

// What the file says is what is known: it is read as it was written. It has no
// blank, and no fault.
func TestSections(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, suite := range []string{"bullseye", "bookworm", "trixie", "sid"} {
		_, rest, _ := strings.Cut(string(text), fmt.Sprintf("<!-- begin %s -->\n", suite))
		section, _, _ := strings.Cut(rest, fmt.Sprintf("<!-- end %s -->\n", suite))
		r := readSection(section)
		if again := r.section(suite); again != section {
			t.Errorf("%s: written again it is\n%s", suite, again)
		}
		if want := len(r.Versions) * (len(loads) + len(onDemand)); len(r.Cells) != want {
			t.Errorf("%s: %d cells, want %d", suite, len(r.Cells), want)
		}
		r.Done = true
		for _, fault := range r.faults() {
			t.Errorf("%s: %s", suite, fault)
		}
	}
}

// A run of some steps adds to what others have found about the same kernel.
func TestUpdate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kernels.md")
	if err := os.WriteFile(file, []byte("above\n<!-- begin s -->\n<!-- end s -->\nbelow\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kernel, tool, verdict, detail, check string
		table                                string
	}{
		{"6.1", "b", "counts", "", "x", "| b | not tried | not in this release | counts |\n\n- x: yes: fine\n"},
		{"6.1", "a", "refuses", "a|b\n<c>", "y", "| a | not tried | not in this release | refuses: a\\|b &lt;c> |\n| b | not tried | not in this release | counts |\n\n- x: yes: fine\n- y: yes: fine\n"},
		{"6.1", "b", "wrong", "1: 2", "x", "| a | not tried | not in this release | refuses: a\\|b &lt;c> |\n| b | not tried | not in this release | wrong: 1: 2 |\n\n- x: yes: fine\n- y: yes: fine\n"},
		{"6.12", "a", "counts", "", "x", "| a | not tried | not in this release | counts |\n\n- x: yes: fine\n"},
	} {
		r := &Result{Kernel: c.kernel, Versions: map[string]string{"bcc": "1", "bpftrace": "2"}, Cells: []Cell{{Tool: c.tool, Backend: "bcc", Verdict: c.verdict, Detail: c.detail}},
			Checks: []Check{{Name: c.check, Passed: true, Detail: "fine"}}}
		if err := r.update(file, "s"); err != nil {
			t.Fatal(err)
		}
		want := "above\n<!-- begin s -->\n## Linux " + c.kernel + ", Debian s\n\n| tool | bpftrace 2 | libbpf-tools (not in this release) | bcc 1 |\n| --- | --- | --- | --- |\n" + c.table + "<!-- end s -->\nbelow\n"
		if text, _ := os.ReadFile(file); string(text) != want {
			t.Errorf("%s\nwant %s", text, want)
		}
	}
	if err := new(Result).update(file, "other"); err == nil {
		t.Error("there is no place for another suite")
	}
}
