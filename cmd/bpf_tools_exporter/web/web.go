// Package web is the HTTP face of the exporter: the metrics, pages and JSON
// about the tools, and the events that they saw.
//
// Everything that a tool printed was chosen by some user of the host. It
// reaches a client only through html/template or as a JSON string, with what
// would steer a terminal or reverse a text escaped. Events, which may hold the
// arguments of other users' programs, are for those whom access admits.
//
// Errors are one line of plain text.
package web

import (
	"context"
	"embed"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/ondemand"
)

//go:embed assets
var assets embed.FS

// Tools is what the package shows. Its methods are safe for concurrent use.
type Tools interface {
	// Status returns the state of every tool, in the order of the catalogue.
	Status() []tools.Status
	// Ring returns the recent events of a tool, or nil where there is no
	// such tool or its source yields none.
	Ring(name string) *tools.Ring
	// Ready tells whether no tool is in its first start any more.
	Ready() bool
	// Refresh asks the running tools for their present values. It returns
	// when they are there, at the latest when ctx ends.
	Refresh(ctx context.Context)
}

// Config is what a Handler is made of.
type Config struct {
	Tools   Tools
	Metrics http.Handler
	// Logger takes what goes wrong while answering. Nil discards it.
	Logger *slog.Logger
	// WebConfigFile is the exporter-toolkit's --web.config.file, which the
	// server must have been started with. It is read again at each decision,
	// as the toolkit does. Empty is none.
	WebConfigFile string
	// TelemetryPath is where the metrics are. Empty is /metrics; at / they
	// take the place of the landing page, which is then at /tools only.
	TelemetryPath string
	// Version is the exporter's own, as the pages show it.
	Version string
	// EnablePprof serves the exporter's own profiles at /debug/pprof/.
	EnablePprof bool
	// EnableLifecycle lets POST /-/reload call Reload.
	EnableLifecycle bool
	Reload          func() error
	// Runs are the on-demand ones. Nil serves none.
	Runs *ondemand.Manager
	// AnyoneRuns admits clients that have not authenticated themselves to
	// runs.
	AnyoneRuns bool
	// Done, once closed, ends the streams of events, for which a server
	// that shuts down would wait in vain. Nil lets them go on.
	Done <-chan struct{}
}

// server answers requests; its methods are the handlers.
type server struct {
	Config
	access       access
	pages        pages
	streams      chan struct{} // holds a token for each stream that is open
	refused      atomic.Int64  // when a refusal was last logged, in Unix seconds
	writeTimeout time.Duration // within which a client must take a part of an answer
}

// Handler returns the handler of all the exporter's paths. It expects the
// exporter-toolkit in front of it to authenticate where that is configured.
func Handler(cfg Config) http.Handler {
	return newServer(cfg).handler()
}

func newServer(cfg Config) *server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.TelemetryPath == "" {
		cfg.TelemetryPath = "/metrics"
	}
	return &server{
		Config:       cfg,
		access:       access{webConfigFile: cfg.WebConfigFile, anyoneRuns: cfg.AnyoneRuns},
		pages:        parsePages(),
		streams:      make(chan struct{}, maxStreams),
		writeTimeout: 10 * time.Second,
	}
}

func (s *server) handler() http.Handler {
	return timely(s.writeTimeout, secured(http.NewCrossOriginProtection().Handler(s.telemetry(s.routes()))))
}

func (s *server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.landing)
	mux.HandleFunc("GET /tools", s.list)
	mux.HandleFunc("GET /tools/{name}", s.tool)
	mux.HandleFunc("GET /tools/{name}/events", s.events)
	if s.Runs != nil {
		mux.HandleFunc("GET /probe", s.probe)
		mux.HandleFunc("GET /pprof/profile", s.profile)
		mux.HandleFunc("POST /tools/{name}/runs", s.startRun)
		mux.HandleFunc("GET /runs/{id}", s.showRun)
		mux.HandleFunc("DELETE /runs/{id}", s.stopRun)
		mux.HandleFunc("POST /runs/{id}/stop", s.stopRun) // a form can do no more
	}
	mux.HandleFunc("GET /style.css", asset)
	mux.HandleFunc("GET /scripts/{file...}", asset)
	mux.HandleFunc("GET /-/healthy", healthy)
	mux.HandleFunc("GET /-/ready", s.ready)
	mux.HandleFunc("POST /-/reload", s.reload)
	if s.EnablePprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// telemetry serves the metrics at their path and the rest by next. It is no
// route of the mux, which panics on paths that it takes for bad patterns.
func (s *server) telemetry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != s.TelemetryPath:
			next.ServeHTTP(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		default:
			s.Metrics.ServeHTTP(w, r)
		}
	})
}

// secured sets the headers that keep a browser from doing more with an answer
// than showing it. Those that the operator set in the web config file stay.
func secured(next http.Handler) http.Handler {
	headers := map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; " +
			"base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Referrer-Policy":              "same-origin",
		"X-Content-Type-Options":       "nosniff",
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			if w.Header().Get(name) == "" {
				w.Header().Set(name, value)
			}
		}
		next.ServeHTTP(w, r)
	})
}

func healthy(w http.ResponseWriter, _ *http.Request) {
	plain(w, "healthy")
}

func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	if s.Tools.Ready() {
		plain(w, "ready")
		return
	}
	var starting []string
	for _, status := range s.Tools.Status() {
		if status.State == tools.Starting {
			starting = append(starting, status.Definition.Name)
		}
	}
	fail(w, http.StatusServiceUnavailable, "not ready, starting: "+strings.Join(starting, ", "))
}

func (s *server) reload(w http.ResponseWriter, _ *http.Request) {
	if !s.EnableLifecycle || s.Reload == nil {
		fail(w, http.StatusForbidden, "reload by HTTP is off: --web.enable-lifecycle allows it")
		return
	}
	if err := s.Reload(); err != nil {
		fail(w, http.StatusInternalServerError, "reload: "+err.Error())
		return
	}
	plain(w, "reloaded")
}

// asset serves what pages load: the style sheet and scripts.
func asset(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "max-age=3600")
	http.ServeFileFS(w, r, assets, path.Join("assets", path.Clean(r.URL.Path)))
}

// find returns the status of the tool that the path names, or nil after
// having answered 404.
func (s *server) find(w http.ResponseWriter, r *http.Request) *tools.Status {
	name := r.PathValue("name")
	for _, status := range s.Tools.Status() {
		if status.Definition.Name == name {
			return &status
		}
	}
	fail(w, http.StatusNotFound, "no such tool: "+shorten(visible(name)))
	return nil
}

func plain(w http.ResponseWriter, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(line + "\n"))
}

// fail answers with an error of one line, whatever the message holds.
func fail(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, visible(message), code)
}
