// Command bpf_tools_exporter runs the BPF tools that operators trust and turns
// what they print into Prometheus metrics.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/version"
	toolkit "github.com/prometheus/exporter-toolkit/web"
	sloggokit "github.com/tjhop/slog-gokit"

	"bpf_tools_exporter/cmd/bpf_tools_exporter/eventlog"
	"bpf_tools_exporter/cmd/bpf_tools_exporter/web"
	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/selftest"
)

// refreshTimeout bounds how long a scrape waits for fresh values.
const refreshTimeout = time.Second

func main() {
	if selftest.Main() {
		return
	}
	if err := run(os.Args[1:], os.Stderr); err != nil {
		// One line, also where a library says more.
		fmt.Fprintln(os.Stderr, "bpf_tools_exporter:", strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}

// run serves until a signal ends it. Errors are one line, and come before
// anything is started where the fault is in flags or definitions.
func run(args []string, logTo io.Writer) error {
	f, err := parseFlags(args)
	if err != nil {
		return err
	}
	if f.command == doctorName {
		return doctor(f, os.Stdout)
	}
	if err := toolkit.Validate(*f.toolkit.WebConfigFile); err != nil {
		return fmt.Errorf("--web.config.file: %w", err)
	}
	logger, slogger := newLoggers(logTo, f.logLevel, f.logFormat)
	events, err := openEventLog(f, logger)
	if err != nil {
		return err
	}
	defer events.Close()
	// A little more work for the collector of a program that sleeps nearly
	// always, and a third less memory.
	debug.SetGCPercent(50)
	if err := mountTracefs(logger); err != nil {
		return err
	}
	_ = level.Info(logger).Log("msg", "starting bpf_tools_exporter", "version", version.Info(), "build", version.BuildContext())

	e, err := newService(args, f, events, logger)
	if err != nil {
		return err
	}
	defer e.stop()
	registry := newRegistry(f, e.samples, e.reloaded, e.loadedAt)
	if events != nil {
		registry.MustRegister(events)
	}
	defer onHangup(func() {
		events.Reopen()
		_ = e.reload() // which logs what is wrong
	})()
	return serve(f, registry, e, logger, slogger)
}

// openEventLog returns nil if no event log is wanted.
func openEventLog(f *flags, logger log.Logger) (*eventlog.Log, error) {
	cfg := f.events
	if cfg.Path == "" {
		return nil, nil
	}
	if cfg.Path == eventlog.Stdout {
		// A reader that went away is an error of the log, not the end.
		signal.Notify(make(chan os.Signal), syscall.SIGPIPE)
	}
	cfg.Logger = logger
	events, err := eventlog.Open(cfg)
	if err != nil {
		return nil, fmt.Errorf("--events.log: %w", err)
	}
	return events, nil
}

// onHangup calls a function at each SIGHUP, until the function it returns is
// called.
func onHangup(do func()) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for range hangups {
			do()
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(hangups)
	}
}

func newLoggers(to io.Writer, logLevel, format string) (log.Logger, *slog.Logger) {
	to = log.NewSyncWriter(to)
	logger := log.NewLogfmtLogger(to)
	if format == "json" {
		logger = log.NewJSONLogger(to)
	}
	logger = log.With(logger, "ts", log.DefaultTimestampUTC)
	logger = level.NewFilter(logger, level.Allow(level.ParseDefault(logLevel, level.InfoValue())))
	var slogLevel slog.Level
	_ = slogLevel.UnmarshalText([]byte(logLevel)) // an enum of the same words
	return logger, slog.New(sloggokit.NewGoKitHandler(logger, slogLevel))
}

func mountTracefs(logger log.Logger) error {
	mounted, err := backend.MountTracefs()
	for _, dir := range mounted {
		_ = level.Info(logger).Log("msg", "mounted what tracepoints need", "dir", dir)
	}
	return err
}

func newRegistry(f *flags, own ...prometheus.Collector) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(own...)
	registry.MustRegister(versioncollector.NewCollector("bpf_tools_exporter"))
	if !f.disableExporterMetrics {
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	return registry
}

func serve(f *flags, registry *prometheus.Registry, e *service, logger log.Logger, slogger *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(slogger.Handler(), slog.LevelError), EnableOpenMetrics: true, MaxRequestsInFlight: f.maxRequests,
	})
	server := &http.Server{
		Handler: web.Handler(web.Config{
			Tools: e, Metrics: metrics, Logger: slogger, WebConfigFile: *f.toolkit.WebConfigFile, TelemetryPath: f.telemetryPath,
			Version: version.Version, EnablePprof: f.pprof, Done: ctx.Done(), Runs: e.runs, AnyoneRuns: f.anyoneRuns,
			EnableLifecycle: f.lifecycle, Reload: e.reload,
		}),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(slogger.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- toolkit.ListenAndServe(server, f.toolkit, slogger) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	_ = level.Info(logger).Log("msg", "stopping")
	e.runs.Close() // so that those who wait for them get their answer
	deadline, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(deadline); err != nil {
		server.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
