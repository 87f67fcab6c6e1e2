package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the dashboards")

// The files are what the code says; change the code, then "go run ./dashboards".
func TestFilesAreCurrent(t *testing.T) {
	files, err := filepath.Glob("*.json")
	if err != nil || len(files) != len(all()) {
		t.Errorf("%d files, %d dashboards (%v)", len(files), len(all()), err)
	}
	for name, d := range all() {
		want, err := marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the code says (%v): go run ./dashboards", name, err)
		}
	}
}

// load reads the files as Grafana does: the rules below are for them, however
// they were made.
func load(t *testing.T) map[string]*dashboard {
	t.Helper()
	loaded := make(map[string]*dashboard)
	for name := range all() {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		d := new(dashboard)
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		loaded[name] = d
	}
	return loaded
}

// The files compile as what Grafana's own types say they are ("make schema").
// That takes npm and its registry, which not every machine has.
func TestGrafanaTypes(t *testing.T) {
	if testing.Short() {
		t.Skip("installs a compiler: not with -short")
	}
	if _, err := exec.LookPath("npm"); err != nil {
		unable(t, "needs npm (make deps)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	npm := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "npm", args...)
		cmd.Dir, cmd.WaitDelay = "schema", time.Second
		return cmd.CombinedOutput()
	}
	if out, err := npm("install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"); err != nil {
		unable(t, fmt.Sprintf("npm install: %v: %s", err, out))
	}
	if out, err := npm("run", "--silent", "check"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// unable skips a test with the reason, and fails it under CI, which has all that
// tests need.
func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// flat are all panels, those in closed rows too.
func flat(panels []*panel) (found []*panel) {
	for _, p := range panels {
		found = append(append(found, p), flat(p.Panels)...)
	}
	return found
}

func TestConventions(t *testing.T) {
	uids := make(map[string]string)
	for name, d := range load(t) {
		if other := uids[d.UID]; other != "" || !regexp.MustCompile(`^bpf-tools(-[a-z]+)?$`).MatchString(d.UID) {
			t.Errorf("%s: uid %q is no uid of ours, or that of %q", name, d.UID, other)
		}
		uids[d.UID] = name
		if d.Title == "" || d.Description == "" || !slices.Contains(d.Tags, tag) || d.SchemaVersion < 39 {
			t.Errorf("%s: title %q, description %q, tags %q, schema %d", name, d.Title, d.Description, d.Tags, d.SchemaVersion)
		}
		checkVariables(t, name, d)
		ids := make(map[int]bool)
		for _, p := range flat(d.Panels) {
			where := name + ": " + p.Title
			if ids[p.ID] || p.ID == 0 {
				t.Errorf("%s: id %d is not its own", where, p.ID)
			}
			ids[p.ID] = true
			if p.Type != "row" {
				checkPanel(t, where, p)
			}
		}
		checkPlaces(t, name, d.Panels)
	}
}

func checkVariables(t *testing.T, name string, d *dashboard) {
	t.Helper()
	text, _ := os.ReadFile(name)
	defined := map[string]bool{"__rate_interval": true, "__range": true, "__url_time_range": true, "__value": true, "__data": true, "__all": true}
	for _, v := range d.Templating.List {
		defined[v["name"].(string)] = true
	}
	for _, want := range []string{"datasource", "job", "instance", "histograms"} {
		if !defined[want] {
			t.Errorf("%s: no variable %s", name, want)
		}
	}
	for _, match := range regexp.MustCompile(`\$\{?([a-zA-Z_]\w*)`).FindAllStringSubmatch(string(text), -1) {
		if !defined[match[1]] {
			t.Errorf("%s: variable %q is not defined", name, match[1])
		}
	}
}

var (
	rangeVector = regexp.MustCompile(`\[([^\]]*)\]`)
	quoted      = regexp.MustCompile(`"[^"]*"`)
	selectors   = regexp.MustCompile(`\{[^}]*\}`)
	byTool      = regexp.MustCompile(`^(execsnoop|opensnoop|ext4slower|biolatency|biosnoop|cachestat|tcplife|tcpretrans|runqlat|profile): `)
)

func checkPanel(t *testing.T, where string, p *panel) {
	t.Helper()
	if len(p.Description) < 80 {
		t.Errorf("%s: description %q does not say how to read it", where, p.Description)
	}
	if tool := byTool.FindStringSubmatch(p.Title); tool != nil && !strings.Contains(p.Description, "]("+docs(tool[1])+")") {
		t.Errorf("%s: no link to the tool's documentation", where)
	}
	if len(p.Targets) == 0 || p.Datasource == nil || !strings.HasPrefix(p.Datasource.UID, "${") {
		t.Errorf("%s: %d queries of data source %v: want one that a variable chooses", where, len(p.Targets), p.Datasource)
	}
	if p.Type != "flamegraph" && p.Datasource.Type == "prometheus" && !strings.Contains(marshalled([]*panel{p}), `"unit"`) {
		t.Errorf("%s: no unit", where)
	}
	for _, q := range p.Targets {
		if *q.Datasource != *p.Datasource {
			t.Errorf("%s: query of another data source", where)
		}
		if q.Datasource.Type == "prometheus" {
			checkQuery(t, where, p, q)
		}
	}
}

func checkQuery(t *testing.T, where string, p *panel, q *target) {
	t.Helper()
	isTable := p.Type == "table" || p.Type == "nodeGraph"
	if q.Instant != isTable || q.Range == isTable || isTable != (q.Format == "table") || (p.Type == "heatmap") != (q.Format == "heatmap") {
		t.Errorf("%s: a %s has a query with instant %v, range %v, format %q", where, p.Type, q.Instant, q.Range, q.Format)
	}
	want := "$__rate_interval"
	if isTable {
		want += " $__range"
	}
	for _, match := range rangeVector.FindAllStringSubmatch(quoted.ReplaceAllString(q.Expr, ""), -1) {
		if rest := q.Expr[strings.Index(q.Expr, match[0])+len(match[0]):]; match[1] == "$__range" && strings.HasPrefix(rest, " @ end()") {
			continue // one value for the whole range
		}
		if !slices.Contains(strings.Fields(want), match[1]) {
			t.Errorf("%s: range [%s], want %s: %s", where, match[1], want, q.Expr)
		}
	}
	all := selectors.FindAllString(q.Expr, -1)
	for _, s := range all {
		if !strings.Contains(s, `job=~"$job"`) || !strings.Contains(s, `instance=~"$instance"`) {
			t.Errorf("%s: selector %s has not the variables job and instance", where, s)
		}
	}
	if len(all) == 0 {
		t.Errorf("%s: no selector in %q", where, q.Expr)
	}
	// Counters appear as what they rose by, but those of rare things.
	for _, metric := range regexp.MustCompile(`\w+_total\{`).FindAllStringIndex(q.Expr, -1) {
		before := q.Expr[:metric[0]]
		if name := q.Expr[metric[0]:metric[1]]; name == "bpf_tool_restarts_total{" || name == "bpf_tool_runs_total{" {
			continue
		}
		if !regexp.MustCompile(`(rate|increase)\($|\(\($|unless $|\(sum by \([^)]*\) \($`).MatchString(before) {
			t.Errorf("%s: a counter as it is: %s", where, q.Expr[metric[0]:])
		}
	}
}

// No panel lies on another, or beyond the 24 columns.
func checkPlaces(t *testing.T, name string, panels []*panel) {
	t.Helper()
	for i, p := range panels {
		a := p.GridPos
		if a.W < 1 || a.H < 1 || a.X < 0 || a.X+a.W > 24 {
			t.Errorf("%s: %s: place %+v", name, p.Title, a)
		}
		for _, other := range panels[:i] {
			b := other.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s: %s and %s lie on each other: %+v, %+v", name, p.Title, other.Title, a, b)
			}
		}
		checkPlaces(t, name, p.Panels)
	}
}

// The first dashboard has the picture for each of the ten tools that suits it,
// and all that it has is on the page of one host too.
func TestPictures(t *testing.T) {
	loaded := load(t)
	for tool, want := range map[string][]string{
		"execsnoop": {"table"}, "opensnoop": {"table"}, "ext4slower": {"table"}, "biolatency": {"heatmap"}, "biosnoop": {"table", "heatmap"},
		"cachestat": {"timeseries"}, "tcplife": {"table", "nodeGraph"}, "tcpretrans": {"table"}, "runqlat": {"heatmap"}, "profile": {"table", "flamegraph"},
	} {
		for name, exact := range map[string]bool{"bpf-tools.json": true, "one-host.json": false} {
			var got []string
			for _, p := range flat(loaded[name].Panels) {
				if strings.HasPrefix(p.Title, tool+": ") && p.Datasource.Type != "loki" {
					got = append(got, p.Type)
				}
			}
			for _, kind := range want {
				if !slices.Contains(got, kind) || exact && len(got) != len(want) {
					t.Errorf("%s: %s has %q, want %q", name, tool, got, want)
				}
			}
		}
	}
}
