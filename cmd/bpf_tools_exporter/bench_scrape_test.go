package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapes is how many make a figure.
const scrapes = 100

// scrapeCost is what one scrape takes.
type scrapeCost struct {
	series        int
	cpu, bpftrace time.Duration // CPU time of the process, and of its bpftrace
	wall          time.Duration // median
	rss           float64       // MiB, after the scrapes
}

// measureScrapes scrapes as Prometheus does: one connection, gzip.
func measureScrapes(b *testing.B, t *tracer) scrapeCost {
	b.Helper()
	scrape := func() string {
		body, err := t.get("/metrics")
		if err != nil {
			b.Fatal(err)
		}
		return body
	}
	for range 5 {
		scrape()
	}
	own, bpftrace := cpuTime(b, t.pid), cpuTime(b, t.bpftrace)
	walls := make([]time.Duration, scrapes)
	for i := range walls {
		begin := time.Now()
		scrape()
		walls[i] = time.Since(begin)
	}
	c := scrapeCost{series: countSeries(scrape()), wall: median(walls), cpu: (cpuTime(b, t.pid) - own) / scrapes}
	if t.bpftrace != t.pid {
		c.bpftrace = (cpuTime(b, t.bpftrace) - bpftrace) / scrapes
	}
	c.rss, _ = residentMiB(b, t.pid)
	return c
}

func countSeries(exposition string) int {
	n := 0
	for line := range strings.Lines(exposition) {
		if !strings.HasPrefix(line, "#") {
			n++
		}
	}
	return n
}

// benchScrape compares scrapes with those of a program that has nothing but
// client_golang and as many counters: as they are, and with more comms.
func benchScrape(b *testing.B) []figure {
	t := benchExporter(b, "--tools.max-series=5000")
	var figures []figure
	made := 0
	for _, want := range []int{0, 550, 3600} {
		body, err := t.get("/metrics")
		if err != nil {
			b.Fatal(err)
		}
		more := max(0, want-countSeries(body))
		execUnique(b, made, more)
		made += more
		ours := measureScrapes(b, t)
		floor := measureFloor(b, ours.series)
		what := fmt.Sprintf("scrape_of_%d_series", ours.series)
		if want == 0 {
			what += "_live"
		}
		beside := fmt.Sprintf("client_golang with %d counters, %.1f MiB RSS, ours %.1f", floor.series, floor.rss, ours.rss)
		figures = append(figures,
			figure{what: what + "_cpu", unit: "ms", ours: millis(ours.cpu), bare: millis(floor.cpu), beside: beside, expected: "near 2 x"},
			figure{what: what + "_wall", unit: "ms", ours: millis(ours.wall), bare: millis(floor.wall), beside: "the same, median"},
			figure{what: what + "_bpftrace_cpu", unit: "ms", ours: millis(ours.bpftrace), beside: "on top: bpftrace prints its maps"},
		)
	}
	t.end()
	return figures
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// execUnique executes programs of n names, from a first number on.
func execUnique(b *testing.B, first, n int) {
	b.Helper()
	dir := b.TempDir()
	for i := first; i < first+n; i++ {
		path := filepath.Join(dir, fmt.Sprintf("series%05d", i))
		if err := errors.Join(os.Symlink("/bin/true", path), execute(path, "x")); err != nil {
			b.Fatal(err)
		}
	}
}

func measureFloor(b *testing.B, counters int) scrapeCost {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	address := benchAddress(b)
	b.Setenv(helperEnv, "floor")
	t := startTracer(b, self, address, strconv.Itoa(counters))
	os.Unsetenv(helperEnv)
	defer t.end()
	t.url = "http://" + address
	within(b, 10*time.Second, "the helper serves", func() error {
		_, err := t.get("/metrics")
		return err
	})
	return measureScrapes(b, t)
}

func init() { helpers["floor"] = floorHelper }

// floorHelper is the least exporter: arguments are its address and how many
// counters it has.
func floorHelper(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	vector := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bpf_floor_total", Help: "Counters."}, []string{"comm", "result"})
	for i := range n {
		vector.WithLabelValues(fmt.Sprintf("series%05d", i), "success").Inc()
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(vector)
	return http.Serve(l, promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
}
