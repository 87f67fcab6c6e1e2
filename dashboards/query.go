package main

import (
	"fmt"
	"strings"
)

// selector selects the series of a metric on the hosts that are chosen.
func selector(metric string, more ...string) string {
	return metric + "{" + strings.Join(append([]string{`job=~"$job"`, `instance=~"$instance"`}, more...), ", ") + "}"
}

func rate(metric string, more ...string) string {
	return "rate(" + selector(metric, more...) + "[$__rate_interval])"
}

// counted is by how much counters, or histograms, rose in the time range.
func counted(metric string, more ...string) string { return grown(selector(metric, more...)) }

// grown is counted for a selector. increase() takes the first value of a series
// for where it began, so that a program that ran once would not be seen: a series
// that was not there when the range began counts with all of its value.
func grown(series string) string {
	return fmt.Sprintf("((%s unless %s offset $__range) or increase(%s[$__range]))", series, series, series)
}

func sum(by, what string) string { return fmt.Sprintf("sum by (%s) (%s)", by, what) }

func topk(n int, what string) string { return fmt.Sprintf("topk(%d, %s)", n, what) }

// histogram selects a histogram in the form that the variable $histograms
// chooses. Its values are "()" for native ones and "_bucket" for classic ones:
// the name, as a regular expression, with nothing or with the suffix behind it.
func histogram(metric string, more ...string) string {
	return selector("", append([]string{fmt.Sprintf(`__name__=~"%s$histograms"`, metric)}, more...)...)
}

// buckets are the rates of a histogram's buckets. Native ones have no label le,
// and "by (le)" does nothing to them.
func buckets(metric string, by ...string) string {
	return sum(strings.Join(append([]string{"le"}, by...), ", "), "rate("+histogram(metric)+"[$__rate_interval])")
}

func quantile(q, metric string, by ...string) string {
	return fmt.Sprintf("histogram_quantile(%s, %s)", q, buckets(metric, by...))
}

// observations is how many values a histogram, native or classic, got in the
// time range.
func observations(metric, by string) string {
	return fmt.Sprintf("(histogram_count(%s) or %s)", sum(by, counted(metric)), sum(by, counted(metric+"_count")))
}

// rangeQuantile is a quantile over the whole time range.
func rangeQuantile(q, metric, by string) string {
	return fmt.Sprintf("histogram_quantile(%s, %s)", q, sum("le, "+by, grown(histogram(metric))))
}

// talks are the edges of the graph of sessions, with labels id, source and
// target: who opened sessions to whom.
//
// On one host the ends here are programs and those elsewhere services; across
// hosts both are hosts, so that a session that two exporters see is one edge. An
// exporter's host is its instance without the port, as peers are addresses.
func talks(acrossHosts bool) string {
	const peers = "bpf_tcplife_peer_sessions_total"
	outbound, inbound := counted(peers, `direction!="inbound"`), counted(peers, `direction="inbound"`)
	self, service := `label_join(%s, "%s", "/", "instance", "comm")`, `label_join(%s, "%s", ":", "peer", "port")`
	if acrossHosts {
		self = `label_replace(%s, "%s", "$1", "instance", "\\[?(.+?)\\]?(:[0-9]+)?")`
		service = `label_replace(%s, "%s", "$1", "peer", "(.*)")`
	}
	edge := func(source, target, what string) string {
		ends := fmt.Sprintf(target, fmt.Sprintf(source, what, "source"), "target")
		return sum("id, source, target", fmt.Sprintf(`label_join(%s, "id", " to ", "source", "target")`, ends))
	}
	peer := `label_replace(%s, "%s", "$1", "peer", "(.*)")`
	return topk(100, "("+edge(self, service, outbound)+" or "+edge(peer, self, inbound)+")")
}
