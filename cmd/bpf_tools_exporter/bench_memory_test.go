package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bpf_tools_exporter/tools"
)

// idleTime is how long an idle exporter is looked at.
const idleTime = 30 * time.Second

// benchIdle measures an exporter that nobody scrapes while nothing happens. The
// second in each minute that samples the run time of BPF programs is not in it.
func benchIdle(b *testing.B) []figure {
	t := benchExporter(b)
	own, bpftrace := cpuTime(b, t.pid), cpuTime(b, t.bpftrace)
	ownUser, bpftraceUser := userTime(b, t.pid), userTime(b, t.bpftrace)
	time.Sleep(idleTime)
	own, bpftrace = cpuTime(b, t.pid)-own, cpuTime(b, t.bpftrace)-bpftrace
	ownUser, bpftraceUser = userTime(b, t.pid)-ownUser, userTime(b, t.bpftrace)-bpftraceUser
	const window = 5 * time.Second
	bpf, _ := bpfWindow(b, t.bpftrace, nil, func() error {
		time.Sleep(window)
		return nil
	})
	t.end()
	return []figure{
		{what: "idle_exporter", unit: "% of a core", ours: percent(own, idleTime), expected: "0.1",
			beside: fmt.Sprintf("user %s of %s", ownUser, own.Round(time.Microsecond))},
		{what: "idle_bpftrace", unit: "% of a core", ours: percent(bpftrace, idleTime),
			beside: fmt.Sprintf("user %s of %s", bpftraceUser, bpftrace.Round(time.Microsecond))},
		{what: "idle_bpf", unit: "% of a core", ours: percent(time.Duration(bpf.ns), window),
			beside: fmt.Sprintf("%.0f runs in %s", bpf.runs, window)},
	}
}

func percent(part, whole time.Duration) float64 { return 100 * float64(part) / float64(whole) }

// memory is what programs hold, in MiB.
type memory struct{ rss, pss, maps float64 }

func memoryOf(b *testing.B, pid int) memory {
	b.Helper()
	rss, pss := residentMiB(b, pid)
	return memory{rss, pss, mapMiB(pid)}
}

func (m memory) plus(n memory) memory { return memory{m.rss + n.rss, m.pss + n.pss, m.maps + n.maps} }

// benchMemory compares the memory of exporter and bpftrace, after five scrapes,
// with a bare bpftrace of the same scripts and with bare libbpf-tools.
func benchMemory(b *testing.B) []figure {
	others := otherBPFtraces(0)
	t := benchExporter(b)
	for range 5 {
		if _, err := t.get("/metrics"); err != nil {
			b.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	own, child := memoryOf(b, t.pid), memoryOf(b, t.bpftrace)
	others += otherBPFtraces(t.bpftrace)
	both := own.plus(child)
	t.end()

	bare := bareScripts(b)
	libbpf, names := libbpfTools(b)
	beside := "bpftrace with the same five scripts"
	if others > 0 {
		beside += "; INVALID: another bpftrace ran, whose pages of LLVM cannot be given back"
	}
	figures := []figure{
		{what: "memory_exporter_rss", unit: "MiB", ours: own.rss, expected: "25", beside: fmt.Sprintf("PSS %.1f", own.pss)},
		{what: "memory_bpftrace_rss", unit: "MiB", ours: child.rss, bare: bare.rss, beside: beside},
		{what: "memory_bpftrace_pss", unit: "MiB", ours: child.pss, bare: bare.pss, beside: "the same"},
		{what: "memory_both_rss", unit: "MiB", ours: both.rss, bare: bare.rss, beside: "the same", expected: "48"},
		{what: "memory_both_pss", unit: "MiB", ours: both.pss, bare: bare.pss, beside: "the same"},
		{what: "memory_bpf_maps", unit: "MiB", ours: both.maps, bare: bare.maps, beside: "the same; its maps have the default of keys"},
	}
	if names != "" {
		figures = append(figures,
			figure{what: "memory_libbpf_rss", unit: "MiB", ours: both.rss, bare: libbpf.rss, beside: "libbpf-tools " + names},
			figure{what: "memory_libbpf_pss", unit: "MiB", ours: both.pss, bare: libbpf.pss, beside: "the same"},
			figure{what: "memory_libbpf_bpf_maps", unit: "MiB", ours: both.maps, bare: libbpf.maps, beside: "the same"})
	}
	return append(figures, benchPeers(b, own)...)
}

// otherBPFtraces counts those of this machine but one.
func otherBPFtraces(but int) int {
	n := 0
	for _, p := range descendants(0) {
		if p.comm == "bpftrace" && p.pid != but {
			n++
		}
	}
	return n
}

// bareScripts is a bpftrace that runs the scripts of the default tools, as they
// are.
func bareScripts(b *testing.B) memory {
	b.Helper()
	catalog, err := tools.Load(nil)
	if err != nil {
		b.Fatal(err)
	}
	var text strings.Builder
	for _, d := range catalog.Tools() {
		if !d.Default {
			continue
		}
		for _, source := range d.Sources {
			if source.Backend != "bpftrace" {
				continue
			}
			script, err := d.Script(source, nil)
			if err != nil {
				b.Fatal(err)
			}
			text.WriteString(script)
			break // the first serves
		}
	}
	file := filepath.Join(b.TempDir(), "all.bt")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	const none = "4294967295"
	t := startBare(b, execWork(b), "bpftrace", file, none, none, none)
	defer t.end()
	return memoryOf(b, t.pid)
}

// libbpfTools runs those that are installed of the three that serve where the
// exporter's scripts do not.
func libbpfTools(b *testing.B) (memory, string) {
	b.Helper()
	var sum memory
	var names []string
	for _, e := range bpfEvents(b) {
		if e.text == nil || e.work == nil {
			continue
		}
		path, err := findTool(e.text[0])
		if err != nil {
			continue
		}
		t := startBare(b, e.work, append([]string{path}, e.text[1:]...)...)
		defer t.end()
		names = append(names, e.text[0])
		sum = sum.plus(memoryOf(b, t.pid))
	}
	return sum, strings.Join(names, ", ")
}

// findTool returns the path of a libbpf-tool, under either of its names in
// Debian, or of another program.
func findTool(name string) (string, error) {
	if path, err := exec.LookPath(name + "-libbpf"); err == nil {
		return path, nil
	}
	return exec.LookPath(name)
}

// benchPeers measures other exporters that are installed. ebpf_exporter needs
// to be told what to run: arguments in EBPF_EXPORTER_ARGS.
func benchPeers(b *testing.B, own memory) []figure {
	b.Helper()
	var figures []figure
	for _, peer := range []struct{ name, args string }{
		{"prometheus-node-exporter", ""},
		{"ebpf_exporter", os.Getenv("EBPF_EXPORTER_ARGS")},
	} {
		path, err := exec.LookPath(peer.name)
		if err != nil {
			fmt.Printf("%s is not installed: left out\n", peer.name)
			continue
		}
		if peer.name == "ebpf_exporter" && peer.args == "" {
			fmt.Println("ebpf_exporter: EBPF_EXPORTER_ARGS does not say what to run: left out")
			continue
		}
		address := benchAddress(b)
		t := startTracer(b, append([]string{path, "--web.listen-address=" + address}, strings.Fields(peer.args)...)...)
		t.url = "http://" + address
		within(b, 30*time.Second, peer.name+" answers", func() error {
			_, err := t.get("/metrics")
			return err
		})
		cost := measureScrapes(b, t)
		m := memoryOf(b, t.pid)
		t.end()
		figures = append(figures, figure{what: "memory_exporter_rss_beside_" + peer.name, unit: "MiB", ours: own.rss, bare: m.rss,
			beside: fmt.Sprintf("%d series, %.2f ms CPU a scrape, PSS %.1f, BPF maps %.1f", cost.series, millis(cost.cpu), m.pss, m.maps)})
	}
	return figures
}

// benchExecCPU compares what execs cost in user space: the exporter with its
// bpftrace, and libbpf-tools' execsnoop with a reader of its pipe.
func benchExecCPU(b *testing.B) []figure {
	const execs, per = 20_000, 100_000 // user time comes in hundredths of a second
	work := execWork(b)
	// measure returns user and all CPU seconds of processes per 100,000 execs.
	measure := func(pids ...int) (user, all float64) {
		for _, pid := range pids {
			user, all = user-userTime(b, pid).Seconds(), all-cpuTime(b, pid).Seconds()
		}
		if err := work(execs); err != nil {
			b.Fatal(err)
		}
		for _, pid := range pids {
			user, all = user+userTime(b, pid).Seconds(), all+cpuTime(b, pid).Seconds()
		}
		return user * per / execs, all * per / execs
	}
	exporter := benchExporter(b)
	ours, oursAll := measure(exporter.pid, exporter.bpftrace)
	exporter.end()
	figures := []figure{
		{what: "exec_user_cpu", unit: "s/100k execs", ours: ours, beside: "no libbpf-tools execsnoop to compare with"},
		{what: "exec_user_and_system_cpu", unit: "s/100k execs", ours: oursAll},
	}
	path, err := findTool("execsnoop")
	if err != nil {
		return figures
	}
	tool := startBare(b, work, path)
	defer tool.end()
	bare, bareAll := measure(tool.pid)
	figures[0].bare, figures[0].beside = bare, "libbpf-tools execsnoop into a pipe"
	figures[1].bare, figures[1].beside = bareAll, "the same"
	return figures
}
