package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/ondemand"
)

const (
	// pageEvents is how many events a tool's page shows.
	pageEvents = 50
	// refreshTimeout is how long a page waits for present values before it
	// shows those of the last scrape.
	refreshTimeout = time.Second
)

// pages are the parsed templates.
type pages struct {
	list, tool, run *template.Template
}

// page is what every page needs. Links are relative, so that they hold behind
// a proxy that puts the exporter under a path of its own.
type page struct {
	Title     string
	Root      string // the way to / from here: "./" or "../"
	Telemetry string // path of the metrics below Root
	Version   string
}

type listPage struct {
	page
	Tools []Tool
	Runs  []runRow // the recent ones, for those who may see them
}

// runRow is a run in a list.
type runRow struct {
	ID, Tool string
	State    ondemand.State
	Duration string
	Samples  uint64
	Created  time.Time
}

// runForm is what it takes to start a run from a page.
type runForm struct {
	Refusal  string // why this client may not
	Looks    bool   // no process is started: the tool runs anyway
	Duration int    // in seconds
	Max      int
	Options  []runOption
}

type runOption struct {
	Name, Help, Type, Initial string
	Min, Max                  int64
	Values                    []string
}

type runPage struct {
	page
	Run      *ondemand.Run
	Progress ondemand.Progress
	Over     bool
	Seconds  string
	Options  []string
	Formats  []string
	Profiles bool
}

type toolPage struct {
	page
	Tool       Tool
	HasEvents  bool // the tool may have events to show
	Refusal    string
	Fields     tools.Fields
	Events     []tools.Event
	LastOutput time.Time
	Form       *runForm // nil if the tool cannot run on demand
	Runs       []runRow
}

func parsePages() pages {
	functions := template.FuncMap{
		"bytes": formatBytes, "clock": formatTime, "count": formatCount,
		"restarts": formatRestarts, "seconds": formatSeconds, "source": formatSource, "slug": url.PathEscape,
		"visible": func(s string) string { return shorten(visible(s)) },
	}
	parse := func(file string) *template.Template {
		t := template.New("page.html").Funcs(functions)
		return template.Must(t.ParseFS(assets, "assets/page.html", "assets/"+file))
	}
	return pages{list: parse("list.html"), tool: parse("tool.html"), run: parse("run.html")}
}

func (s *server) page(title, root string) page {
	return page{
		Title: title, Root: root, Version: s.Version,
		Telemetry: strings.TrimPrefix(s.TelemetryPath, "/"),
	}
}

func (s *server) landing(w http.ResponseWriter, r *http.Request) {
	s.refresh(r)
	s.render(w, s.pages.list, listPage{s.page("BPF tools exporter", "./"), s.reports(), s.recentRuns(r, "")})
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	s.refresh(r)
	w.Header().Set("Vary", "Accept")
	if wantsJSON(r.Header.Values("Accept")) {
		s.writeJSON(w, s.reports())
		return
	}
	s.render(w, s.pages.list, listPage{s.page("Tools", "./"), s.reports(), s.recentRuns(r, "")})
}

func (s *server) tool(w http.ResponseWriter, r *http.Request) {
	s.refresh(r)
	status := s.find(w, r)
	if status == nil {
		return
	}
	w.Header().Set("Vary", "Accept")
	if wantsJSON(r.Header.Values("Accept")) {
		s.writeJSON(w, newTool(*status))
		return
	}
	s.render(w, s.pages.tool, s.toolPage(r, *status))
}

func (s *server) toolPage(r *http.Request, status tools.Status) toolPage {
	name := status.Definition.Name
	p := toolPage{
		page:       s.page(name, "../"),
		Tool:       newTool(status),
		LastOutput: status.LastOutput,
		Fields:     status.Definition.Fields,
	}
	p.Form, p.Runs = s.runForm(r, status), s.recentRuns(r, name)
	ring := s.Tools.Ring(name)
	p.HasEvents = status.Definition.HasEvents() && ring != nil
	if !p.HasEvents {
		return p
	}
	if err := s.access.check(r); err != nil {
		p.Refusal = err.Error()
		return p
	}
	p.Events = ring.Recent(pageEvents)
	return p
}

// recentRuns are those of a tool, or of all, for a client that may see them.
func (s *server) recentRuns(r *http.Request, tool string) []runRow {
	if s.Runs == nil || s.access.checkRun(r) != nil {
		return nil
	}
	var rows []runRow
	for _, run := range s.Runs.Runs() {
		if tool != "" && run.Definition.Name != tool {
			continue
		}
		p := run.Progress()
		rows = append(rows, runRow{run.ID, run.Definition.Name, p.State, run.Duration.String(), p.Samples, run.Created})
	}
	return rows
}

func (s *server) runForm(r *http.Request, status tools.Status) *runForm {
	d := status.Definition
	if s.Runs == nil || !ondemand.Runnable(d) {
		return nil
	}
	most := int(s.Runs.MaxDuration().Seconds())
	form := &runForm{Duration: min(most, int(defaultDuration.Seconds())), Max: most, Looks: !d.OnDemand() && status.State == tools.Up}
	if err := s.access.checkRun(r); err != nil {
		form.Refusal = err.Error()
		return form
	}
	if !d.OnDemand() {
		return form
	}
	for _, name := range slices.Sorted(maps.Keys(d.Options)) {
		o := d.Options[name]
		option := runOption{Name: name, Help: o.Help, Type: o.Type, Initial: o.Initial(), Values: o.Values}
		if o.Min != nil && o.Max != nil {
			option.Min, option.Max = *o.Min, *o.Max
		}
		if o.IsBool() {
			option.Type, option.Values = "enum", []string{"false", "true"}
		}
		form.Options = append(form.Options, option)
	}
	return form
}

func (s *server) runPage(run *ondemand.Run) runPage {
	p := runPage{
		page: s.page(run.Definition.Name+" run", "../"), Run: run, Progress: run.Progress(), Seconds: run.Duration.String(),
		Formats: formats(run), Profiles: run.Definition.Profiles(),
	}
	p.Over = p.Progress.State.IsOver()
	for _, name := range slices.Sorted(maps.Keys(run.Options)) {
		p.Options = append(p.Options, name+"="+run.Options[name])
	}
	return p
}

func (s *server) refresh(r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), refreshTimeout)
	defer cancel()
	s.Tools.Refresh(ctx)
}

func (s *server) reports() []Tool {
	reports := []Tool{}
	for _, status := range s.Tools.Status() {
		reports = append(reports, newTool(status))
	}
	return reports
}

// render answers with the whole page or with an error, never with a part.
func (s *server) render(w http.ResponseWriter, t *template.Template, data any) {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		s.Logger.Error("page not rendered", "err", err)
		fail(w, http.StatusInternalServerError, "page not rendered")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b.Bytes())
}

func (s *server) writeJSON(w http.ResponseWriter, value any) {
	b, err := json.Marshal(value)
	if err != nil {
		s.Logger.Error("status not encoded", "err", err)
		fail(w, http.StatusInternalServerError, "status not encoded")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(visible(string(b)) + "\n"))
}

// wantsJSON tells whether a client asks for JSON by name and not rather for
// HTML. The rest, such as a browser or a plain curl, gets HTML.
func wantsJSON(accept []string) bool {
	var jsonQuality, htmlQuality float64
	for item := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		media, parameters, _ := strings.Cut(item, ";")
		switch strings.ToLower(strings.TrimSpace(media)) {
		case "application/json":
			jsonQuality = max(jsonQuality, quality(parameters))
		case "text/html":
			htmlQuality = max(htmlQuality, quality(parameters))
		}
	}
	return jsonQuality > 0 && jsonQuality >= htmlQuality
}

// quality returns the q among the parameters of a media range (RFC 9110, 12.4.2).
func quality(parameters string) float64 {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if !strings.EqualFold(name, "q") {
			continue
		}
		q, err := strconv.ParseFloat(value, 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return q
	}
	return 1
}

// formatSource names a source as "bpftrace 0.23.2".
func formatSource(s *Source) string {
	return strings.TrimSpace(s.Backend + " " + s.Version)
}

// formatCount groups the digits of a number by thin spaces (U+2009), ISO 80000-1.
func formatCount(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && len(digits) > 4 {
			b.WriteString("\u2009")
		}
		b.WriteRune(digit)
	}
	return b.String()
}

func formatBytes(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/1024, 0
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", size, units[unit])
}

// formatSeconds shows three digits of a short time and whole seconds of a long one.
func formatSeconds(s float64) string {
	switch {
	case s == 0 || s >= 100:
		return fmt.Sprintf("%.0f s", s)
	case s >= 1:
		return fmt.Sprintf("%.*f s", 2-int(math.Log10(s)), s)
	default:
		return fmt.Sprintf("%.3g ms", s*1000)
	}
}

func formatTime(t time.Time) string {
	return t.UTC().Format("2006-01-02 15:04:05")
}

// formatRestarts lists restarts by reason as "exit 2, silent 1".
func formatRestarts(restarts map[string]uint64) string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(restarts)) {
		if restarts[reason] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", reason, restarts[reason]))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
