package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"golang.org/x/sys/unix"

	"bpf_tools_exporter/tools/ondemand"
)

// spinFunction is where testdata/spin spends its time.
const spinFunction = "main.spinForTheFlameGraph"

// startSpinning runs a busy loop of so many threads as a program of this name,
// on these CPUs if there are any.
func startSpinning(t *testing.T, name string, threads int, cpus ...int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	build := exec.Command(filepath.Join(runtime.GOROOT(), "bin", "go"), "build", "-o", path, "./testdata/spin")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(path, strconv.Itoa(threads))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if len(cpus) == 0 {
		return
	}
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	// The threads that come later inherit it; those that are there have it set.
	for range 20 {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", cmd.Process.Pid))
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			_ = unix.SchedSetaffinity(tid, &set)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// onDemandExporter runs nothing but what is asked for.
func onDemandExporter(t *testing.T, args ...string) *exporter {
	t.Helper()
	return startExporter(t, append([]string{"--collector.disable-defaults", "--collector.runqlat", "--collector.profile"}, args...)...)
}

// fetch returns status, header and body of a long request.
func (e *exporter) fetch(ctx context.Context, method, path string) (int, http.Header, string, error) {
	request, err := http.NewRequestWithContext(ctx, method, e.url+path, nil)
	if err != nil {
		return 0, nil, "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header, string(body), err
}

// mustFetch is fetch for answers that must come.
func (e *exporter) mustFetch(t *testing.T, method, path string) (int, http.Header, string) {
	t.Helper()
	code, header, body, err := e.fetch(t.Context(), method, path)
	if err != nil {
		t.Fatal(err)
	}
	return code, header, body
}

// finishRun waits for the end of a run.
func (e *exporter) finishRun(t *testing.T, location string) ondemand.Document {
	t.Helper()
	var document ondemand.Document
	eventually(t, 2*time.Minute, "the run is over", func() error {
		body, err := e.getAs(location, "application/json")
		if err != nil {
			return err
		}
		document = ondemand.Document{}
		if err := json.Unmarshal([]byte(body), &struct {
			*ondemand.Document
			Events []json.RawMessage `json:"events"`
		}{Document: &document}); err != nil {
			return err
		}
		if !document.State.IsOver() {
			return fmt.Errorf("%s", document.State)
		}
		return nil
	})
	return document
}

// TestLiveProfile asks for a profile in each way, of a busy loop of a known name.
func TestLiveProfile(t *testing.T) {
	needLive(t)
	e := onDemandExporter(t)
	name := uniqueName("spin")
	startSpinning(t, name, 1)
	code, header, body := e.mustFetch(t, "GET", "/pprof/profile?seconds=4&hz=99")
	p, err := profile.ParseData([]byte(body))
	if err != nil || code != 200 {
		t.Fatalf("%d %v: %v", code, header, err)
	}
	if err := p.CheckValid(); err != nil {
		t.Error(err)
	}
	var all, own, spinning, kernel int64
	for _, s := range p.Sample {
		all += s.Value[0]
		if slices.Contains(s.Label["comm"], name) {
			own += s.Value[0]
		}
		for _, l := range s.Location {
			if l.Line[0].Function.Name == spinFunction {
				spinning += s.Value[0]
				break
			}
		}
		if slices.ContainsFunc(s.Location, func(l *profile.Location) bool { return strings.HasPrefix(l.Mapping.File, "[kernel") }) {
			kernel += s.Value[0]
		}
	}
	t.Logf("%d samples, %d of %s, %d in %s, %d in the kernel", all, own, name, spinning, spinFunction, kernel)
	// The loop wants one CPU all the time, and gets its share of a busy machine.
	if own < 60 || spinning < own*9/10 || kernel == 0 {
		t.Error("the loop is not where it belongs")
	}

	// What pprof's own tool says of it.
	file := filepath.Join(t.TempDir(), "profile.pb.gz")
	if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-top"}, {"-top", "-cum"}, {"-top", "-tagfocus=comm=" + name}} {
		top := exec.Command(filepath.Join(runtime.GOROOT(), "bin", "go"), append(append([]string{"tool", "pprof"}, args...), file)...)
		out, err := top.Output()
		if err != nil {
			t.Fatal(err)
		}
		want := spinFunction
		if slices.Contains(args, "-cum") {
			want = name
		}
		if !strings.Contains(string(out), want) {
			t.Errorf("%v lacks %s:\n%s", args, want, out)
		}
	}

	// The same as text of all kinds: what they add up to is one number.
	_, header, _ = e.mustFetch(t, "POST", "/tools/profile/runs?duration=2s&hz=99")
	location := header.Get("Location")
	document := e.finishRun(t, location)
	_, _, folded := e.mustFetch(t, "GET", location+"?format=folded")
	_, _, binary := e.mustFetch(t, "GET", location+"?format=pprof")
	_, _, rowsText := e.mustFetch(t, "GET", location+"?format=flamegraph")
	var ofFolded, ofStacks, ofRows uint64
	for line := range strings.Lines(folded) {
		n, err := strconv.ParseUint(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ofFolded += n
	}
	for _, s := range document.Stacks {
		ofStacks += s.Count
	}
	var rows []ondemand.Row
	if err := json.Unmarshal([]byte(rowsText), &rows); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		ofRows += row.Self
	}
	parsed, err := profile.ParseData([]byte(binary))
	if err != nil {
		t.Fatal(err)
	}
	var ofPprof uint64
	for _, s := range parsed.Sample {
		ofPprof += uint64(s.Value[0])
	}
	want := document.Samples - document.Lost
	if want < 50 || ofFolded != want || ofStacks != want || ofRows != want || rows[0].Value != want || ofPprof != want {
		t.Errorf("%d samples, %d lost; folded %d, stacks %d, rows %d (%d), pprof %d", document.Samples, document.Lost, ofFolded, ofStacks, ofRows, rows[0].Value, ofPprof)
	}
	if !strings.Contains(folded, name+";") || !strings.Contains(folded, spinFunction) {
		t.Error("folded stacks lack the loop")
	}
	e.expectCounts(t, count{"bpf_tool_runs_total", labels{"tool": "profile", "outcome": "success"}, 2})
	if n := e.scrape(t).sum("bpf_profile_samples_total", labels{"comm": name}); n < 90 {
		t.Errorf("%g samples on /metrics", n)
	}
}

// TestLiveRunqlat has more threads than one CPU can run: the others wait for a
// time slice or more.
func TestLiveRunqlat(t *testing.T) {
	needLive(t)
	e := onDemandExporter(t)
	startSpinning(t, uniqueName("wait"), 4, 0)
	_, _, body := e.mustFetch(t, "GET", "/probe?tool=runqlat&duration=3s")
	for _, want := range []string{"probe_success 1\n", "probe_duration_seconds ", "bpf_runqlat_seconds_bucket"} {
		if !strings.Contains(body, want) {
			t.Errorf("lacks %s:\n%s", want, body)
		}
	}
	_, header, _ := e.mustFetch(t, "POST", "/tools/runqlat/runs?duration=3s")
	document := e.finishRun(t, header.Get("Location"))
	h := document.Histograms[0]
	var long, short, ofIntervals uint64
	for _, b := range h.Buckets {
		if b.Lower >= 1.0/1024 && b.Upper < 0.25 {
			long += b.Count
		}
		if b.Upper < 1.0/4096 {
			short += b.Count
		}
	}
	for _, i := range h.Intervals {
		for _, b := range i.Buckets {
			ofIntervals += b.Count
		}
	}
	t.Logf("%d waits below 0.25 ms, %d of 1 to 250 ms, %d intervals, p99 %g", short, long, len(h.Intervals), *h.P99)
	if long < 100 || short < 100 || len(h.Intervals) < 3 || ofIntervals != h.Count {
		t.Errorf("not two modes: %+v", h.Buckets)
	}
	if n := e.scrape(t).series("bpf_runqlat_seconds", nil)[0].GetHistogram().GetSampleCount(); n <= h.Count {
		t.Errorf("%d waits on /metrics after two runs, %d in the second", n, h.Count)
	}
}

// bpftraces counts the exporter's bpftrace processes.
func (e *exporter) bpftraces() int {
	n := 0
	for _, p := range descendants(e.pid) {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid)); strings.TrimSpace(string(comm)) == "bpftrace" {
			n++
		}
	}
	return n
}

// TestLiveRunsAreBounded asks for the same at once, for fifty different things at
// once, and leaves.
func TestLiveRunsAreBounded(t *testing.T) {
	needLive(t)
	e := onDemandExporter(t)
	most := make(chan int, 1)
	stop := make(chan struct{})
	watch := func() {
		n := 0
		for {
			select {
			case <-stop:
				most <- n
				return
			case <-time.After(20 * time.Millisecond):
				n = max(n, e.bpftraces())
			}
		}
	}

	// Two replicas of a Prometheus.
	go watch()
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(func() {
			code, _, body, err := e.fetch(t.Context(), "GET", "/probe?tool=runqlat&duration=2s")
			if err != nil || code != 200 || !strings.Contains(body, "probe_success 1") {
				t.Errorf("%d %v\n%s", code, err, body)
			}
		})
	}
	wait.Wait()
	close(stop)
	if n := <-most; n != 1 {
		t.Errorf("%d processes for two equal probes", n)
	}
	e.expectCounts(t, count{"bpf_tool_runs_total", labels{"tool": "runqlat", "outcome": "success"}, 1})

	// Fifty that want different things, and hang up after a while.
	stop = make(chan struct{})
	go watch()
	var mu sync.Mutex
	codes := make(map[int]int)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for i := range 50 {
		wait.Go(func() {
			code, _, _, _ := e.fetch(ctx, "GET", fmt.Sprintf("/probe?tool=runqlat&duration=1s&pid=%d", i+1))
			mu.Lock()
			defer mu.Unlock()
			codes[code]++
		})
	}
	wait.Wait()
	close(stop)
	if n := <-most; n != 1 || codes[http.StatusTooManyRequests] != 41 {
		t.Errorf("%d processes at once; answers %v, want 41 of 429", n, codes)
	}
	eventually(t, 30*time.Second, "the clients that hung up leave no process", func() error {
		if n := e.bpftraces(); n > 0 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
}

// TestLiveRunsLeaveNothing runs for a moment many times, and leaves in the middle.
func TestLiveRunsLeaveNothing(t *testing.T) {
	needLive(t)
	e := onDemandExporter(t, "--web.enable-pprof", "--ondemand.max-concurrent=4")
	files := func() int {
		all, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.pid))
		return len(all)
	}
	threads := func() int {
		text := e.mustGet(t, "/debug/pprof/goroutine?debug=1")
		n, _ := strconv.Atoi(strings.Fields(text)[3])
		return n
	}
	round := func(n int) {
		var wait sync.WaitGroup
		for i := range n {
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(50+400*i)*time.Millisecond)
				defer cancel()
				_, _, _, _ = e.fetch(ctx, "GET", fmt.Sprintf("/probe?tool=runqlat&duration=1s&pid=%d", i+1))
			})
		}
		wait.Wait()
		eventually(t, time.Minute, "all processes are gone", func() error {
			if left := len(descendants(e.pid)); left > 0 {
				return fmt.Errorf("%d processes", left)
			}
			return nil
		})
		http.DefaultClient.CloseIdleConnections()
	}
	round(4)
	time.Sleep(200 * time.Millisecond)
	filesBefore, threadsBefore := files(), threads()
	for range 4 {
		round(6)
	}
	eventually(t, 20*time.Second, "files and goroutines are as before", func() error {
		if f, g := files(), threads(); f > filesBefore+1 || g > threadsBefore+2 {
			return fmt.Errorf("%d files and %d goroutines, %d and %d before", f, g, filesBefore, threadsBefore)
		}
		return nil
	})
	if pinned, _ := filepath.Glob("/sys/fs/bpf/*"); slices.ContainsFunc(pinned, func(s string) bool { return strings.Contains(s, "runqlat") }) {
		t.Errorf("pinned: %q", pinned)
	}
}

// TestLiveRunsFromElsewhere asks from another machine, which is a network
// namespace at the other end of a veth.
func TestLiveRunsFromElsewhere(t *testing.T) {
	needLive(t, "ip", "curl")
	name := fmt.Sprintf("bte%d", os.Getpid()%100000)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			cannotRun(t, fmt.Sprintf("ip %v: %v %s", args, err, out))
		}
	}
	ip("netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	ip("link", "add", name, "type", "veth", "peer", "name", "far", "netns", name)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	ip("addr", "add", "198.51.100.1/30", "dev", name)
	ip("link", "set", name, "up")
	ip("-n", name, "addr", "add", "198.51.100.2/30", "dev", "far")
	ip("-n", name, "link", "set", "far", "up")
	far := func(e *exporter, args ...string) (string, string) {
		t.Helper()
		port := e.url[strings.LastIndexByte(e.url, ':'):]
		last := len(args) - 1
		args[last] = "http://198.51.100.1" + port + args[last]
		curl := exec.Command("ip", append([]string{"netns", "exec", name, "curl", "-s", "--max-time", "30", "-w", "\n%{http_code}"}, args...)...)
		out, err := curl.Output()
		if err != nil {
			t.Fatalf("%v: %v", curl.Args, err)
		}
		at := bytes.LastIndexByte(out, '\n')
		return string(out[at+1:]), string(out[:at])
	}
	start := func(args ...string) *exporter {
		_, port, _ := strings.Cut(freeAddress(t), ":")
		cmd := &exec.Cmd{Path: buildExporter(t), Args: append([]string{"bpf_tools_exporter", "--collector.disable-defaults", "--collector.runqlat",
			"--web.listen-address=198.51.100.1:" + port}, args...)}
		e := startCommand(t, cmd)
		return &exporter{url: "http://198.51.100.1:" + port, pid: e.pid}
	}
	closed := start()
	run := "/probe?tool=runqlat&duration=1s"
	for _, args := range [][]string{
		{run},
		{"-H", "X-Forwarded-For: 127.0.0.1", run},
		{"-H", "Host: localhost", run},
		{"-H", "Host: 127.0.0.1", "-H", "Forwarded: for=127.0.0.1", run},
		{"-X", "POST", "/tools/runqlat/runs"},
		{"-X", "DELETE", "/runs/x"},
		{"/pprof/profile?seconds=1"},
		{"/runs/x"},
	} {
		what := strings.Join(args, " ")
		if code, body := far(closed, args...); code != "403" || !strings.Contains(body, "--ondemand.allow-unauthenticated") {
			t.Errorf("%s: got %s %q", what, code, body)
		}
	}
	if code, _ := far(closed, "/metrics"); code != "200" {
		t.Errorf("/metrics: got %s", code)
	}
	open := start("--ondemand.allow-unauthenticated")
	if code, body := far(open, run); code != "200" || !strings.Contains(body, "probe_success 1") {
		t.Errorf("allowed: got %s %q", code, body)
	}
	if code, _ := far(open, "-H", "Sec-Fetch-Site: cross-site", run); code != "403" {
		t.Errorf("another site's page: got %s", code)
	}
}

// TestLivePrometheusProbes has a real Prometheus schedule runqlat by the shipped
// example, more often than it says.
func TestLivePrometheusProbes(t *testing.T) {
	needLive(t, "/usr/bin/prometheus", "/usr/bin/promtool")
	e := onDemandExporter(t)
	example, err := os.ReadFile("../../packaging/prometheus/examples/prometheus-one-host.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("localhost:10101", strings.TrimPrefix(e.url, "http://"), "[10s]", "[2s]", "5m", "12s", "scrape_timeout: 15s", "scrape_timeout: 12s").Replace(string(example))
	dir, address := t.TempDir(), freeAddress(t)
	config := filepath.Join(dir, "prometheus.yml")
	// Prometheus 2 does not know the key of 3, and has a flag instead.
	start := func(text string, args ...string) bool {
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if exec.Command("/usr/bin/promtool", "check", "config", config).Run() != nil {
			return false
		}
		log := new(logBuffer)
		cmd := exec.Command("/usr/bin/prometheus", append(args, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)...)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(unix.SIGTERM)
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("log of Prometheus:\n%s", log)
			}
		})
		return true
	}
	older := strings.Join(slices.DeleteFunc(strings.SplitAfter(text, "\n"), func(line string) bool { return strings.Contains(line, "scrape_native_histograms") }), "")
	if !start(text) && !start(older, "--enable-feature=native-histograms") {
		t.Fatal("promtool refuses the example")
	}
	eventually(t, 90*time.Second, "Prometheus knows a p99 of runqlat", func() error {
		success, err := query(address, `probe_success{job="bpf_runqlat"}`)
		if err != nil || success != 1 {
			return fmt.Errorf("probe_success is %v: %w", success, err)
		}
		p99, err := query(address, `histogram_quantile(0.99, bpf_runqlat_seconds{job="bpf_runqlat"})`)
		if err != nil {
			return err
		}
		if !(p99 > 1e-6 && p99 < 100) {
			return fmt.Errorf("p99 is %v s", p99)
		}
		t.Logf("p99 of waits for a CPU: %v s", p99)
		return nil
	})
}
