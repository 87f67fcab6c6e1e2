package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/go-kit/log"

	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/backend"
)

// diagnosis is the JSON of the doctor. Keys are only ever added; lists are empty
// rather than null.
type diagnosis struct {
	// OK is false if a tool that is on has no source; the exit status is 1 then.
	OK       bool            `json:"ok"`
	Host     hostReport      `json:"host"`
	Backends []backendReport `json:"backends"` // in order of preference
	Tools    []toolDiagnosis `json:"tools"`    // by name
	// Install is the command that installs the backends of which nothing was
	// found; "" if there are none, or nobody knows it for this system.
	Install string `json:"install"`
}

type hostReport struct {
	System   string `json:"system"`
	Kernel   string `json:"kernel"`
	Machine  string `json:"machine"`
	BTF      bool   `json:"btf"`
	Headers  string `json:"headers"`  // of the kernel, "" if there are none
	Lockdown string `json:"lockdown"` // none, integrity, confidentiality or unknown
	Tracefs  string `json:"tracefs"`  // where it is mounted, "" if it was not
	Root     bool   `json:"root"`
	// MissingCapabilities are those that the tools need and this process lacks.
	MissingCapabilities []string `json:"missing_capabilities"`
}

type backendReport struct {
	Name    string `json:"name"`
	Version string `json:"version"` // "" if it is not installed
	// Path is of bpftrace, or of the first tool of a backend that has one for
	// each.
	Path string `json:"path"`
	// Tools is how many of the catalogue it has a program for.
	Tools int `json:"tools"`
}

type toolDiagnosis struct {
	Name    string `json:"name"`
	Default bool   `json:"default"`
	Enabled bool   `json:"enabled"`
	// Serves is the backend of the source that would serve, "" if none would.
	Serves  string            `json:"serves"`
	Sources []sourceDiagnosis `json:"sources"`
	// Install is the command that installs what may serve the tool, where
	// nothing does.
	Install string `json:"install"`
}

type sourceDiagnosis struct {
	Backend  string        `json:"backend"`
	Outcome  tools.Outcome `json:"outcome"` // works, fails or not installed
	Reason   string        `json:"reason"`  // why it does not work
	Version  string        `json:"version"`
	Path     string        `json:"path"`
	SelfTest struct {
		Result tools.Result `json:"result"` // passed, failed, skipped, or "" if none was made
		Reason string       `json:"reason"`
	} `json:"self_test"`
}

// doctor tries every source of every tool and says what would serve. It leaves
// nothing behind.
func doctor(f *flags, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, f.doctorTimeout)
	defer cancel()
	host := backend.ReadHost()
	mounted, err := backend.MountTracefs()
	defer backend.UnmountTracefs(mounted)
	if err != nil && f.doctorOutput == "text" {
		fmt.Fprintln(os.Stderr, err)
	}
	cfg := f.managerConfig(nothing{}, nil, log.NewNopLogger())
	cfg.StateDirectory, cfg.Events = "", nil
	manager := tools.NewManager(cfg)
	if f.doctorOutput == "text" {
		fmt.Fprintln(os.Stderr, "trying every source of every tool; where bcc compiles this takes minutes")
	}
	d := newDiagnosis(f, host, manager, manager.Examine(ctx))
	if f.doctorOutput == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(d)
	} else {
		err = d.print(out)
	}
	switch {
	case err != nil:
		return err
	case ctx.Err() == context.DeadlineExceeded:
		return fmt.Errorf("doctor: not all was tried within --timeout=%s", f.doctorTimeout)
	case ctx.Err() != nil:
		return errors.New("doctor: interrupted")
	case !d.OK:
		return fmt.Errorf("no source for %s", strings.Join(d.without(), ", "))
	}
	return nil
}

// nothing takes samples that nobody wants.
type nothing struct{}

func (nothing) Sample(string, tools.Sample) {}

func newDiagnosis(f *flags, host backend.Host, manager *tools.Manager, examined []*tools.Examined) *diagnosis {
	d := &diagnosis{OK: true, Host: hostReport{
		System: host.System, Kernel: host.Kernel, Machine: host.Machine, BTF: host.BTF, Headers: host.Headers, Lockdown: host.Lockdown,
		Tracefs: host.Tracefs, Root: host.Root, MissingCapabilities: append([]string{}, host.Missing...),
	}}
	var absent []string
	for _, name := range backend.Names {
		b := backendReport{Name: name}
		for _, e := range examined {
			if e.Source.Backend != name || e.Path == "" {
				continue
			}
			b.Tools++
			if b.Path == "" {
				b.Path, b.Version = e.Path, e.Version
			}
		}
		if b.Path == "" {
			absent = append(absent, name)
		}
		d.Backends = append(d.Backends, b)
	}
	d.Install = backend.InstallCommand(absent)
	for _, definition := range f.catalog.Tools() {
		t := diagnose(definition, f.enabled[definition.Name], manager, examined)
		d.OK = d.OK && (t.Serves != "" || !t.Enabled)
		d.Tools = append(d.Tools, t)
	}
	return d
}

func diagnose(definition *tools.Definition, enabled bool, manager *tools.Manager, examined []*tools.Examined) toolDiagnosis {
	t := toolDiagnosis{Name: definition.Name, Default: definition.Default, Enabled: enabled, Sources: []sourceDiagnosis{}}
	works := make(map[*tools.Source]bool)
	var absent []string
	for _, e := range examined {
		if e.Tool != definition {
			continue
		}
		works[e.Source] = e.Outcome == tools.Works
		if e.Outcome == tools.NotInstalled {
			absent = append(absent, e.Source.Backend)
		}
		s := sourceDiagnosis{Backend: e.Source.Backend, Outcome: e.Outcome, Reason: e.Reason, Version: e.Version, Path: e.Path}
		s.SelfTest.Result, s.SelfTest.Reason = e.SelfTest.Result, e.SelfTest.Reason
		t.Sources = append(t.Sources, s)
	}
	for _, s := range manager.Preferred(definition) {
		if works[s] {
			t.Serves = s.Backend
			return t
		}
	}
	t.Install = backend.InstallCommand(absent)
	return t
}

// without are the tools that are on and have no source.
func (d *diagnosis) without() []string {
	var names []string
	for _, t := range d.Tools {
		if t.Enabled && t.Serves == "" {
			names = append(names, t.Name)
		}
	}
	return names
}

// print writes the tables for people.
func (d *diagnosis) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")) }
	h := d.Host
	row("system", either(h.System, "unknown"))
	row("kernel", h.Kernel+" "+h.Machine)
	row("BTF", either(yes(h.BTF), "no: bpftrace's scripts need it"))
	row("kernel headers", either(h.Headers, "none: most tools of bcc need them"))
	row("lockdown", h.Lockdown)
	row("tracefs", either(h.Tracefs, "not mounted; the exporter mounts it"))
	row("capabilities", either(map[bool]string{true: "all that the tools need"}[len(h.MissingCapabilities) == 0], "missing: "+strings.Join(h.MissingCapabilities, ", ")))
	if !h.Root {
		row("user", "not root: bpftrace before 0.25 refuses to run")
	}
	row()
	row("BACKEND", "VERSION", "TOOLS", "PATH")
	for _, b := range d.Backends {
		row(b.Name, either(b.Version, "-"), fmt.Sprint(b.Tools), either(b.Path, "not installed"))
	}
	row()
	row(append([]string{"TOOL", "ON", "SERVES"}, backend.Names...)...)
	for _, t := range d.Tools {
		cells := []string{t.Name, either(yes(t.Enabled), "no"), either(t.Serves, "nothing")}
		for _, name := range backend.Names {
			cells = append(cells, t.outcome(name))
		}
		row(cells...)
	}
	row()
	if err := w.Flush(); err != nil {
		return err
	}
	d.printReasons(out)
	return nil
}

// outcome is the cell of a backend in a tool's row.
func (t *toolDiagnosis) outcome(name string) string {
	text := "-"
	for _, s := range t.Sources {
		switch {
		case s.Backend != name || text == string(tools.Works) || strings.HasPrefix(text, "works"):
		case s.Outcome == tools.Works && s.SelfTest.Result != tools.Passed:
			text = "works, unproven"
		default:
			text = string(s.Outcome)
		}
	}
	return text
}

// printReasons says why sources do not serve, each reason once with all its tools.
func (d *diagnosis) printReasons(out io.Writer) {
	var reasons []string
	of := make(map[string][]string)
	add := func(tool, reason string) {
		if of[reason] == nil {
			reasons = append(reasons, reason)
		}
		of[reason] = append(of[reason], tool)
	}
	for _, t := range d.Tools {
		for _, s := range t.Sources {
			program := strings.TrimSpace(s.Backend + " " + s.Version)
			switch {
			case s.Outcome == tools.Fails && !strings.HasPrefix(t.outcome(s.Backend), string(tools.Works)):
				add(t.Name, program+" fails: "+s.Reason)
			case s.Outcome == tools.Works && s.SelfTest.Result == tools.Skipped:
				add(t.Name, program+" is unproven: "+s.SelfTest.Reason)
			}
		}
		if t.Install != "" {
			add(t.Name, "may be served after: "+t.Install)
		}
	}
	for _, reason := range reasons {
		fmt.Fprintf(out, "%s: %s\n", strings.Join(of[reason], ", "), reason)
	}
	if len(reasons) > 0 {
		fmt.Fprintln(out)
	}
	if d.Install != "" {
		fmt.Fprintf(out, "To install what is missing: %s\n", d.Install)
	}
	if without := d.without(); len(without) > 0 {
		fmt.Fprintf(out, "No source for %s.\n", strings.Join(without, ", "))
	} else {
		fmt.Fprintln(out, "Every tool that is on has a source.")
	}
}

func either(text, other string) string {
	if text != "" {
		return text
	}
	return other
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}
