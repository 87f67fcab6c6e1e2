package tools

import (
	"io/fs"
	"strings"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/output"
)

// A Definition is one tool of the catalogue: the content of its tool.yaml.
// The built-in ones and an operator's own have the same shape and rights.
type Definition struct {
	// Name is the tool's name and that of its folder, as bcc calls it.
	Name string `yaml:"name"`
	// Help says in one line what the tool shows.
	Help string `yaml:"help"`
	// Mode is "continuous", which is the default, or "on-demand": such a tool
	// runs for a while when somebody asks, and its options are what the
	// request may set.
	Mode string `yaml:"mode"`
	// Default tells whether the tool runs unless it is switched off.
	Default bool `yaml:"default"`
	// Docs are addresses of the upstream tool's man page and examples.
	Docs []string `yaml:"docs"`
	// Fields are what an event, or the key of a table, consists of, in the
	// order in which the tool's page shows them.
	Fields Fields `yaml:"fields"`
	// Options are set by flags named --collector.NAME.OPTION.
	Options map[string]Option `yaml:"options"`
	// Exclude names the fields by which the exporter's own doings are known.
	Exclude Exclude `yaml:"exclude_self"`
	// Secret names the fields that may hold secrets, such as command lines:
	// the event log leaves them out unless it is told to have them.
	Secret []string `yaml:"secret"`
	// SelfTest is how a source proves that it counts right; nil for none.
	SelfTest *SelfTest `yaml:"selftest"`
	// Sources can serve the tool, in order of preference.
	Sources []*Source `yaml:"sources"`
	// Metrics are what the tool's samples become.
	Metrics []*Metric `yaml:"metrics"`

	dir  fs.FS  // the folder that holds tool.yaml and the scripts
	file string // tool.yaml as error messages name it
	text string // of tool.yaml
	// scripts are the texts of the scripts, by name. They are read once, so that what
	// runs is what was checked.
	scripts map[string]string
	maps    map[string]bool // the bpftrace maps in its scripts, with their @
}

// Field is a named column with its type: "string", "int" or "float".
type Field struct {
	Name, Type string
}

// Fields keeps the order of a mapping from name to type.
type Fields []Field

// Exclude tells which fields hold process ids (compared with the exporter's
// and its children's) and local ports (compared with the exporter's own).
type Exclude struct {
	PIDs  []string `yaml:"pids"`
	Ports []string `yaml:"ports"`
}

// A Source is one program that can serve a tool.
type Source struct {
	// Backend is "bpftrace", "libbpf-tools" or "bcc".
	Backend string `yaml:"backend"`
	// When lists the options with the values under which this source is
	// considered; it is not where one differs.
	When map[string]string `yaml:"when"`
	// Kernel restricts the source to kernels on which it counts right.
	Kernel Kernel `yaml:"kernel"`
	// Scripts are the bpftrace programs, files of the tool's folder. All
	// their probes run in the one bpftrace process that serves every tool.
	Scripts []string `yaml:"scripts"`
	// Command is the upstream tool's name and its arguments, in which {NAME}
	// stands for the value of an option.
	Command []string `yaml:"command"`
	// Arguments are added to the command for an option that does not have its
	// default.
	Arguments map[string][]string `yaml:"arguments"`
	// Format is "columns", "csv", "pattern", "log2" or "folded"; a bpftrace
	// source has none.
	Format string `yaml:"format"`
	// Columns is the notation of a line (see output.NewColumns), or of the
	// columns of a CSV file that matter (see output.NewCSV).
	Columns string `yaml:"columns"`
	// Pattern is a regular expression of a whole line, whose named groups are
	// the columns.
	Pattern string `yaml:"pattern"`
	// Headers are lines to skip.
	Headers []string `yaml:"headers"`
	// Unit is the length of one unit of a log2 histogram in seconds.
	Unit float64 `yaml:"unit"`
	// Shown leaves events out of the table that are of no interest there.
	Shown Shown `yaml:"shown"`
	// Interval is how many seconds lie between two outputs of a tool that
	// prints at intervals; silence for much longer is a fault.
	Interval int `yaml:"interval"`
	// Maps are the bpftrace maps that the scripts fill.
	Maps map[string]*Map `yaml:"maps"`
	// Rows is the notation of the lines that the scripts print for events,
	// without the tool's name in front.
	Rows string `yaml:"rows"`
	// Events is the scalar map that counts what rows are printed of; rows are
	// rate-limited, and the difference is what was not shown.
	Events string `yaml:"events"`
	// Lost is the scalar map that counts events which the scripts know they
	// could not count.
	Lost string `yaml:"lost"`
	// Skipped are the counters that also count events of which the kernel
	// says only that it did not run a script's probe, with all labels
	// unknown: for scripts each of whose probes counts one event.
	Skipped []string `yaml:"skipped"`
	// Stacks is the map of sampled stacks, which is taken once, at the end.
	Stacks *Stacks `yaml:"stacks"`
	// Set computes fields from the source's own columns or map keys. A field
	// that is not set has the value of the column of the same name.
	Set map[string]string `yaml:"set"`

	set     map[string]expression
	columns []string // of a line or row
}

// Shown is the least value that a field of an event must have to be kept for
// the table: that of an option, times Scale.
type Shown struct {
	Field  string  `yaml:"field"`
	Option string  `yaml:"option"`
	Scale  float64 `yaml:"scale"`
}

// Kernel is a range of kernel versions with the reason for it.
type Kernel struct {
	From    string `yaml:"from"`
	Below   string `yaml:"below"`
	Because string `yaml:"because"`
}

// Map tells what a bpftrace map holds. Values are cumulative since bpftrace
// started.
type Map struct {
	// Keys are the columns of the map's key. A histogram has two maps: its
	// buckets, whose key ends with "slot", the native bucket that schema3()
	// found, and its sum, whose key does not.
	Keys []string `yaml:"keys"`
	// With gives columns that the key does not have a fixed value.
	With map[string]string `yaml:"with"`
	// Metric takes the values, of count() or sum(): a counter and a sum their
	// increase, a bucket the number.
	Metric string `yaml:"metric"`
	// Scale multiplies the values into the metric's unit.
	Scale float64 `yaml:"scale"`
	// Minus is a map of equal shape that is subtracted first. What the
	// difference falls short is made up before it grows again.
	Minus string `yaml:"minus"`
	// Total is a scalar that counts what this map counts. It finds what a
	// full map dropped.
	Total string `yaml:"total"`
}

// Stacks is a bpftrace map of count() whose key is some integers, then kstack
// and ustack.
type Stacks struct {
	Map string `yaml:"map"`
	// Keys are the columns of the integers.
	Keys []string `yaml:"keys"`
	// Total is a scalar that counts the samples.
	Total string `yaml:"total"`
}

// Metric is one metric family of a tool.
type Metric struct {
	Name string `yaml:"name"`
	Help string `yaml:"help"`
	// Type is "counter" or "histogram". Histograms are of seconds, but for
	// those with a Width.
	Type string `yaml:"type"`
	// Width makes a histogram a linear one, of LinearBuckets that are so wide,
	// and twice as wide whenever a value lies beyond the last.
	Width float64 `yaml:"width"`
	// Labels are fields, whose names the labels have.
	Labels []string `yaml:"labels"`
	// Bounded labels have few values by their nature (a direction, an
	// errno); they are kept when the rest becomes "other".
	Bounded []string `yaml:"bounded"`
	// Value is the field that a counter adds and a histogram observes for
	// each event. A counter without one counts the events.
	Value string `yaml:"value"`
}

// hasSlot tells whether the map counts buckets of a native histogram.
func (m *Map) hasSlot() bool { return len(m.Keys) > 0 && m.Keys[len(m.Keys)-1] == "slot" }

// OnDemand tells whether the tool runs only when somebody asks.
func (d *Definition) OnDemand() bool { return d.Mode == onDemand }

// Profiles tells whether the tool samples stacks.
func (d *Definition) Profiles() bool {
	for _, s := range d.Sources {
		if s.yieldsAtEnd() {
			return true
		}
	}
	return false
}

// HasField tells whether the tool has a field of that name.
func (d *Definition) HasField(name string) bool {
	return d.Fields.index(name) >= 0
}

// Metric returns the metric of that name, or nil.
func (d *Definition) Metric(name string) *Metric {
	for _, m := range d.Metrics {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// isTable tells whether the source prints a line for each event or interval.
func (s *Source) isTable() bool {
	return s.Format == "columns" || s.Format == "csv" || s.Format == "pattern"
}

// newDecoder is the decoder of a run of the source's tool.
func (s *Source) newDecoder() (output.Decoder, error) {
	switch s.Format {
	case "csv":
		return output.NewCSV(s.Columns, s.Headers)
	case "pattern":
		return output.NewPattern(s.Pattern, s.Headers)
	}
	return output.NewColumns(s.Columns, s.Headers)
}

// HasEvents tells whether some source of the tool yields events that have
// fields to show.
func (d *Definition) HasEvents() bool {
	return len(d.Fields) > 0 && len(d.eventSources()) > 0
}

func (d *Definition) eventSources() []*Source {
	var with []*Source
	for _, s := range d.Sources {
		if s.Rows != "" || (s.isTable() && s.Interval == 0) {
			with = append(with, s)
		}
	}
	return with
}

// Script returns the text of the source's scripts with the macros expanded.
// Options that values lacks have their default.
func (d *Definition) Script(s *Source, values map[string]string) (string, error) {
	var text strings.Builder
	for _, name := range s.Scripts {
		script, err := d.expandOptions(optionInScript, dropOptional(expandMacros(d.scripts[name]), backend.HasTracepoint), values)
		if err != nil {
			return "", err
		}
		text.WriteString(script)
		text.WriteString("\n")
	}
	return text.String(), nil
}

// IsBounded tells whether the label keeps its value in an overflow series.
func (m *Metric) IsBounded(label string) bool {
	for _, b := range m.Bounded {
		if b == label {
			return true
		}
	}
	return false
}

func (f Fields) index(name string) int {
	for i, field := range f {
		if field.Name == name {
			return i
		}
	}
	return -1
}
