package web

import "bpf_tools_exporter/tools"

// Tool is one tool in the JSON of /tools, which is an array of them in the
// order of the catalogue, and of /tools/NAME. Keys are only ever added. Lists
// and maps are empty rather than null.
type Tool struct {
	Name    string `json:"name"`
	Help    string `json:"help"`
	Mode    string `json:"mode"`    // "continuous"
	Default bool   `json:"default"` // whether it runs unless switched off
	// State is "off", "starting", "up" or "down".
	State tools.State `json:"state"`
	// Reason says in one line why the tool is not up, or how to switch it on;
	// else it is empty.
	Reason string `json:"reason"`
	// Source serves the tool, or served it last; null if none ever did.
	Source *Source `json:"source"`
	// Rejected are the sources that do not serve on this host, in order of
	// preference.
	Rejected []Rejected `json:"rejected"`
	// SelfTest is that of the source that serves, or of the last that failed.
	SelfTest SelfTest `json:"self_test"`
	Docs     []string `json:"docs"` // addresses of upstream's documentation
	Metrics  []Metric `json:"metrics"`
	Events   Events   `json:"events"`
	// ParseErrors counts the lines of output that made no sense.
	ParseErrors uint64            `json:"parse_errors"`
	Restarts    map[string]uint64 `json:"restarts"` // by reason
	// PID is the process that serves, which all bpftrace sources share; 0 if
	// there is none.
	PID  int  `json:"pid"`
	Cost Cost `json:"cost"`
}

// Source is a program that serves a tool.
type Source struct {
	Backend string `json:"backend"` // "bpftrace", "libbpf-tools" or "bcc"
	Version string `json:"version"`
	Path    string `json:"path"`
}

// Rejected is a source that does not serve, and why.
type Rejected struct {
	Backend string `json:"backend"`
	Reason  string `json:"reason"`
}

// SelfTest is how a source proved that it counts right here.
type SelfTest struct {
	// Result is "passed", "failed", "skipped" (it cannot be made here), "pending" or, if none is made, "".
	Result tools.Result `json:"result"`
	Reason string       `json:"reason"` // what was done and seen
}

// Metric is a metric family of a tool.
type Metric struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"` // "counter" or "histogram"
	Help   string   `json:"help"`
	Labels []string `json:"labels"`
}

// Events counts the events of a tool since the exporter's start.
type Events struct {
	Counted uint64 `json:"counted"`
	// Lost is what the tool itself reported as lost.
	Lost uint64 `json:"lost"`
	// NotShown is what was counted but left out of /tools/NAME/events.
	NotShown uint64 `json:"not_shown"`
}

// Cost is what a tool took. A process that serves several tools is shared out
// evenly among them.
type Cost struct {
	UserSeconds   float64 `json:"user_seconds"`   // of CPU time
	SystemSeconds float64 `json:"system_seconds"` // of CPU time
	// BPFSeconds is the run time of the tool's BPF programs, which is spent
	// by whoever meets their probes; estimated from short windows.
	BPFSeconds    float64 `json:"bpf_seconds"`
	ResidentBytes uint64  `json:"resident_bytes"`
	// MapBytes is the memory of BPF maps: in the kernel, in no RSS.
	MapBytes uint64 `json:"map_bytes"`
}

// newTool puts a status into the shape that clients rely on.
func newTool(s tools.Status) Tool {
	d := s.Definition
	tool := Tool{
		Name: d.Name, Help: d.Help, Mode: d.Mode, Default: d.Default,
		State: s.State, Reason: reason(s),
		Rejected:    make([]Rejected, 0, len(s.Rejected)),
		Docs:        append([]string{}, d.Docs...),
		Metrics:     make([]Metric, 0, len(d.Metrics)),
		Events:      Events{Counted: s.Events, Lost: s.EventsLost, NotShown: s.EventsNotShown},
		SelfTest:    SelfTest(s.SelfTest),
		ParseErrors: s.ParseErrors,
		Restarts:    make(map[string]uint64, len(s.Restarts)),
		PID:         s.PID,
		Cost: Cost{
			UserSeconds: s.UserSeconds, SystemSeconds: s.SystemSeconds, BPFSeconds: s.BPFSeconds,
			ResidentBytes: s.ResidentBytes, MapBytes: s.MapBytes,
		},
	}
	if s.Source != nil {
		tool.Source = &Source{Backend: s.Source.Backend, Version: s.Version, Path: s.Path}
	}
	for _, r := range s.Rejected {
		tool.Rejected = append(tool.Rejected, Rejected{Backend: r.Source.Backend, Reason: r.Reason})
	}
	for _, m := range d.Metrics {
		tool.Metrics = append(tool.Metrics, Metric{Name: m.Name, Type: m.Type, Help: m.Help, Labels: append([]string{}, m.Labels...)})
	}
	for reason, count := range s.Restarts {
		tool.Restarts[reason] = count
	}
	return tool
}

// reason says why a tool is not up, even if nobody said.
func reason(s tools.Status) string {
	if s.Reason == "" && s.State == tools.Off {
		return "--collector." + s.Definition.Name + " switches it on"
	}
	return s.Reason
}
