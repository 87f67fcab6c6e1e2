package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// cannotHaveData are queries, by a part of them, that no work of this test can
// give an answer, with the reason.
var cannotHaveData = map[string]string{
	"bpf_tool_events_lost_total{job=~\"$job\", instance=~\"$instance\"}[$__rate_interval])) > 0": "nothing is lost while nothing is wrong",
	"bpf_tool_parse_errors_total":  "bpftrace prints no line that makes no sense",
	"bpf_tool_stale_scrapes_total": "the tools answer in time",
}

// A dashboard's panel, as far as this test reads it.
type panelFile struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ H, Y int }
	Panels                   []panelFile
	Targets                  []struct {
		RefID, Expr, LegendFormat string
		Instant                   bool
		Datasource                struct{ Type string }
	}
	Transformations []struct {
		ID      string
		Options struct{ IndexByName map[string]int }
	}
}

type dashboardFile struct {
	UID, Title string
	Panels     []panelFile
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
}

// loadDashboards reads the dashboards with their panels in one list each.
func loadDashboards(t *testing.T) []dashboardFile {
	t.Helper()
	files, err := filepath.Glob("../../dashboards/*.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("dashboards %q: %v", files, err)
	}
	var all []dashboardFile
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboardFile
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var flat []panelFile
		for _, p := range d.Panels {
			flat = append(append(flat, p), p.Panels...)
		}
		d.Panels = flat
		all = append(all, d)
	}
	return all
}

// Every query of every panel, and every rule, is asked of a real Prometheus
// after work for every tool: of one that ingests native histograms and of one
// that does not. The two headline alerts fire meanwhile, and none before.
func TestLiveDashboards(t *testing.T) {
	needLive(t, "/usr/bin/prometheus", "/usr/sbin/nft", "/usr/sbin/ip")
	e := startExporter(t, "--collector.opensnoop", "--collector.ext4slower", "--collector.biosnoop", "--collector.execsnoop.failed",
		"--events.log="+filepath.Join(t.TempDir(), "events.log"))
	e.stopWithin = detachTimeout
	rules := quickRules(t)
	servers := map[string]string{
		"native":  startPrometheusWith(t, e, rules, "--enable-feature=native-histograms"),
		"classic": startPrometheusWith(t, e, rules),
	}
	t.Run("idle", func(t *testing.T) { expectQuiet(t, servers) })
	restart(t, e)
	begin := time.Now()
	work := startWork(t)
	t.Run("alerts", func(t *testing.T) {
		for _, alert := range []string{"BPFExecStorm", "BPFRetransmits"} {
			expectAlert(t, servers["native"], alert)
			expectAlert(t, servers["classic"], alert)
		}
	})
	for range 12 {
		work.step(t)
		time.Sleep(time.Second)
	}
	for range 2 {
		e.mustGet(t, "/probe?tool=runqlat&duration=2s")
		e.mustGet(t, "/pprof/profile?seconds=1")
		time.Sleep(2 * time.Second) // two scrapes at least
	}
	work.stop(t)
	for _, form := range []string{"native", "classic"} {
		p := &prometheusServer{address: servers[form], begin: begin, native: form == "native", exporter: strings.TrimPrefix(e.url, "http://")}
		t.Run(form, func(t *testing.T) {
			for _, d := range loadDashboards(t) {
				t.Run(d.UID, func(t *testing.T) { p.checkDashboard(t, d) })
			}
			t.Run("rules", func(t *testing.T) { p.checkRules(t) })
		})
	}
	if dir := os.Getenv("DASHBOARD_PICTURES"); dir != "" {
		drawPictures(t, &prometheusServer{address: servers["native"], begin: begin, native: true, exporter: strings.TrimPrefix(e.url, "http://")}, dir)
	}
}

// drawPictures draws the dashboards with what they have shown, for the
// documentation (make pictures).
func drawPictures(t *testing.T, p *prometheusServer, dir string) {
	page, err := os.ReadFile("../../dashboards/preview/preview.html")
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob("../../dashboards/*.json")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboardFile
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		answers, height := make(map[string]json.RawMessage), 0
		for _, panel := range d.Panels {
			height = max(height, 30*(panel.GridPos.Y+panel.GridPos.H))
			for _, target := range panel.Targets {
				var data struct{ Result json.RawMessage }
				if err := p.fetch(p.fill(target.Expr), target.Instant, &data); err != nil {
					t.Fatal(err)
				}
				answers[fmt.Sprintf("%d/%s", panel.ID, target.RefID)] = data.Result
			}
		}
		data, err := json.Marshal(map[string]any{"dashboard": json.RawMessage(text), "answers": answers})
		if err != nil {
			t.Fatal(err)
		}
		html := filepath.Join(t.TempDir(), "preview.html")
		if err := os.WriteFile(html, []byte(strings.Replace(string(page), "/*DATA*/ null", string(data), 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		picture := filepath.Join(dir, strings.TrimSuffix(filepath.Base(file), ".json")+".png")
		if out, err := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=0.6",
			fmt.Sprintf("--window-size=1362,%d", height+20), "--screenshot="+picture, "file://"+html).CombinedOutput(); err != nil {
			t.Fatalf("chromium: %v\n%s", err, out)
		}
		if err := shrinkPicture(picture); err != nil {
			t.Fatal(err)
		}
	}
}

// shrinkPicture leaves a picture its commonest colours.
func shrinkPicture(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	picture, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return err
	}
	// Four bits of each: what blends two colours need not be one of its own.
	coarse := func(c color.Color) color.Color {
		r, g, b, _ := c.RGBA()
		return color.RGBA{uint8(r>>8) &^ 15, uint8(g>>8) &^ 15, uint8(b>>8) &^ 15, 255}
	}
	counts := make(map[color.Color]int)
	area := picture.Bounds()
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			counts[coarse(picture.At(x, y))]++
		}
	}
	palette := color.Palette(slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return counts[b] - counts[a] }))
	small := image.NewPaletted(area, palette[:min(64, len(palette))])
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			small.Set(x, y, coarse(picture.At(x, y)))
		}
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, small); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// quickRules copies the rules with windows of seconds, and returns what loads
// them. Only times change.
func quickRules(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"bpf-tools-recording.yml", "bpf-tools-alerts.yml"} {
		text, err := os.ReadFile(filepath.Join("../../packaging/prometheus/rules", name))
		if err != nil {
			t.Fatal(err)
		}
		quick := regexp.MustCompile(`(?m)^( *for|    interval): .*$`).ReplaceAllString(string(text), "$1: 3s")
		quick = strings.NewReplacer("[5m]", "[15s]", "offset 30m", "offset 5m", "offset 1h", "offset 5m", "[1h:5m]", "[20s:5s]").Replace(quick)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(quick), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("rule_files: ['%s/*.yml']\n", dir)
}

// A workload gives each tool something to see.
type workload struct {
	execs, retransmits *helper
	device, dir        string
	// Names that stay: of a series that is new, rate() sees nothing.
	failing, server, client string
}

func startWork(t *testing.T) *workload {
	t.Helper()
	w := &workload{device: loopDevice(t, 32<<20), dir: t.TempDir(), failing: uniqueName("failing"), server: uniqueName("srv"), client: uniqueName("cli")}
	w.execs = startHelper(t, uniqueName("storm"), "execs", tinyProgram(t, uniqueName("stormy")), "0", "300")
	w.retransmits = startRetransmits(t)
	return w
}

// step is what happens once a second.
func (w *workload) step(t *testing.T) {
	t.Helper()
	directIO(t, w.device, 40, 40)
	file := filepath.Join(w.dir, "file")
	if err := os.WriteFile(file, make([]byte, 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(f.Sync(), f.Close(), evict(file))
	for range 2 { // from the disk, then from the page cache
		_, readErr := os.ReadFile(file)
		err = errors.Join(err, readErr)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, _ = os.Open(filepath.Join(w.dir, "missing"))
	runSessions(t, w.server, w.client, "127.0.0.1", 5, 1000, 5000)
	runHelper(t, w.failing, "failing-execs", "/nonexistent", "20")
}

func (w *workload) stop(t *testing.T) {
	t.Helper()
	w.execs.finish(t)
	w.retransmits.finish(t)
}

// startRetransmits starts sessions in a network namespace that loses their data,
// until the helper's stdin ends.
func startRetransmits(t *testing.T) *helper {
	t.Helper()
	h := startHelperIn(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET}, uniqueName("lossy"), "lossy-sessions", "198.51.100.7", "20")
	h.line(t)
	return h
}

// A prometheusServer is asked what the dashboards ask.
type prometheusServer struct {
	address, exporter string
	native            bool
	begin             time.Time
}

const rateInterval, queryRange = "5s", 60 * time.Second

// fill puts values in the place of a dashboard's variables.
func (p *prometheusServer) fill(expr string) string {
	form := "_bucket"
	if p.native {
		form = "()"
	}
	return strings.NewReplacer("$__rate_interval", rateInterval, "$__range", fmt.Sprintf("%.0fs", queryRange.Seconds()), "$job", "bpf_tools",
		"$instance", p.exporter, "$histograms", form, "$disk", ".+").Replace(expr)
}

func (p *prometheusServer) checkDashboard(t *testing.T, d dashboardFile) {
	p.checkVariables(t, d)
	for _, panel := range d.Panels {
		var seen []string
		asked := 0
		for _, target := range panel.Targets {
			where := fmt.Sprintf("%s, query %s: %s", panel.Title, target.RefID, target.Expr)
			if target.Datasource.Type != "prometheus" {
				continue // Loki and Pyroscope are optional and not here
			}
			answer, err := p.ask(p.fill(target.Expr), target.Instant)
			if err != nil {
				t.Errorf("%s: %v", where, err)
				continue
			}
			if whyNoData(target.Expr) != "" {
				continue
			}
			asked++
			if fault := p.judge(panel.Type, answer); fault != "" {
				t.Errorf("%s: %s", where, fault)
			}
			for _, series := range answer {
				for label := range series.Metric {
					seen = append(seen, label)
				}
				if fault := legendFault(target.LegendFormat, series.Metric); fault != "" && !target.Instant {
					t.Errorf("%s: %s", where, fault)
				}
			}
		}
		if asked > 0 && panel.Type == "table" {
			expectColumns(t, panel, seen)
		}
	}
}

func whyNoData(expr string) string {
	for part, reason := range cannotHaveData {
		if strings.Contains(expr, part) {
			return reason
		}
	}
	return ""
}

// checkVariables asks what label_values() of a variable does.
func (p *prometheusServer) checkVariables(t *testing.T, d dashboardFile) {
	t.Helper()
	for _, v := range d.Templating.List {
		query, ok := v.Query.(map[string]any)
		if v.Type != "query" || !ok {
			continue
		}
		match := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`).FindStringSubmatch(query["query"].(string))
		if match == nil {
			t.Errorf("%s: variable %s: %v", d.UID, v.Name, query)
			continue
		}
		var values []string
		err := p.get("/api/v1/label/"+match[2]+"/values", url.Values{"match[]": {p.fill(match[1])}}, &values)
		if err != nil || len(values) == 0 {
			t.Errorf("%s: variable %s has %q: %v", d.UID, v.Name, values, err)
		}
	}
}

// sampleSeries is a series of an answer, of one value or many.
type sampleSeries struct {
	Metric     map[string]string
	Value      [2]any
	Values     [][2]any
	Histogram  *[2]json.RawMessage
	Histograms [][2]json.RawMessage
}

func (p *prometheusServer) ask(expr string, instant bool) ([]sampleSeries, error) {
	var data struct{ Result []sampleSeries }
	err := p.fetch(expr, instant, &data)
	return data.Result, err
}

// fetch asks for now, or for the time since the work began.
func (p *prometheusServer) fetch(expr string, instant bool, data any) error {
	if instant {
		return p.get("/api/v1/query", url.Values{"query": {expr}}, data)
	}
	return p.get("/api/v1/query_range", url.Values{"query": {expr}, "step": {"1"},
		"start": {fmt.Sprint(p.begin.Unix())}, "end": {fmt.Sprint(time.Now().Unix())}}, data)
}

func (p *prometheusServer) get(path string, parameters url.Values, data any) error {
	answer, err := http.Get("http://" + p.address + path + "?" + parameters.Encode())
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	reply := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(answer.Body).Decode(&reply); err != nil {
		return err
	}
	if reply.Status != "success" {
		return errors.New(reply.Error)
	}
	return nil
}

// judge says what is wrong with an answer, "" for nothing.
func (p *prometheusServer) judge(panel string, answer []sampleSeries) string {
	if len(answer) == 0 {
		return "no series"
	}
	finite, histograms, buckets := 0, 0, make(map[string]bool)
	for _, series := range answer {
		values := series.Values
		if series.Value[1] != nil {
			values = append(values, series.Value)
		}
		for _, value := range values {
			number, err := strconv.ParseFloat(value[1].(string), 64)
			if err != nil {
				return err.Error()
			}
			if number < 0 {
				return fmt.Sprintf("negative: %v of %v", number, series.Metric)
			}
			if !math.IsNaN(number) && !math.IsInf(number, 0) {
				finite++
			}
			if number > 0 && series.Metric["le"] != "" {
				buckets[series.Metric["le"]] = true
			}
		}
		if series.Histogram != nil {
			series.Histograms = append(series.Histograms, *series.Histogram)
		}
		for _, at := range series.Histograms {
			var h struct{ Buckets [][]any }
			if err := json.Unmarshal(at[1], &h); err != nil {
				return err.Error()
			}
			histograms++
			for _, bucket := range h.Buckets {
				buckets[fmt.Sprint(bucket[2])] = true
			}
		}
	}
	switch {
	case panel != "heatmap" && histograms > 0:
		return "native histograms where numbers are drawn"
	case panel == "heatmap" && finite > 0 && histograms > 0:
		return "native and classic histograms at once"
	case panel == "heatmap" && len(buckets) < 2:
		return fmt.Sprintf("%d buckets, want more than one", len(buckets))
	case panel != "heatmap" && finite == 0:
		return "no number that is one"
	}
	return ""
}

// legendFault tells of a label that a legend names and that a series has not.
func legendFault(legend string, labels map[string]string) string {
	for _, match := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(legend, -1) {
		if labels[match[1]] == "" && match[1] != "le" {
			return fmt.Sprintf("no label %s in %v", match[1], labels)
		}
	}
	return ""
}

// expectColumns checks that the answers have the labels that a table orders.
func expectColumns(t *testing.T, panel panelFile, labels []string) {
	t.Helper()
	for _, transformation := range panel.Transformations {
		for column := range transformation.Options.IndexByName {
			if !strings.HasPrefix(column, "Value") && !slices.Contains(labels, column) {
				t.Errorf("%s: no label %s in the answers", panel.Title, column)
			}
		}
	}
}

// checkRules asks for what recording rules record, for what alerts are about,
// and whether Prometheus could evaluate them all.
func (p *prometheusServer) checkRules(t *testing.T) {
	var state struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.get("/api/v1/rules", nil, &state); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, group := range state.Groups {
		for _, rule := range group.Rules {
			n++
			if rule.Health != "ok" {
				t.Errorf("%s is %s: %s", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	if n < 20 {
		t.Errorf("%d rules are loaded", n)
	}
	for _, rule := range readRules(t) {
		if rule.Record != "" {
			answer, err := p.ask(rule.Record, false)
			if fault := p.judge("", answer); err != nil || fault != "" {
				t.Errorf("%s: %s (%v)", rule.Record, fault, err)
			}
			continue
		}
		for _, selector := range regexp.MustCompile(`\b(bpf_\w+|up|instance\w*:[\w:]+)(\{[^}]*\})?`).FindAllString(rule.Expr, -1) {
			if whyNoData(selector) != "" {
				continue
			}
			answer, err := p.ask(selector, false)
			if fault := p.judge("", answer); err != nil || fault != "" {
				t.Errorf("%s: %s: %s (%v)", rule.Alert, selector, fault, err)
			}
		}
	}
}

type ruleFile struct{ Alert, Record, Expr string }

func readRules(t *testing.T) (all []ruleFile) {
	t.Helper()
	for _, name := range []string{"bpf-tools-recording.yml", "bpf-tools-alerts.yml"} {
		text, err := os.ReadFile(filepath.Join("../../packaging/prometheus/rules", name))
		if err != nil {
			t.Fatal(err)
		}
		var file struct{ Groups []struct{ Rules []ruleFile } }
		if err := yaml.Unmarshal(text, &file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, group := range file.Groups {
			all = append(all, group.Rules...)
		}
	}
	return all
}

// expectQuiet waits until no alert has fired for a while. Others may work on this
// machine, so it need not be now.
func expectQuiet(t *testing.T, servers map[string]string) {
	t.Helper()
	var fired string
	for range attempts {
		begin := time.Now()
		time.Sleep(8 * time.Second)
		fired = ""
		for name, server := range servers {
			answer, err := (&prometheusServer{address: server, begin: begin}).ask(`ALERTS{alertstate="firing"}`, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, series := range answer {
				fired += fmt.Sprintf("%s: %v\n", name, series.Metric)
			}
		}
		if fired == "" {
			return
		}
		t.Log(fired)
	}
	t.Errorf("alerts fire on an idle machine:\n%s", fired)
}

// restart kills the exporter's bpftrace and waits for the next one.
func restart(t *testing.T, e *exporter) {
	t.Helper()
	if err := syscall.Kill(descendants(e.pid)[0].pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the tools are up again", func() error {
		now := e.scrape(t)
		if up, restarts := now.sum("bpf_tool_up", labels{"tool": "execsnoop"}), now.sum("bpf_tool_restarts_total", nil); up == 0 || restarts == 0 {
			return fmt.Errorf("up %v, restarts %v", up, restarts)
		}
		return nil
	})
}

// alertStates are the states of the alerts that are not inactive, by name.
func alertStates(t *testing.T, server string) map[string]string {
	t.Helper()
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	p := &prometheusServer{address: server}
	if err := p.get("/api/v1/alerts", nil, &data); err != nil {
		t.Fatal(err)
	}
	states := make(map[string]string)
	for _, alert := range data.Alerts {
		if states[alert.Labels["alertname"]] != "firing" {
			states[alert.Labels["alertname"]] = alert.State
		}
	}
	return states
}

// expectAlert waits until an alert has been pending and fires.
func expectAlert(t *testing.T, server, name string) {
	t.Helper()
	pending := false
	eventually(t, time.Minute, name+" fires", func() error {
		state := alertStates(t, server)[name]
		pending = pending || state == "pending"
		if state != "firing" {
			return fmt.Errorf("it is %q", state)
		}
		return nil
	})
	// What it was before is in the series ALERTS, however slow this test is.
	p := &prometheusServer{address: server, begin: time.Now().Add(-time.Minute)}
	answer, err := p.ask(fmt.Sprintf(`ALERTS{alertname=%q, alertstate="pending"}`, name), false)
	if err != nil || !pending && len(answer) == 0 {
		t.Errorf("%s was never pending (%v)", name, err)
	}
}

// lossySessionsHelper runs in an empty network namespace, in which data is
// dropped where it arrives: it begins so many sessions a second over an address and
// gives each up after two seconds. It writes "started" and ends with stdin.
func lossySessionsHelper(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := commands([]string{"ip", "link", "set", "lo", "up"}, []string{"ip", "address", "add", args[0] + "/32", "dev", "lo"},
		[]string{"nft", "add table inet live"}, []string{"nft", "add chain inet live in { type filter hook input priority 0; }"},
		[]string{"nft", "add rule inet live in tcp flags & psh == psh drop"}); err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(args[0], "0"))
	if err != nil {
		return err
	}
	go func() {
		for {
			if c, err := l.Accept(); err == nil {
				go func() { _, _ = io.Copy(io.Discard, c); c.Close() }()
			}
		}
	}()
	go func() {
		for range time.Tick(time.Second / time.Duration(n)) {
			if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
				_, _ = c.Write([]byte("lost"))
				_ = c.(*net.TCPConn).SetLinger(0)
				time.AfterFunc(2*time.Second, func() { c.Close() })
			}
		}
	}()
	fmt.Println("started")
	return waitHelper(nil)
}
