package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
)

// BenchmarkCost measures what the exporter costs on this machine's kernel,
// beside bare tools that see the same: run as root, with nothing else going on.
// Only figures of one run compare, which is why there are ratios. Everything is
// measured once for each run, whatever -benchtime says; the table of all
// figures comes last.
func BenchmarkCost(b *testing.B) {
	needBench(b)
	subjects := []struct {
		name    string
		measure func(b *testing.B) []figure
	}{
		{"BPF", benchBPF},
		{"Throughput", benchThroughput},
		{"Idle", benchIdle},
		{"Scrape", benchScrape},
		{"Memory", benchMemory},
		{"ExecCPU", benchExecCPU},
	}
	var all []figure
	for _, subject := range subjects {
		b.Run(subject.name, func(b *testing.B) {
			figures := subject.measure(b)
			for _, f := range figures {
				b.Run(f.what, f.report)
			}
			all = append(all, figures...)
		})
	}
	printTable(all)
}

// A figure is one line of the table. Bare is 0 where nothing compares.
type figure struct {
	what       string
	unit       string
	ours, bare float64
	beside     string // what bare is of, or a remark
	expected   string // the most, or least, that issue or design allow; may be empty
}

// report makes a benchmark line of a figure that is measured already.
func (f figure) report(b *testing.B) {
	unit := strings.ReplaceAll(f.unit, " ", "_")
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(f.ours, unit)
	if f.bare != 0 {
		b.ReportMetric(f.bare, "bare-"+unit)
		b.ReportMetric(f.ours/f.bare, "ratio")
	}
}

func printTable(figures []figure) {
	if len(figures) == 0 {
		return
	}
	fmt.Println()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "figure\tunit\tours\tbare\tratio\texpected\tbare is")
	for _, f := range figures {
		bare, ratio := "", ""
		if f.bare != 0 {
			bare, ratio = short(f.bare), fmt.Sprintf("%.2f", f.ours/f.bare)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.what, f.unit, short(f.ours), bare, ratio, f.expected, f.beside)
	}
	table.Flush()
	fmt.Println()
}

// short writes three significant digits, and all of a number above 1,000.
func short(v float64) string {
	if v >= 1000 || v == 0 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
