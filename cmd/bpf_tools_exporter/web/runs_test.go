package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/ondemand"
	"bpf_tools_exporter/tools/output"
)

// fakeRunner runs nothing: it yields the same for each run, and waits for
// release if there is one.
type fakeRunner struct {
	cannot, err error
	release     chan struct{}
	runs        atomic.Int64
	gone        atomic.Int64
}

func (f *fakeRunner) CanRun(string) error { return f.cannot }

func (f *fakeRunner) Run(ctx context.Context, spec tools.RunSpec, sink tools.RunSink) (tools.RunCounts, error) {
	f.runs.Add(1)
	defer f.gone.Add(1)
	sink.Started(tools.RunSource{Source: &tools.Source{Backend: "bpftrace"}, Version: "0.17.0", Path: "/usr/bin/bpftrace"})
	definition := testCatalog.Tool(spec.Tool)
	m := definition.Metrics[0]
	switch spec.Tool {
	case "runqlat":
		sink.Sample("runqlat", tools.Sample{Metric: m, Count: 3, Index: -100, Schema: 3})
		sink.Sample("runqlat", tools.Sample{Metric: m, Add: 0.25})
	case "profile":
		sink.Sample("profile", tools.Sample{Metric: m, Labels: []string{hostileComm}, Add: 7})
		sink.Stack(output.Stack{Keys: []string{hostileComm, "9"}, User: []string{"main", "<b>spin</b>"}, Kernel: []string{"entry_SYSCALL_64"}, Count: 7})
	case "execsnoop":
		sink.Sample("execsnoop", tools.Sample{Metric: m, Labels: []string{"sh", "success"}, Add: 1})
		sink.Event(execEvent(hostileComm, "7", "secret argument"))
	}
	sink.Tick()
	if f.release != nil {
		select {
		case <-f.release:
		case <-ctx.Done():
			return tools.RunCounts{}, context.Cause(ctx)
		}
	}
	return tools.RunCounts{Lost: 2}, f.err
}

const hostileComm = "<img src=x onerror=alert(1)>"

var testCatalog = func() *tools.Catalog {
	catalog, err := tools.Load(nil)
	if err != nil {
		panic(err)
	}
	return catalog
}()

// runsConfig serves the tools of the catalogue on demand.
func runsConfig(t *testing.T, f *fakeRunner) Config {
	t.Helper()
	fake := newFake()
	for _, name := range []string{"runqlat", "profile"} {
		fake.statuses = append(fake.statuses, tools.Status{Definition: testCatalog.Tool(name), State: tools.Idle})
	}
	config := newConfig(fake)
	config.Runs = ondemand.NewManager(ondemand.Config{Runner: f, Catalog: testCatalog, MaxDuration: time.Minute})
	t.Cleanup(config.Runs.Close)
	return config
}

func send(method, target string, change ...func(*http.Request)) *http.Request {
	r := localRequest(target)
	r.Method = method
	for _, c := range change {
		c(r)
	}
	return r
}

func accept(types string) func(*http.Request) { return header("Accept", types) }

func TestRunErrors(t *testing.T) {
	for _, c := range []struct {
		method, target string
		change         func(*http.Request)
		code           int
		body           string
	}{
		{"GET", "/probe", nil, 400, "parameter tool is missing: /probe?tool=runqlat&duration=10s\n"},
		{"GET", "/probe?tool=nosuch", nil, 404, "no such tool: nosuch\n"},
		{"GET", "/probe?tool=cachestat", nil, 404, "no such tool to run on demand: cachestat has neither a histogram nor events\n"},
		{"GET", "/probe?tool=runqlat&duration=x", nil, 400, "parameter duration=\"x\": want seconds or a duration such as 10s\n"},
		{"GET", "/probe?tool=runqlat&duration=1h", nil, 400, "parameter duration=1h0m0s: want 1s to 1m0s (--ondemand.max-duration)\n"},
		{"GET", "/probe?tool=runqlat&duration=-1", nil, 400, "parameter duration=\"-1\": want seconds or a duration such as 10s\n"},
		{"GET", "/probe?tool=runqlat&duration=1s&duration=2s", nil, 400, "parameter duration: stands there twice\n"},
		{"GET", "/probe?tool=runqlat&pid=1%3bid", nil, 400, "parameter pid: \"1;id\": want a whole number from 0 to 4194304\n"},
		{"GET", "/probe?tool=runqlat&command=sh", nil, 400, "parameter command: runqlat has no such parameter\n"},
		{"GET", "/probe?tool=runqlat&duration=5s", header(timeoutHeader, "5"), 400,
			"parameter duration=5s does not fit the scrape timeout of 5s: want a scrape_timeout of 7.5s or more\n"},
		{"GET", "/probe?tool=runqlat", header(timeoutHeader, "2"), 400,
			"parameter duration=10s does not fit the scrape timeout of 2s: want a scrape_timeout of 12.5s or more\n"},
		{"GET", "/probe?tool=runqlat", header(timeoutHeader, "NaN"), 400, "parameter X-Prometheus-Scrape-Timeout-Seconds: \"NaN\": want seconds\n"},
		{"HEAD", "/probe?tool=runqlat", nil, 405, ""},
		{"POST", "/probe?tool=runqlat", nil, 405, ""},
		{"HEAD", "/pprof/profile", nil, 405, ""},
		{"GET", "/pprof/profile?hz=1000", nil, 400, "parameter hz: \"1000\": want a whole number from 1 to 999\n"},
		{"GET", "/pprof/profile?seconds=0", nil, 400, "parameter duration=0s: want 1s to 1m0s (--ondemand.max-duration)\n"},
		{"GET", "/pprof/profile?duration=5s", nil, 400, "parameter duration: profile has no such parameter\n"},
		{"POST", "/tools/nosuch/runs", nil, 404, "no such tool: nosuch\n"},
		{"POST", "/tools/runqlat/runs?duration=5d", nil, 400, "parameter duration=\"5d\": want seconds or a duration such as 10s\n"},
		{"GET", "/runs/nosuch", nil, 404, "no such run, or it is not kept any more: nosuch\n"},
		{"DELETE", "/runs/nosuch", nil, 404, "no such run, or it is not kept any more: nosuch\n"},
		{"GET", "/scripts/nosuch.js", nil, 404, "404 page not found\n"},
		{"GET", "/scripts/../list.html", nil, 404, ""},
	} {
		t.Run(c.method+" "+c.target, func(t *testing.T) {
			f := &fakeRunner{}
			r := send(c.method, c.target)
			if c.change != nil {
				c.change(r)
			}
			code, _, body := get(t, Handler(runsConfig(t, f)), r)
			if code != c.code && !(strings.Contains(c.target, "..") && code == 307) || c.body != "" && body != c.body {
				t.Errorf("got %d %q, want %d %q", code, body, c.code, c.body)
			}
			if n := f.runs.Load(); n > 0 {
				t.Errorf("%d runs were started", n)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	f := &fakeRunner{}
	h := Handler(runsConfig(t, f))
	code, _, body := get(t, h, send("GET", "/probe?tool=runqlat&duration=2s", header(timeoutHeader, "10")))
	for _, want := range []string{"probe_success 1\n", "probe_duration_seconds ", "bpf_runqlat_seconds_count 3\n", "bpf_runqlat_seconds_sum 0.25\n", `le="0.000244140625"} 3`} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("got %d, lacks %q:\n%s", code, want, body)
		}
	}
	if strings.Contains(body, "bpf_tool_") || strings.Contains(body, "go_") {
		t.Errorf("more than the run:\n%s", body)
	}
	// Native histograms come in protobuf.
	_, header, _ := get(t, h, send("GET", "/probe?tool=runqlat", accept("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")))
	if !strings.HasPrefix(header.Get("Content-Type"), "application/vnd.google.protobuf") {
		t.Errorf("content type %s", header.Get("Content-Type"))
	}
	f.err = errors.New("no luck")
	code, _, body = get(t, h, send("GET", "/probe?tool=runqlat"))
	if code != 200 || !strings.Contains(body, "probe_success 0\n") || strings.Contains(body, "bpf_runqlat") {
		t.Errorf("a failed run: got %d\n%s", code, body)
	}
	f.err = fmt.Errorf("runqlat %w: no source", tools.ErrCannotRun)
	if code, _, body = get(t, h, send("GET", "/probe?tool=runqlat")); code != 503 || body != "runqlat cannot run here: no source\n" {
		t.Errorf("got %d %q", code, body)
	}
	f.cannot = fmt.Errorf("runqlat %w: --collector.runqlat allows it", tools.ErrCannotRun)
	if code, _, body = get(t, h, send("GET", "/probe?tool=runqlat")); code != 503 || body != "runqlat cannot run here: --collector.runqlat allows it\n" {
		t.Errorf("got %d %q", code, body)
	}
}

// TestProbeTimeout has a tool that outlives the scrape.
func TestProbeTimeout(t *testing.T) {
	f := &fakeRunner{release: make(chan struct{})}
	h := Handler(runsConfig(t, f))
	code, _, body := get(t, h, send("GET", "/probe?tool=runqlat&duration=1s", header(timeoutHeader, "3.6")))
	if code != 200 || !strings.Contains(body, "probe_success 0\n") {
		t.Errorf("got %d %s", code, body)
	}
	for f.gone.Load() == 0 { // the run is stopped, as its last reader has left
		time.Sleep(time.Millisecond)
	}
}

func TestProfileEndpoint(t *testing.T) {
	h := Handler(runsConfig(t, &fakeRunner{}))
	code, header, body := get(t, h, send("GET", "/pprof/profile?seconds=5&hz=99"))
	p, err := profile.ParseData([]byte(body))
	if err != nil || code != 200 || header.Get("Content-Type") != "application/octet-stream" {
		t.Fatalf("%v, %d, %v", err, code, header)
	}
	if p.Period != 1_000_000_000/99 || len(p.Sample) != 1 || p.Sample[0].Value[0] != 7 || p.Sample[0].Label["comm"][0] != hostileComm {
		t.Errorf("got %v", p)
	}
}

// TestHangUp has a client that leaves in the middle of its run, and one that
// stays with the same.
func TestHangUp(t *testing.T) {
	f := &fakeRunner{release: make(chan struct{})}
	server := httptest.NewServer(Handler(runsConfig(t, f)))
	defer server.Close()
	ask := func(ctx context.Context) chan string {
		answer := make(chan string, 1)
		go func() {
			r, _ := http.NewRequestWithContext(ctx, "GET", server.URL+"/probe?tool=runqlat&duration=30s", nil)
			response, err := server.Client().Do(r)
			if err != nil {
				answer <- err.Error()
				return
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			answer <- string(body)
		}()
		return answer
	}
	leaving, leave := context.WithCancel(t.Context())
	first, second := ask(leaving), ask(t.Context())
	for f.runs.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // the second joins
	leave()
	<-first
	close(f.release)
	if body := <-second; !strings.Contains(body, "probe_success 1") || f.runs.Load() != 1 {
		t.Errorf("%d runs, got %s", f.runs.Load(), body)
	}
	f.release = make(chan struct{})
	leaving, leave = context.WithCancel(t.Context())
	first = ask(leaving)
	for f.runs.Load() == 1 {
		time.Sleep(time.Millisecond)
	}
	leave()
	<-first
	for f.gone.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
}

func TestRunLife(t *testing.T) {
	f := &fakeRunner{release: make(chan struct{})}
	h := Handler(runsConfig(t, f))
	code, header, body := get(t, h, send("POST", "/tools/profile/runs?duration=5s&hz=99"))
	location := header.Get("Location")
	if code != 201 || !strings.HasPrefix(location, "/runs/") || body != location+"\n" {
		t.Fatalf("got %d %q %q", code, location, body)
	}
	code, header, body = get(t, h, send("POST", "/tools/profile/runs?duration=9s"))
	if code != 409 || header.Get("Location") != location || !strings.HasPrefix(body, "a run of profile is going on: ") {
		t.Errorf("got %d %q %q", code, header.Get("Location"), body)
	}
	code, header, _ = get(t, h, send("POST", "/tools/profile/runs?duration=9s", accept("text/html,*/*")))
	if code != 303 || header.Get("Location") != "../.."+location {
		t.Errorf("a form: got %d %q", code, header.Get("Location"))
	}
	for f.runs.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	var document ondemand.Document
	waitFor := func(state ondemand.State) {
		t.Helper()
		for document.State != state {
			_, _, body := get(t, h, send("GET", location, accept("application/json")))
			if err := json.Unmarshal([]byte(body), &document); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			time.Sleep(time.Millisecond)
		}
	}
	waitFor(ondemand.Running)
	if document.Tool != "profile" || document.Duration != 5 || document.Options["hz"] != "99" || document.Samples != 7 || document.Source.Backend != "bpftrace" || len(document.Stacks) > 0 {
		t.Errorf("got %+v", document)
	}
	code, header, body = get(t, h, send("GET", location+"?format=folded"))
	if code != 409 || header.Get("Retry-After") == "" || body != "the run is going on: its stacks come at its end\n" {
		t.Errorf("got %d %q", code, body)
	}
	close(f.release)
	waitFor(ondemand.Over)
	for _, c := range []struct{ format, contentType, body string }{
		{"", "text/plain; charset=utf-8", "7 samples: done\n"},
		{"text", "text/plain; charset=utf-8", "100.0%  entry_SYSCALL_64_[k]"},
		{"json", "application/json", `"user":["main","\u003cb\u003espin\u003c/b\u003e"],"kernel":["entry_SYSCALL_64"],"count":7`},
		{"folded", "text/plain; charset=utf-8", hostileComm + ";main;<b>spin</b>;entry_SYSCALL_64_[k] 7\n"},
		{"flamegraph", "application/json", `{"level":4,"value":7,"self":7,"label":"entry_SYSCALL_64_[k]"}]`},
		{"pprof", "application/octet-stream", "\x1f\x8b"},
		{"html", "text/html; charset=utf-8", `data-profile="true"`},
	} {
		code, header, body := get(t, h, send("GET", location+"?format="+c.format))
		if code != 200 || header.Get("Content-Type") != c.contentType || !strings.Contains(body, c.body) {
			t.Errorf("%s: got %d %s\n%s", c.format, code, header.Get("Content-Type"), body)
		}
	}
	for _, query := range []string{"?format=svg", "?format=", "?x=1"} {
		code, _, body := get(t, h, send("GET", location+query))
		if want := map[string]int{"?format=": 200}[query]; code != max(want, 400) && code != want {
			t.Errorf("%s: got %d %s", query, code, body)
		}
	}
	code, _, body = get(t, h, send("DELETE", location))
	if code != 200 || body != "stopped\n" {
		t.Errorf("got %d %q", code, body)
	}
}

func TestStopRun(t *testing.T) {
	f := &fakeRunner{release: make(chan struct{})}
	h := Handler(runsConfig(t, f))
	_, header, _ := get(t, h, send("POST", "/tools/runqlat/runs"))
	location := header.Get("Location")
	for f.runs.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	code, header, _ := get(t, h, send("POST", location+"/stop", accept("text/html")))
	if want := ".." + strings.TrimPrefix(location, "/runs"); code != 303 || header.Get("Location") != want {
		t.Errorf("got %d %q, want %q", code, header.Get("Location"), want)
	}
	for {
		if _, _, body := get(t, h, send("GET", location)); strings.Contains(body, "stopped on request") {
			break
		}
		time.Sleep(time.Millisecond)
	}
}

// TestRunAccess asks in every way that must be refused, and in those that must
// not.
func TestRunAccess(t *testing.T) {
	restricted, forwarded := "this client is on another host", "this request came through a proxy (X-Forwarded-For)"
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		anyone bool
		why    string // "" is admitted
	}{
		{"local", func(*http.Request) {}, false, ""},
		{"another host", remote("192.0.2.1:1"), false, restricted},
		{"another host, allowed", remote("192.0.2.1:1"), true, ""},
		{"another host that claims to be local", func(r *http.Request) { remote("192.0.2.1:1")(r); header("X-Forwarded-For", "127.0.0.1")(r) }, false, restricted},
		{"through a proxy", header("X-Forwarded-For", "127.0.0.1"), false, forwarded},
		{"rebound name", func(r *http.Request) { r.Host = "attacker.example" }, false, "the request must name localhost or a loopback address as its host"},
		{"another site's page", header("Sec-Fetch-Site", "cross-site"), false, "another site's page"},
		{"another port's page", header("Sec-Fetch-Site", "same-site"), false, "another site's page"},
		{"another site's page, allowed", func(r *http.Request) { remote("192.0.2.1:1")(r); header("Sec-Fetch-Site", "cross-site")(r) }, true, "another site's page"},
		{"another origin", header("Origin", "https://attacker.example"), true, "another site's page"},
		{"own page", header("Sec-Fetch-Site", "same-origin"), false, ""},
		{"typed", header("Sec-Fetch-Site", "none"), false, ""},
	} {
		for _, target := range []string{"GET /probe?tool=runqlat&duration=1s", "GET /pprof/profile?seconds=1", "POST /tools/runqlat/runs"} {
			t.Run(c.name+" "+target, func(t *testing.T) {
				f := &fakeRunner{}
				config := runsConfig(t, f)
				config.AnyoneRuns = c.anyone
				method, path, _ := strings.Cut(target, " ")
				r := send(method, path)
				c.change(r)
				code, _, body := get(t, Handler(config), r)
				if c.why == "" {
					if code != 200 && code != 201 {
						t.Errorf("got %d %q", code, body)
					}
					return
				}
				// The guard in front words it differently for a POST.
				crossPost := method == "POST" && strings.Contains(body, "cross-origin request detected")
				if code != 403 || strings.Count(body, "\n") != 1 || !strings.Contains(body, c.why) && !crossPost || f.runs.Load() > 0 {
					t.Errorf("got %d %q, %d runs; want 403 with %q", code, body, f.runs.Load(), c.why)
				}
				if c.why == restricted && !strings.Contains(body, "--ondemand.allow-unauthenticated") {
					t.Errorf("does not say what allows it: %q", body)
				}
			})
		}
	}
}

// TestRunsAreHidden looks from another host at what a run has yielded.
func TestRunsAreHidden(t *testing.T) {
	f := &fakeRunner{}
	config := runsConfig(t, f)
	h := Handler(config)
	_, header, _ := get(t, h, send("POST", "/tools/execsnoop/runs"))
	location := header.Get("Location")
	for f.gone.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for _, target := range []string{"GET " + location, "GET " + location + "?format=json", "DELETE " + location, "POST " + location + "/stop"} {
		method, path, _ := strings.Cut(target, " ")
		if code, _, body := get(t, h, send(method, path, remote("192.0.2.1:1"))); code != 403 || strings.Contains(body, "secret") {
			t.Errorf("%s: got %d %q", target, code, body)
		}
	}
	for _, path := range []string{"/", "/tools/execsnoop"} {
		if _, _, body := get(t, h, send("GET", path, remote("192.0.2.1:1"))); strings.Contains(body, location[1:]) {
			t.Errorf("%s shows the run", path)
		}
		if _, _, body := get(t, h, send("GET", path)); !strings.Contains(body, location[1:]) {
			t.Errorf("%s does not show the run to a local client", path)
		}
	}
	// Anyone may start runs then, and still not see arguments.
	config.AnyoneRuns = true
	h = Handler(config)
	_, _, body := get(t, h, send("GET", location+"?format=json", remote("192.0.2.1:1")))
	if strings.Contains(body, "secret") || !strings.Contains(body, `"events":[]`) {
		t.Errorf("got %s", body)
	}
	for _, format := range []string{"json", "text"} {
		if _, _, body := get(t, h, send("GET", location+"?format="+format)); !strings.Contains(body, "secret argument") {
			t.Errorf("a local client does not see the events: %s", body)
		}
	}
}

// TestRunPages has hostile names in them.
func TestRunPages(t *testing.T) {
	f := &fakeRunner{}
	h := Handler(runsConfig(t, f))
	_, header, _ := get(t, h, send("POST", "/tools/profile/runs"))
	for f.gone.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	_, _, body := get(t, h, send("GET", header.Get("Location"), accept("text/html")))
	for _, want := range []string{"<h1>profile, 10s", `<script src="../scripts/run.js?1.2.3" defer></script>`, `?format=pprof">pprof</a>`, `<code>hz=49</code>`} {
		if !strings.Contains(body, want) {
			t.Errorf("page lacks %q", want)
		}
	}
	if strings.Contains(body, "<img") {
		t.Error("a name is markup")
	}
	_, _, body = get(t, h, send("GET", "/tools/profile"))
	for _, want := range []string{`action="profile/runs"`, `name="hz" type="number" min="1" max="999" value="49"`, `name="duration" type="number" min="1" max="60" value="10"`} {
		if !strings.Contains(body, want) {
			t.Errorf("tool page lacks %q", want)
		}
	}
	_, _, body = get(t, h, send("GET", "/tools/profile", remote("192.0.2.1:1")))
	if strings.Contains(body, "<form") || !strings.Contains(body, "--ondemand.allow-unauthenticated") {
		t.Error("the page of a client that may not run does not say so")
	}
	for _, file := range []string{"charts.js", "run.js", "events.js", "vendor/d3.min.js", "vendor/d3-flamegraph.umd.min.js"} {
		code, header, _ := get(t, h, send("GET", "/scripts/"+file))
		if code != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/javascript") {
			t.Errorf("%s: %d %s", file, code, header.Get("Content-Type"))
		}
	}
}

func TestWithinTimeout(t *testing.T) {
	for _, c := range []struct {
		header   string
		duration time.Duration
		explicit bool
		want     time.Duration
	}{
		{"", 10 * time.Second, true, 10 * time.Second},
		{"15", 10 * time.Second, true, 10 * time.Second},
		{"10", 10 * time.Second, false, 7 * time.Second},
		{"10", 10 * time.Second, true, 0},
		{"3.4", 10 * time.Second, false, 0},
		{"0", time.Second, false, 0},
		{"Inf", time.Second, false, 0},
	} {
		r := ondemand.Request{Duration: c.duration}
		err := withinTimeout(&r, c.header, c.explicit)
		if (err != nil) != (c.want == 0) || err == nil && r.Duration != c.want {
			t.Errorf("%+v: got %s, %v", c, r.Duration, err)
		}
	}
}
