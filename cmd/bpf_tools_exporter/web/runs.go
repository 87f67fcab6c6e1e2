package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"bpf_tools_exporter/collector"
	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/ondemand"
)

const (
	// defaultDuration is that of a run that was asked for without one.
	defaultDuration = 10 * time.Second
	// timeoutHeader is how long a Prometheus waits for its scrape.
	timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"
	// timeoutOffset is left for the way of the answer.
	timeoutOffset = 500 * time.Millisecond
	// startMargin is for the start of a tool and its end, which the duration
	// does not hold.
	startMargin = 2 * time.Second
	// maxForm bounds the body of a request.
	maxForm = 64 << 10
	// profileTool is the one that /pprof/profile runs.
	profileTool = "profile"
)

// runRequest reads what a client asks for. The parameter that holds the duration
// is called differently by different clients.
func (s *server) runRequest(r *http.Request, tool, durationName string, values url.Values) (ondemand.Request, error) {
	request := ondemand.Request{Tool: tool, Duration: min(defaultDuration, s.Runs.MaxDuration()), Options: map[string]string{}, Who: s.access.who(r)}
	for name, all := range values {
		value := all[len(all)-1]
		switch {
		case len(all) > 1:
			return request, fmt.Errorf("%w %s: stands there twice", ondemand.ErrParameter, shorten(name))
		case name == "tool" && durationName == "duration":
		case name == durationName:
			d, err := parseDuration(value)
			if err != nil {
				return request, fmt.Errorf("%w %s=%q: %w", ondemand.ErrParameter, name, shorten(value), err)
			}
			request.Duration = d
		case value == "":
			// An empty field of a form is none.
		default:
			request.Options[name] = value
		}
	}
	return request, nil
}

// parseDuration reads "10s" as Go writes durations, and "10" as seconds.
func parseDuration(s string) (time.Duration, error) {
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && seconds >= 0 && seconds < 1e6 {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("want seconds or a duration such as 10s")
	}
	return d, nil
}

// admitted answers clients that may not start or stop runs, and requests that
// another site's page made, whoever's browser that is in.
func (s *server) admitted(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodHead {
		w.Header().Set("Allow", "GET")
		fail(w, http.StatusMethodNotAllowed, "a run is not started by HEAD")
		return false
	}
	err := s.access.checkRun(r)
	if err == nil {
		err = foreign(r)
	}
	if err == nil {
		return true
	}
	// Anyone can be refused as often as he likes: not every time is a line.
	if now := time.Now().Unix(); s.refused.Swap(now) != now {
		s.Logger.Info("run refused", "client", r.RemoteAddr, "path", r.URL.Path, "err", err)
	}
	fail(w, http.StatusForbidden, err.Error())
	return false
}

// failRun answers with what is wrong with a request for a run.
func failRun(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, ondemand.ErrTool):
		code = http.StatusNotFound
	case errors.Is(err, ondemand.ErrParameter):
		code = http.StatusBadRequest
	case errors.Is(err, ondemand.ErrBusy):
		w.Header().Set("Retry-After", "10")
		code = http.StatusTooManyRequests
	case errors.Is(err, tools.ErrCannotRun), errors.Is(err, ondemand.ErrClosed):
		code = http.StatusServiceUnavailable
	}
	fail(w, code, err.Error())
}

// admittedQuery returns the parameters of a request for a run. Otherwise it has
// answered.
func (s *server) admittedQuery(w http.ResponseWriter, r *http.Request) (values url.Values, ok bool) {
	if !s.admitted(w, r) {
		return nil, false
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, http.StatusBadRequest, "query: "+err.Error())
		return nil, false
	}
	return values, true
}

// probe runs a tool and answers with the metrics of that run alone.
func (s *server) probe(w http.ResponseWriter, r *http.Request) {
	values, ok := s.admittedQuery(w, r)
	if !ok {
		return
	}
	if values.Get("tool") == "" {
		fail(w, http.StatusBadRequest, "parameter tool is missing: /probe?tool=runqlat&duration=10s")
		return
	}
	request, err := s.runRequest(r, values.Get("tool"), "duration", values)
	if err == nil {
		err = withinTimeout(&request, r.Header.Get(timeoutHeader), values.Get("duration") != "")
	}
	if err != nil {
		failRun(w, err)
		return
	}
	ctx := r.Context()
	if request.Within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, request.Within)
		defer cancel()
	}
	began := time.Now()
	run, leave, err := s.Runs.Join(request)
	if err != nil {
		failRun(w, err)
		return
	}
	defer leave()
	select {
	case <-run.Done():
	case <-ctx.Done():
		if r.Context().Err() != nil {
			return // nobody is there for the answer
		}
	}
	if err := run.Progress().Err; errors.Is(err, tools.ErrCannotRun) {
		failRun(w, err)
		return
	}
	registry := prometheus.NewRegistry()
	if err := addProbe(registry, run, time.Since(began)); err != nil {
		s.Logger.Error("probe not answered", "tool", request.Tool, "err", err)
		fail(w, http.StatusInternalServerError, "probe not answered")
		return
	}
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
}

// withinTimeout fits a request into the scrape's timeout, if there is one.
func withinTimeout(request *ondemand.Request, header string, explicit bool) error {
	if header == "" {
		return nil
	}
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil || !(seconds > 0 && seconds < 1e6) {
		return fmt.Errorf("%w %s: %q: want seconds", ondemand.ErrParameter, timeoutHeader, shorten(header))
	}
	timeout := time.Duration(seconds * float64(time.Second))
	request.Within = timeout - timeoutOffset
	fits := request.Within - startMargin
	switch {
	case request.Duration <= fits:
	case !explicit && fits >= time.Second:
		request.Duration = fits.Truncate(time.Second)
	default:
		return fmt.Errorf("%w duration=%s does not fit the scrape timeout of %s: want a scrape_timeout of %s or more", ondemand.ErrParameter,
			request.Duration, timeout, request.Duration+startMargin+timeoutOffset)
	}
	return nil
}

// addProbe puts what a run counted into a registry of its own.
func addProbe(registry *prometheus.Registry, run *ondemand.Run, took time.Duration) error {
	success := prometheus.NewGauge(prometheus.GaugeOpts{Name: "probe_success", Help: "Whether the run went well."})
	duration := prometheus.NewGauge(prometheus.GaugeOpts{Name: "probe_duration_seconds", Help: "How long the probe took, with the start and the end of the tool."})
	duration.Set(took.Seconds())
	registry.MustRegister(success, duration)
	if run.Progress().State != ondemand.Over {
		return nil
	}
	success.Set(1)
	samples := collector.New(collector.Config{MaxSeries: 1000})
	if err := samples.AddTool(run.Definition); err != nil {
		return err
	}
	run.Replay(samples)
	return registry.Register(samples)
}

// profile answers with a CPU profile of the whole system, as any Go program
// answers with its own.
func (s *server) profile(w http.ResponseWriter, r *http.Request) {
	values, ok := s.admittedQuery(w, r)
	if !ok {
		return
	}
	request, err := s.runRequest(r, profileTool, "seconds", values)
	if err != nil {
		failRun(w, err)
		return
	}
	run, leave, err := s.Runs.Join(request)
	if err != nil {
		failRun(w, err)
		return
	}
	defer leave()
	select {
	case <-run.Done():
	case <-r.Context().Done():
		return
	}
	if p := run.Progress(); p.State != ondemand.Over {
		failRun(w, p.Err)
		return
	}
	s.writePprof(w, run)
}

func (s *server) writePprof(w http.ResponseWriter, run *ondemand.Run) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", `attachment; filename="profile.pb.gz"`)
	s.write(w, func(b io.Writer) error { return run.WritePprof(b, run.Frequency()) })
}

// startRun starts a run that is read later.
func (s *server) startRun(w http.ResponseWriter, r *http.Request) {
	if !s.admitted(w, r) || s.find(w, r) == nil {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		fail(w, http.StatusBadRequest, "form: "+err.Error())
		return
	}
	request, err := s.runRequest(r, r.PathValue("name"), "duration", r.Form)
	if err != nil {
		failRun(w, err)
		return
	}
	run, err := s.Runs.Start(request)
	code := http.StatusCreated
	var going *ondemand.GoingError
	switch {
	case errors.As(err, &going):
		run, code = going.Run, http.StatusConflict
	case err != nil:
		failRun(w, err)
		return
	}
	if wantsHTML(r) {
		// A form without script: on to the run's page, below any proxy's path.
		w.Header().Set("Location", "../../runs/"+run.ID)
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	w.Header().Set("Location", "/runs/"+run.ID)
	w.Header().Set("Cache-Control", "no-store")
	if code == http.StatusConflict {
		fail(w, code, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, "/runs/"+run.ID+"\n")
}

// stopRun stops a run.
func (s *server) stopRun(w http.ResponseWriter, r *http.Request) {
	if !s.admitted(w, r) {
		return
	}
	run := s.findRun(w, r)
	if run == nil {
		return
	}
	s.Runs.Stop(run, s.access.who(r))
	if wantsHTML(r) {
		w.Header().Set("Location", "../"+run.ID)
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	plain(w, "stopped")
}

func (s *server) findRun(w http.ResponseWriter, r *http.Request) *ondemand.Run {
	id := r.PathValue("id")
	run := s.Runs.Get(id)
	if run == nil {
		fail(w, http.StatusNotFound, "no such run, or it is not kept any more: "+shorten(visible(id)))
	}
	return run
}

// showRun answers with a run's progress and result.
func (s *server) showRun(w http.ResponseWriter, r *http.Request) {
	if err := s.access.checkRun(r); err != nil {
		fail(w, http.StatusForbidden, err.Error())
		return
	}
	run := s.findRun(w, r)
	if run == nil {
		return
	}
	format, err := runFormat(r, run)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if stackFormats[format] && !run.Progress().State.IsOver() {
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusConflict, "the run is going on: its stacks come at its end")
		return
	}
	arguments := s.access.check(r) == nil
	w.Header().Set("Vary", "Accept")
	switch format {
	case "html":
		s.render(w, s.pages.run, s.runPage(run))
	case "json":
		s.writeJSON(w, run.Document(arguments))
	case "flamegraph":
		s.writeJSON(w, run.FlameGraph())
	case "folded":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		s.write(w, run.WriteFolded)
	case "pprof":
		s.writePprof(w, run)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		s.write(w, func(b io.Writer) error { return run.WriteText(b, arguments) })
	}
}

// stackFormats are those of a profile alone.
var stackFormats = map[string]bool{"folded": true, "pprof": true, "flamegraph": true}

// formats are those that a run comes in.
func formats(run *ondemand.Run) []string {
	all := []string{"text", "json", "html"}
	if run.Definition.Profiles() {
		all = append(all, "folded", "pprof", "flamegraph")
	}
	return all
}

func runFormat(r *http.Request, run *ondemand.Run) (string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", fmt.Errorf("query: %w", err)
	}
	for name := range values {
		if name != "format" {
			return "", fmt.Errorf("unknown parameter %q", shorten(name))
		}
	}
	format := values.Get("format")
	switch {
	case format == "" && wantsJSON(r.Header.Values("Accept")):
		return "json", nil
	case format == "" && wantsHTML(r):
		return "html", nil
	case format == "":
		return "text", nil
	case !slices.Contains(formats(run), format):
		return "", fmt.Errorf("format=%q: %s has %s", shorten(format), run.Definition.Name, strings.Join(formats(run), ", "))
	}
	return format, nil
}

// wantsHTML tells whether a client names HTML, as browsers do.
func wantsHTML(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/html")
}

// write answers with the whole of something or with an error.
func (s *server) write(w http.ResponseWriter, what func(io.Writer) error) {
	var b bytes.Buffer
	if err := what(&b); err != nil {
		s.Logger.Error("answer not written", "err", err)
		fail(w, http.StatusInternalServerError, "answer not written")
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b.Bytes())
}
