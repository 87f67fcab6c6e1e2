package selftest

import (
	"maps"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Facts are what a run did.
type Facts struct {
	Numbers map[string]map[string]float64 // by workload and name
	Failed  map[string]string             // why a workload could not be done, by its name
}

func newFacts() *Facts {
	return &Facts{Numbers: make(map[string]map[string]float64), Failed: make(map[string]string)}
}

// Did says in words what a workload did under the plan's names.
func (f *Facts) Did(workload string, p *Plan) string {
	text := Workloads[workload].did
	for _, name := range Workloads[workload].Names {
		text = strings.ReplaceAll(text, "{"+name+"}", p.Label(workload, name))
	}
	for name, value := range f.Numbers[workload] {
		text = strings.ReplaceAll(text, "{"+name+"}", strconv.FormatFloat(value, 'f', -1, 64))
	}
	return text
}

// Host is what the kernel has counted of the whole host by some moment. It
// bounds what a tool can have seen since.
type Host struct {
	Requests float64 // completed by all disks
	PagedIn  float64 // pages read from disks
	Dirtied  float64 // pages
}

// ReadHost reads /proc/diskstats and /proc/vmstat.
func ReadHost() Host {
	return Host{Requests: diskRequests(), PagedIn: vmstat("pgpgin") / 4, Dirtied: vmstat("nr_dirtied")}
}

// slack is for what is counted at other moments, or in other portions, than the
// kernel's own counters: a tenth, and a few.
func slack(n float64) float64 { return n*1.1 + 50 }

// Bound returns the facts with what all, others too, can have done between two
// moments.
func (f *Facts) Bound(from, to Host) *Facts {
	bounded := &Facts{Numbers: make(map[string]map[string]float64), Failed: f.Failed}
	for name, numbers := range f.Numbers {
		bounded.Numbers[name] = maps.Clone(numbers)
	}
	f = bounded
	if disk := f.Numbers["disk"]; disk != nil {
		disk["max_requests"] = math.Round(slack(to.Requests - from.Requests))
	}
	if cache := f.Numbers["cache"]; cache != nil {
		// What a write allocates, and a hole that is read, is not read from disk.
		cache["max_missed"] = math.Round(2*slack(to.PagedIn-from.PagedIn) + to.Dirtied - from.Dirtied)
		cache["max_dirtied"] = math.Round(slack(to.Dirtied - from.Dirtied))
	}
	return f
}

// diskRequests sums completed reads, writes, discards and flushes of whole
// disks: fields 4, 8, 15 and 19 of a line (Documentation/admin-guide/iostats.rst).
func diskRequests() float64 {
	text, _ := os.ReadFile("/proc/diskstats")
	var sum float64
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 14 {
			continue
		}
		if _, err := os.Stat(filepath.Join("/sys/block", strings.ReplaceAll(fields[2], "/", "!"))); err != nil {
			continue // a partition
		}
		for _, at := range []int{3, 7, 14, 18} {
			if at < len(fields) {
				n, _ := strconv.ParseFloat(fields[at], 64)
				sum += n
			}
		}
	}
	return sum
}

func vmstat(name string) float64 {
	text, _ := os.ReadFile("/proc/vmstat")
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == name {
			n, _ := strconv.ParseFloat(value, 64)
			return n
		}
	}
	return 0
}
