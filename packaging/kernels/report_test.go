package kernels

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

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

// keep adds what earlier runs have kept in the file about the same kernel, where
// this one did not try it, and keeps all.
func (r *Result) keep(file string) (*Result, error) {
	var before Result
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &before)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := &Result{Kernel: r.Kernel, Versions: r.Versions, Cells: r.Cells, Checks: r.Checks}
	if before.Kernel == r.Kernel && maps.Equal(before.Versions, r.Versions) {
		for _, old := range before.Cells {
			if !slices.ContainsFunc(r.Cells, func(c Cell) bool { return c.Tool == old.Tool && c.Backend == old.Backend }) {
				all.Cells = append(all.Cells, old)
			}
		}
		for _, old := range before.Checks {
			if !slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Name == old.Name }) {
				all.Checks = append(all.Checks, old)
			}
		}
	}
	text, err = json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return all, os.WriteFile(file, text, 0o644)
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

// section is the part of docs/kernels.md about one kernel.
func (r *Result) section(suite string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## Linux %s, Debian %s\n\n", r.Kernel, suite)
	b.WriteString("| tool |")
	for _, backend := range backends {
		fmt.Fprintf(&b, " %s %s |", backend, cmp.Or(r.Versions[backend], "(not in this release)"))
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
				b.WriteString(" not in this release |")
			case !ok:
				b.WriteString(" not tried |")
			case c.Verdict == "counts":
				b.WriteString(" counts |")
			default:
				fmt.Fprintf(&b, " %s: %s |", c.Verdict, plain(c.Detail))
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, c := range r.Checks {
		outcome := "yes"
		if !c.Passed {
			outcome = "**no**"
		}
		fmt.Fprintf(&b, "- %s: %s", c.Name, outcome)
		if c.Detail != "" {
			fmt.Fprintf(&b, ": %s", plain(c.Detail))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// plain makes text fit for a table of Markdown.
func plain(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(strings.TrimSpace(s))
}

// writeSection replaces the part of the file between the marks of the suite.
func writeSection(file, suite, section string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := fmt.Sprintf("<!-- begin %s -->\n", suite), fmt.Sprintf("<!-- end %s -->\n", suite)
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: no lines %q and %q to write between", file, begin, end)
	}
	return os.WriteFile(file, []byte(before+begin+section+end+after), 0o644)
}

// A run of some steps adds to what others have found about the same kernel.
func TestKeep(t *testing.T) {
	file := filepath.Join(t.TempDir(), "result.json")
	for _, c := range []struct {
		kernel, tool, check string
		cells, checks       int
	}{{"6.1", "a", "x", 1, 1}, {"6.1", "b", "y", 2, 2}, {"6.1", "b", "x", 2, 2}, {"6.12", "a", "x", 1, 1}} {
		all, err := (&Result{Kernel: c.kernel, Cells: []Cell{{Tool: c.tool, Backend: "bcc", Verdict: "counts"}}, Checks: []Check{{Name: c.check}}}).keep(file)
		if err != nil || len(all.Cells) != c.cells || len(all.Checks) != c.checks || all.Cells[0].Tool != c.tool {
			t.Errorf("%+v: %+v, %v", c, all, err)
		}
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := new(Result).keep(file); err == nil {
		t.Error("a broken file is taken for none")
	}
}
