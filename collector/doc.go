// Package collector turns the samples of BPF tools into Prometheus metrics.
//
// A [Collector] is a [tools.Sink]: every increase that a tool reports is added
// to a series of the metric family that the tool's definition declares. A
// counter only grows. A histogram is classic and native in one: its buckets
// are counted by the index of a native histogram schema, and the classic ones,
// whose bounds are powers of two of a second, are sums of those.
//
// Label values come from whoever runs programs on the host, so they are made
// valid UTF-8 and each family holds a bounded number of series. A series that
// has not changed for long makes room for a new one; where none has, the new
// one's samples go to a series whose labels say "other". No sample is lost.
//
// The Collector is a [prometheus.Collector] too. At each scrape it first asks
// the tools to report what they counted, and adds the bpf_tool_* metrics about
// the tools themselves. It knows nothing of processes or HTTP.
package collector
