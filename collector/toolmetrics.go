package collector

import (
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bpf_tools_exporter/tools"
)

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

var (
	infoDesc = toolDesc("bpf_tool_info",
		"What serves the tool, with the schema and the sum (exact or estimated) of its histograms.",
		"backend", "version", "schema", "sum")
	selfTestDesc = toolDesc("bpf_tool_selftest_success",
		"Whether the source that serves saw all of a workload of known size; 0 if every source that attaches counts wrong here.")
	restartsDesc = toolDesc("bpf_tool_restarts_total",
		"Times that the tool was started again.", "reason")
	cpuDesc = toolDesc("bpf_tool_cpu_seconds_total",
		"CPU time of the tool's process in user and system mode, and of its BPF programs in the kernel (estimated).", "mode")
	lastOutputDesc = toolDesc("bpf_tool_last_output_timestamp_seconds",
		"When the tool last printed something, in seconds since the epoch.")
	overflowDesc = toolDesc("bpf_tool_series_overflow_total",
		"Samples that went to a series of other values because the metric had no room for their own.", "metric")
)

// statusMetrics are those that every tool has once.
var statusMetrics = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*tools.Status) float64
}{
	{toolDesc("bpf_tool_up", "Whether the tool is attached and answers, or can be run on demand."),
		gauge, up},
	{toolDesc("bpf_tool_events_total", "Events that the tool counted."),
		counter, func(s *tools.Status) float64 { return float64(s.Events) }},
	{toolDesc("bpf_tool_events_lost_total", "Events that were not counted, or whose row was not shown, as the tool or the kernel says."),
		counter, func(s *tools.Status) float64 { return float64(s.EventsLost) }},
	{toolDesc("bpf_tool_events_not_shown_total", "Events that were counted but left out of the recent events, whose rate is limited."),
		counter, func(s *tools.Status) float64 { return float64(s.EventsNotShown) }},
	{toolDesc("bpf_tool_parse_errors_total", "Lines of the tool's output that made no sense."),
		counter, func(s *tools.Status) float64 { return float64(s.ParseErrors) }},
	{toolDesc("bpf_tool_stale_scrapes_total", "Scrapes that got the last values because the tool did not answer in time."),
		counter, func(s *tools.Status) float64 { return float64(s.Stale) }},
	{toolDesc("bpf_tool_resident_memory_bytes", "Resident memory of the tool's process."),
		gauge, func(s *tools.Status) float64 { return float64(s.ResidentBytes) }},
	{toolDesc("bpf_tool_map_memory_bytes", "Memory of the tool's BPF maps in the kernel."),
		gauge, func(s *tools.Status) float64 { return float64(s.MapBytes) }},
}

func toolDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"tool"}, labels...), nil)
}

// collectStatus sends the metrics about a tool that is enabled.
func collectStatus(out chan<- prometheus.Metric, s tools.Status) {
	if s.Definition == nil || s.State == tools.Off {
		return
	}
	name := s.Definition.Name
	for _, m := range statusMetrics {
		out <- toolMetric(m.desc, m.kind, m.value(&s), name)
	}
	if up(&s) == 1 && s.Source != nil {
		schema, sum := histograms(&s)
		out <- toolMetric(infoDesc, gauge, 1, name, s.Source.Backend, s.Version, schema, sum)
	}
	if s.SelfTest.Result == tools.Passed || s.SelfTest.Result == tools.Failed {
		out <- toolMetric(selfTestDesc, gauge, passed(&s), name)
	}
	for reason, restarts := range s.Restarts {
		out <- toolMetric(restartsDesc, counter, float64(restarts), name, reason)
	}
	if !s.LastOutput.IsZero() {
		out <- toolMetric(lastOutputDesc, gauge, seconds(s.LastOutput), name)
	}
	out <- toolMetric(cpuDesc, counter, s.UserSeconds, name, "user")
	out <- toolMetric(cpuDesc, counter, s.SystemSeconds, name, "system")
	out <- toolMetric(cpuDesc, counter, s.BPFSeconds, name, "bpf")
}

// collectOverflow sends how many samples overflowed, where any can.
func collectOverflow(out chan<- prometheus.Metric, f *family) {
	if len(f.metric.Labels) == 0 {
		return
	}
	f.mu.Lock()
	overflowed := f.overflowed
	f.mu.Unlock()
	out <- toolMetric(overflowDesc, counter, float64(overflowed), f.tool, f.metric.Name)
}

// toolMetric returns a metric that is wrong rather than panic.
func toolMetric(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) prometheus.Metric {
	for i, label := range labels {
		labels[i] = clean(label)
	}
	m, err := prometheus.NewConstMetric(desc, kind, value, labels...)
	if err != nil {
		return prometheus.NewInvalidMetric(desc, err)
	}
	return m
}

func passed(s *tools.Status) float64 {
	if s.SelfTest.Result == tools.Passed {
		return 1
	}
	return 0
}

func up(s *tools.Status) float64 {
	if s.State == tools.Up || s.State == tools.Idle {
		return 1
	}
	return 0
}

// histograms returns the schema and the sum of the tool's histograms; they are
// empty where it has none.
func histograms(s *tools.Status) (schema, sum string) {
	isHistogram := func(m *tools.Metric) bool { return m.Type == "histogram" }
	if !slices.ContainsFunc(s.Definition.Metrics, isHistogram) {
		return "", ""
	}
	return strconv.Itoa(s.Source.Schema()), s.Source.Sum()
}

// seconds returns the time since the epoch, to the millisecond.
func seconds(t time.Time) float64 {
	return float64(t.UnixMilli()) / 1e3
}
