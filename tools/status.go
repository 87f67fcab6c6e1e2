package tools

import "time"

// State is what has become of a tool.
type State string

// The states of a tool.
const (
	Off      State = "off"      // not enabled
	Starting State = "starting" // a source is being tried, or started again
	Up       State = "up"       // a source is attached and answers
	Down     State = "down"     // given up: no source serves on this host
	Idle     State = "idle"     // on demand: a source may serve, and nobody asks
)

// Status is all that is known of a tool at one moment.
type Status struct {
	Definition *Definition
	State      State
	// Reason says why the tool is not up, in one line.
	Reason string
	// Source serves, or served last; nil if none ever did.
	Source *Source
	// Version is that of the source's package or program.
	Version string
	// Path is the program that runs.
	Path string
	// PID is the process that serves the tool, shared by all bpftrace sources.
	PID int
	// Rejected are the sources that do not serve here, in order, with reasons.
	Rejected []Rejection
	// SelfTest is that of the source that serves, or of the last that failed.
	SelfTest Verdict

	Events         uint64            // counted
	EventsLost     uint64            // reported as lost by the tool
	EventsNotShown uint64            // counted but left out of the ring, which is rate-limited
	ParseErrors    uint64            // lines that made no sense
	Stale          uint64            // scrapes that got the last values because the tool did not answer
	Restarts       map[string]uint64 // by reason
	LastOutput     time.Time

	// Cost. A process that serves several tools is shared out evenly.
	UserSeconds, SystemSeconds float64
	BPFSeconds                 float64 // estimated from short windows
	ResidentBytes              uint64
	MapBytes                   uint64
}

// A Rejection says why a source does not serve.
type Rejection struct {
	Source *Source
	Reason string
}

// Schema is the native histogram schema that the serving source counts in: 3
// for counts of single values and of schema3(), 0 for log2 histograms.
func (s *Source) Schema() int {
	if s.Format == "log2" {
		return 0
	}
	return 3
}

// Sum tells whether the sums of histograms are "exact" or "estimated" from
// the middles of buckets.
func (s *Source) Sum() string {
	if s.Format == "log2" {
		return "estimated"
	}
	return "exact"
}
