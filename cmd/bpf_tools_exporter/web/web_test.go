package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"bpf_tools_exporter/tools"
)

// fakeTools is data in the place of a manager.
type fakeTools struct {
	statuses  []tools.Status
	rings     map[string]*tools.Ring
	ready     bool
	refreshed int
}

func (f *fakeTools) Status() []tools.Status       { return f.statuses }
func (f *fakeTools) Ring(name string) *tools.Ring { return f.rings[name] }
func (f *fakeTools) Ready() bool                  { return f.ready }
func (f *fakeTools) Refresh(context.Context)      { f.refreshed++ }

var eventTime = time.Date(2026, 11, 22, 18, 30, 5, 123456000, time.UTC)

var execFields = tools.Fields{{Name: "comm", Type: "string"}, {Name: "pid", Type: "int"}, {Name: "args", Type: "string"}}

func execEvent(comm, pid, args string) tools.Event {
	return tools.Event{Time: eventTime, Fields: execFields, Values: []string{comm, pid, args}}
}

// newFake returns one tool in each state.
func newFake() *fakeTools {
	columns := &tools.Source{Backend: "libbpf-tools", Format: "columns"}
	bpftrace := &tools.Source{Backend: "bpftrace", Rows: "..."}
	define := func(name string, sources ...*tools.Source) *tools.Definition {
		return &tools.Definition{Name: name, Help: "Help of " + name, Mode: "continuous", Fields: execFields, Sources: sources}
	}
	execsnoop := define("execsnoop", bpftrace, columns)
	execsnoop.Default = true
	execsnoop.Docs = []string{"https://docs.example/execsnoop"}
	execsnoop.Metrics = []*tools.Metric{{
		Name: "bpf_execsnoop_execs_total", Type: "counter", Help: "New processes.", Labels: []string{"comm", "result"},
	}}
	ring := tools.NewRing(2000)
	ring.Add(execEvent("sh", "41", "sh -c <b>date</b>"))
	ring.Add(execEvent("<script>alert(1)</script>", "42", "\"quoted\" 'single' \xff \u202etxt.exe \x1b[2J"))
	empty := &tools.Source{Backend: "bcc", Format: "log2"}
	return &fakeTools{
		statuses: []tools.Status{
			{
				Definition: execsnoop, State: tools.Up, Source: columns, Version: "0.31.0", Path: "/usr/sbin/execsnoop", PID: 4242,
				Rejected: []tools.Rejection{{Source: bpftrace, Reason: "not installed: <bpftrace>"}},
				SelfTest: tools.Verdict{Result: tools.Passed, Reason: "ran 9 programs; saw just that"},
				Events:   1234567, EventsLost: 3, EventsNotShown: 4, ParseErrors: 5, Restarts: map[string]uint64{"exit": 1, "silent": 0},
				UserSeconds: 1.5, SystemSeconds: 0.25, BPFSeconds: 0.125, ResidentBytes: 2 << 20, MapBytes: 78 << 20,
			},
			{Definition: define("opensnoop", columns), State: tools.Starting},
			{Definition: define("tcplife", columns), State: tools.Down, Reason: "no source serves here"},
			{Definition: define("biosnoop", columns), State: tools.Down, Reason: "above --tools.cpu-limit"},
			{Definition: define("tcpretrans", columns), State: tools.Off},
			{Definition: define("biolatency", empty), State: tools.Up, Source: empty},
			{Definition: define("cachestat", bpftrace, empty), State: tools.Up, Source: empty},
		},
		rings: map[string]*tools.Ring{
			"execsnoop": ring, "opensnoop": tools.NewRing(10), "tcplife": tools.NewRing(10), "biosnoop": ringOf("dd"), "tcpretrans": tools.NewRing(10),
		},
		ready: true,
	}
}

func ringOf(comm string) *tools.Ring {
	ring := tools.NewRing(10)
	ring.Add(execEvent(comm, "1", comm))
	return ring
}

func newConfig(fake *fakeTools) Config {
	return Config{
		Tools: fake,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "bpf_tool_up 1\n")
		}),
		Version: "1.2.3",
	}
}

func get(t *testing.T, h http.Handler, r *http.Request) (int, http.Header, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Header(), w.Body.String()
}

func TestRoutes(t *testing.T) {
	const (
		text = "text/plain; charset=utf-8"
		html = "text/html; charset=utf-8"
	)
	cases := []struct {
		method, target string
		code           int
		contentType    string
		allow          string
		body           string // part of it; all of it if it ends in a newline
	}{
		{"GET", "/", 200, html, "", "<h1>BPF tools exporter</h1>"},
		{"HEAD", "/", 200, html, "", ""},
		{"GET", "/tools", 200, html, "", "<h1>Tools</h1>"},
		{"GET", "/tools/execsnoop", 200, html, "", "<h1>execsnoop"},
		{"GET", "/tools/nosuch", 404, text, "", "no such tool: nosuch\n"},
		{"GET", "/tools/a%0ab%e2%80%ae", 404, text, "", `no such tool: a\nb\u202e` + "\n"},
		{"GET", "/tools/nosuch/events", 404, text, "", "no such tool: nosuch\n"},
		{"GET", "/tools/biolatency/events", 404, text, "", "biolatency counts without looking at single events\n"},
		{"GET", "/tools/cachestat/events", 404, text, "", "cachestat records no events with the source that serves here\n"},
		{"GET", "/tools/tcpretrans/events", 503, text, "", "tcpretrans is off: --collector.tcpretrans switches it on\n"},
		{"GET", "/tools/tcplife/events", 503, text, "", "tcplife is down: no source serves here\n"},
		{"GET", "/tools/biosnoop/events", 200, "application/x-ndjson", "", `"comm":"dd"`},
		{"GET", "/tools/opensnoop/events", 200, "application/x-ndjson", "", ""},
		{"GET", "/tools/execsnoop/events?n=0", 400, text, "", "n=\"0\": not a number from 1 to 1000\n"},
		{"GET", "/tools/execsnoop/events?n=1001", 400, text, "", "n=\"1001\": not a number from 1 to 1000\n"},
		{"GET", "/tools/execsnoop/events?n=", 400, text, "", "n=\"\": not a number from 1 to 1000\n"},
		{"GET", "/tools/execsnoop/events?follow=maybe", 400, text, "", "follow=\"maybe\": neither true nor false\n"},
		{"GET", "/tools/execsnoop/events?m=1", 400, text, "", "unknown parameter \"m\"\n"},
		{"GET", "/tools/execsnoop/events?n=%zz", 400, text, "", "query: invalid URL escape \"%zz\"\n"},
		{"GET", "/tools/execsnoop/events?follow=0&n=1", 200, "application/x-ndjson", "", `"pid":42`},
		{"GET", "/metrics", 200, text, "", "bpf_tool_up 1\n"},
		{"HEAD", "/metrics", 200, text, "", ""},
		{"GET", "/style.css", 200, "text/css; charset=utf-8", "", "color-scheme: light dark"},
		{"GET", "/-/healthy", 200, text, "", "healthy\n"},
		{"GET", "/-/ready", 200, text, "", "ready\n"},
		{"POST", "/-/reload", 403, text, "", "reload by HTTP is off: --web.enable-lifecycle allows it\n"},
		{"GET", "/-/reload", 405, text, "POST", "Method Not Allowed\n"},
		{"POST", "/", 405, text, "GET, HEAD", "Method Not Allowed\n"},
		{"POST", "/metrics", 405, text, "GET, HEAD", "Method Not Allowed\n"},
		{"DELETE", "/tools", 405, text, "GET, HEAD", "Method Not Allowed\n"},
		{"PUT", "/tools/execsnoop", 405, text, "GET, HEAD", "Method Not Allowed\n"},
		{"POST", "/tools/execsnoop/events", 405, text, "GET, HEAD", "Method Not Allowed\n"},
		{"GET", "/favicon.ico", 404, text, "", "404 page not found\n"},
		{"GET", "/tools/execsnoop/runs", 404, text, "", "404 page not found\n"},
		{"GET", "/debug/pprof/", 404, text, "", "404 page not found\n"},
		{"GET", "/assets/tool.html", 404, text, "", "404 page not found\n"},
	}
	h := Handler(newConfig(newFake()))
	for _, c := range cases {
		t.Run(c.method+" "+c.target, func(t *testing.T) {
			r := localRequest(c.target)
			r.Method = c.method
			code, header, body := get(t, h, r)
			if code != c.code || header.Get("Content-Type") != c.contentType && !strings.HasPrefix(c.target, "/metrics") {
				t.Errorf("got %d %s, want %d %s: %s", code, header.Get("Content-Type"), c.code, c.contentType, body)
			}
			if header.Get("Allow") != c.allow {
				t.Errorf("Allow %q, want %q", header.Get("Allow"), c.allow)
			}
			if strings.HasSuffix(c.body, "\n") && body != c.body || !strings.Contains(body, c.body) {
				t.Errorf("body %q, want %q", body, c.body)
			}
			if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Referrer-Policy") != "same-origin" ||
				!strings.Contains(header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
				t.Errorf("security headers are missing: %v", header)
			}
		})
	}
}

func TestTelemetryPath(t *testing.T) {
	for _, path := range []string{"/", "/prom", "/tools", "/a/{b", "no-slash"} {
		config := newConfig(newFake())
		config.TelemetryPath = path
		h := Handler(config)
		r := localRequest("/")
		r.URL.Path = path
		if code, _, body := get(t, h, r); code != 200 || body != "bpf_tool_up 1\n" {
			t.Errorf("%s: got %d %q", path, code, body)
		}
		if code, _, _ := get(t, h, localRequest("/metrics")); code != 404 {
			t.Errorf("%s: /metrics answers %d", path, code)
		}
	}
}

func TestOperatorsHeadersStay(t *testing.T) {
	h := Handler(newConfig(newFake()))
	w := httptest.NewRecorder()
	w.Header().Set("Content-Security-Policy", "frame-ancestors dashboards.example")
	h.ServeHTTP(w, localRequest("/"))
	if got := w.Header().Values("Content-Security-Policy"); !slices.Equal(got, []string{"frame-ancestors dashboards.example"}) {
		t.Errorf("got %q", got)
	}
}

func TestReady(t *testing.T) {
	fake := newFake()
	fake.ready = false
	code, _, body := get(t, Handler(newConfig(fake)), localRequest("/-/ready"))
	if want := "not ready, starting: opensnoop\n"; code != 503 || body != want {
		t.Errorf("got %d %q, want 503 %q", code, body, want)
	}
}

func TestReload(t *testing.T) {
	cases := []struct {
		name   string
		change func(*http.Request)
		err    error
		code   int
		body   string
		calls  int
	}{
		{"done", remote("192.0.2.1:1"), nil, 200, "reloaded\n", 1},
		{"refused", remote("192.0.2.1:1"), errors.New("a.yaml:3: no\nname"), 500, `reload: a.yaml:3: no\nname` + "\n", 1},
		{"own page", header("Sec-Fetch-Site", "same-origin"), nil, 200, "reloaded\n", 1},
		{"another site", header("Sec-Fetch-Site", "cross-site"), nil, 403, "cross-origin request detected from Sec-Fetch-Site header\n", 0},
		{"another origin", header("Origin", "https://attacker.example"), nil, 403,
			"cross-origin request detected, and/or browser is out of date: Sec-Fetch-Site is missing, and Origin does not match Host\n", 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			calls := 0
			config := newConfig(newFake())
			config.EnableLifecycle = true
			config.Reload = func() error { calls++; return c.err }
			r := localRequest("/-/reload")
			r.Method = http.MethodPost
			c.change(r)
			code, _, body := get(t, Handler(config), r)
			if code != c.code || body != c.body || calls != c.calls {
				t.Errorf("got %d %q and %d calls, want %d %q and %d", code, body, calls, c.code, c.body, c.calls)
			}
		})
	}
}

func TestPprof(t *testing.T) {
	config := newConfig(newFake())
	config.EnablePprof = true
	h := Handler(config)
	for _, path := range []string{"", "cmdline", "heap", "symbol"} {
		if code, _, body := get(t, h, localRequest("/debug/pprof/"+path)); code != 200 || body == "" {
			t.Errorf("%s: got %d, %d bytes", path, code, len(body))
		}
	}
}

func TestWantsJSON(t *testing.T) {
	cases := []struct {
		accept []string
		want   bool
	}{
		{nil, false},
		{[]string{"*/*"}, false},
		{[]string{"application/json"}, true},
		{[]string{"Application/JSON ; charset=utf-8"}, true},
		{[]string{"application/json, text/plain, */*"}, true},
		{[]string{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, false},
		{[]string{"text/html;q=0.5", "application/json;q=0.7"}, true},
		{[]string{"text/html, application/json;q=0.9"}, false},
		{[]string{"application/json;q=0"}, false},
		{[]string{"application/json;q=NaN"}, false},
		{[]string{"application/json;q=-1, text/html"}, false},
		{[]string{"application/jsonp"}, false},
	}
	for _, c := range cases {
		if got := wantsJSON(c.accept); got != c.want {
			t.Errorf("wantsJSON(%q) = %v", c.accept, got)
		}
	}
}

func TestJSON(t *testing.T) {
	h := Handler(newConfig(newFake()))
	r := localRequest("/tools/execsnoop")
	r.RemoteAddr = "192.0.2.1:1"
	r.Header.Set("Accept", "application/json")
	_, header, body := get(t, h, r)
	want := `{"name":"execsnoop","help":"Help of execsnoop","mode":"continuous","default":true,"state":"up","reason":"",` +
		`"source":{"backend":"libbpf-tools","version":"0.31.0","path":"/usr/sbin/execsnoop"},` +
		`"rejected":[{"backend":"bpftrace","reason":"not installed: \u003cbpftrace\u003e"}],"self_test":{"result":"passed","reason":"ran 9 programs; saw just that"},"docs":["https://docs.example/execsnoop"],` +
		`"metrics":[{"name":"bpf_execsnoop_execs_total","type":"counter","help":"New processes.","labels":["comm","result"]}],` +
		`"events":{"counted":1234567,"lost":3,"not_shown":4},"parse_errors":5,"restarts":{"exit":1,"silent":0},"pid":4242,` +
		`"cost":{"user_seconds":1.5,"system_seconds":0.25,"bpf_seconds":0.125,"resident_bytes":2097152,"map_bytes":81788928}}` + "\n"
	if body != want {
		t.Errorf("got\n%s\nwant\n%s", body, want)
	}
	if header.Get("Content-Type") != "application/json" || header.Get("Vary") != "Accept" {
		t.Errorf("header %v", header)
	}

	r = localRequest("/tools")
	r.Header.Set("Accept", "application/json")
	_, _, body = get(t, h, r)
	var all []Tool
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range all {
		names = append(names, tool.Name)
	}
	if want := []string{"execsnoop", "opensnoop", "tcplife", "biosnoop", "tcpretrans", "biolatency", "cachestat"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	if strings.Contains(strings.ReplaceAll(body, `"source":null`, ""), "null") {
		t.Errorf("null in %s", body)
	}
}

func TestNoTools(t *testing.T) {
	h := Handler(newConfig(&fakeTools{}))
	r := localRequest("/tools")
	r.Header.Set("Accept", "application/json")
	if _, _, body := get(t, h, r); body != "[]\n" {
		t.Errorf("got %q", body)
	}
	if _, _, body := get(t, h, localRequest("/")); !strings.Contains(body, "The catalogue holds no tools.") {
		t.Errorf("got %q", body)
	}
}

func TestListPage(t *testing.T) {
	fake := newFake()
	_, _, body := get(t, Handler(newConfig(fake)), localRequest("/"))
	for _, want := range []string{
		`<a href="./tools/execsnoop">execsnoop</a>`,
		`<span class="state up">up</span>`,
		`libbpf-tools 0.31.0`,
		"1\u2009234\u2009567",
		`no source serves here`,
		`--collector.tcpretrans switches it on`,
		`<a href="./metrics">Metrics</a>`,
		`Version 1.2.3`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("page lacks %q", want)
		}
	}
	if fake.refreshed != 1 {
		t.Errorf("refreshed %d times", fake.refreshed)
	}
}

func TestToolPage(t *testing.T) {
	h := Handler(newConfig(newFake()))
	_, _, body := get(t, h, localRequest("/tools/execsnoop"))
	for _, want := range []string{
		`<link rel="stylesheet" href="../style.css?1.2.3">`,
		`<a href="https://docs.example/execsnoop">`,
		`not installed: &lt;bpftrace&gt;`,
		`bpf_execsnoop_execs_total`, `counter by comm, result`,
		`<dd>exit 1</dd>`, `<dd>1.50 s</dd>`, `<dd>250 ms</dd>`, `<dd>125 ms</dd>`, `<dd>2.0 MiB</dd>`, `<dd>78.0 MiB</dd>`,
		`&lt;script&gt;alert(1)&lt;/script&gt;`,
		`&#34;quoted&#34; &#39;single&#39; \xff \u202etxt.exe \u001b[2J`,
		`sh -c &lt;b&gt;date&lt;/b&gt;`,
		`href="execsnoop/events?n=1000"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("page lacks %q", want)
		}
	}
	for _, never := range []string{"<script>", "<b>", "\xff", "\u202e", "\x1b", "ZgotmplZ"} {
		if strings.Contains(body, never) {
			t.Errorf("page holds %q", never)
		}
	}

	_, _, body = get(t, h, localRequest("/tools/biolatency"))
	if strings.Contains(body, "Recent events") {
		t.Error("a tool without events has a table of them")
	}
	_, _, body = get(t, h, localRequest("/tools/opensnoop"))
	if !strings.Contains(body, "None yet.") {
		t.Error("a tool that has seen nothing does not say so")
	}
}

// TestOpenPathsHideEvents asks from another host for all that is open.
func TestOpenPathsHideEvents(t *testing.T) {
	h := Handler(newConfig(newFake()))
	for _, path := range []string{"/", "/tools", "/tools/execsnoop", "/tools/biosnoop", "/metrics", "/-/healthy", "/-/ready"} {
		for _, accept := range []string{"text/html", "application/json"} {
			r := localRequest(path)
			r.RemoteAddr = "192.0.2.1:40000"
			r.Header.Set("Accept", accept)
			code, _, body := get(t, h, r)
			if code != 200 {
				t.Errorf("%s: got %d", path, code)
			}
			for _, secret := range []string{"alert(1)", "quoted", "date", "<td class=\"value\">"} {
				if strings.Contains(body, secret) {
					t.Errorf("%s as %s shows %q", path, accept, secret)
				}
			}
		}
	}
	r := localRequest("/tools/execsnoop")
	r.RemoteAddr = "192.0.2.1:40000"
	if _, _, body := get(t, h, r); !strings.Contains(body, "basic_auth_users or client certificates in --web.config.file") {
		t.Error("the page does not say how to see events")
	}
	r = localRequest("/tools/execsnoop/events")
	r.RemoteAddr = "192.0.2.1:40000"
	code, _, body := get(t, h, r)
	want := errRestricted.Error() + ": this client is on another host\n"
	if code != 403 || body != want {
		t.Errorf("got %d %q, want 403 %q", code, body, want)
	}
}

func TestEvents(t *testing.T) {
	h := Handler(newConfig(newFake()))
	_, _, body := get(t, h, localRequest("/tools/execsnoop/events"))
	want := `{"time":"2026-11-22T18:30:05.123456Z","comm":"<script>alert(1)</script>","pid":42,` +
		`"args":"\"quoted\" 'single' ` + "\ufffd" + ` \u202etxt.exe \u001b[2J"}` + "\n" +
		`{"time":"2026-11-22T18:30:05.123456Z","comm":"sh","pid":41,"args":"sh -c <b>date</b>"}` + "\n"
	if body != want {
		t.Errorf("got\n%s\nwant\n%s", body, want)
	}

	fake := newFake()
	for i := range 1500 {
		fake.rings["execsnoop"].Add(execEvent("x", fmt.Sprint(i), ""))
	}
	h = Handler(newConfig(fake))
	for query, lines := range map[string]int{"": 100, "?n=1": 1, "?n=1000": 1000} {
		_, _, body := get(t, h, localRequest("/tools/execsnoop/events"+query))
		if got := strings.Count(body, "\n"); got != lines {
			t.Errorf("%q: got %d lines, want %d", query, got, lines)
		}
		if !strings.Contains(strings.SplitN(body, "\n", 2)[0], `"pid":1499`) {
			t.Errorf("%q: the newest is not the first", query)
		}
	}
}

// follow opens a stream on a real server.
func follow(t *testing.T, ctx context.Context, server *httptest.Server) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/tools/execsnoop/events?follow", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func TestFollow(t *testing.T) {
	fake := newFake()
	done := make(chan struct{})
	config := newConfig(fake)
	config.Done = done
	server := httptest.NewServer(Handler(config))
	defer server.Close()

	response := follow(t, t.Context(), server)
	defer response.Body.Close()
	// The header has come, so the ring is being followed.
	lines := bufio.NewReader(response.Body)
	for _, pid := range []string{"100", "101"} {
		fake.rings["execsnoop"].Add(execEvent("new", pid, ""))
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if want := `{"time":"2026-11-22T18:30:05.123456Z","comm":"new","pid":` + pid + "}\n"; line != want {
			t.Errorf("got %q, want %q", line, want)
		}
	}
	close(done)
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("the stream ends with %q, %v", rest, err)
	}
}

func TestFollowLimit(t *testing.T) {
	server := httptest.NewServer(Handler(newConfig(newFake())))
	defer server.Close()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range maxStreams {
		response := follow(t, ctx, server)
		defer response.Body.Close()
		if response.StatusCode != 200 {
			t.Fatalf("got %s", response.Status)
		}
	}
	response := follow(t, t.Context(), server)
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if want := "16 clients follow events already\n"; err != nil || response.StatusCode != 503 || string(body) != want {
		t.Errorf("got %s %q %v, want 503 %q", response.Status, body, err, want)
	}

	leave() // all of them; their places become free as the server notices
	for {
		response := follow(t, t.Context(), server)
		code := response.StatusCode
		response.Body.Close()
		if code == 200 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// askAndStall asks for a path and reads nothing of the answer.
func askAndStall(t *testing.T, server *httptest.Server, path string) {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

// TestFollowStuckClient has a client that reads nothing, while events come
// until the buffers between are full and the deadline of a write passes.
func TestFollowStuckClient(t *testing.T) {
	fake := newFake()
	handling := newServer(newConfig(fake))
	handling.writeTimeout = 50 * time.Millisecond
	ended := make(chan struct{})
	handler := handling.handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	askAndStall(t, server, "/tools/execsnoop/events?follow")
	large := execEvent("new", "1", strings.Repeat("x", 1<<20))
	for {
		select {
		case <-ended:
			return
		case <-time.After(time.Millisecond):
			fake.rings["execsnoop"].Add(large)
		}
	}
}

// A client that reads nothing of a long answer is cut off; one that reads slowly
// gets all of it, however long that takes, and the connection serves on.
func TestTimely(t *testing.T) {
	const within, size = time.Second, 8 << 20
	ended := make(chan error, 1)
	server := httptest.NewServer(timely(within, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := w.Write(make([]byte, size))
		if err == nil && n != size {
			t.Errorf("wrote %d of %d bytes", n, size)
		}
		ended <- err
	})))
	defer server.Close()
	askAndStall(t, server, "/")
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("to a client that reads nothing: %v", err)
	}

	begin := time.Now()
	for range 2 {
		response, err := server.Client().Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		var got int64
		for err == nil {
			var n int64
			n, err = io.CopyN(io.Discard, response.Body, size/16)
			got += n
			time.Sleep(within / 8)
		}
		response.Body.Close()
		if got != size || err != io.EOF {
			t.Errorf("read slowly: %d of %d bytes, %v", got, size, err)
		}
		if err := <-ended; err != nil {
			t.Errorf("to a client that reads slowly: %v", err)
		}
	}
	if took := time.Since(begin); took < 2*within {
		t.Errorf("it read for %s only, which proves nothing", took)
	}
}

func TestFollowHead(t *testing.T) {
	h := Handler(newConfig(newFake()))
	r := localRequest("/tools/execsnoop/events?follow")
	r.Method = http.MethodHead
	if code, _, body := get(t, h, r); code != 200 || body != "" {
		t.Errorf("got %d %q", code, body)
	}
}

func TestFormats(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 9999: "9999", 10000: "10\u2009000", 1234567: "1\u2009234\u2009567"} {
		if got := formatCount(n); got != want {
			t.Errorf("formatCount(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 81788928: "78.0 MiB", 1<<64 - 1: "16.0 EiB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("formatBytes(%d) = %q, want %q", n, got, want)
		}
	}
	for s, want := range map[float64]string{0: "0 s", 0.00025: "0.25 ms", 0.25: "250 ms", 1.5: "1.50 s", 12.34: "12.3 s", 1234.5: "1234 s"} {
		if got := formatSeconds(s); got != want {
			t.Errorf("formatSeconds(%v) = %q, want %q", s, got, want)
		}
	}
}
