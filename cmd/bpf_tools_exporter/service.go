package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"bpf_tools_exporter/cmd/bpf_tools_exporter/eventlog"
	"bpf_tools_exporter/collector"
	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/ondemand"
)

// A service runs the tools that flags, config file and definitions ask for.
// It passes on what is asked of its tools.Manager, which a reload replaces.
type service struct {
	args    []string
	logger  log.Logger
	samples *collector.Collector
	events  *eventlog.Log
	runs    *ondemand.Manager
	manager atomic.Pointer[tools.Manager]

	mu       sync.Mutex // held by a reload
	flags    *flags
	reloaded prometheus.Gauge // whether the last one did
	loadedAt prometheus.Gauge
}

// newService starts the tools.
func newService(args []string, f *flags, events *eventlog.Log, logger log.Logger) (*service, error) {
	s := &service{args: args, logger: logger, events: events, flags: f,
		samples: collector.New(collector.Config{MaxSeries: f.maxSeries, IdleAfter: f.seriesIdle, ScrapeTimeout: refreshTimeout}),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{Name: "bpf_tools_exporter_config_last_reload_successful",
			Help: "Whether the config file and the definitions could be loaded the last time."}),
		loadedAt: prometheus.NewGauge(prometheus.GaugeOpts{Name: "bpf_tools_exporter_config_last_reload_success_timestamp_seconds",
			Help: "When the config file and the definitions were loaded, in seconds since the epoch."}),
	}
	if err := s.samples.SetToolset(f.toolset()); err != nil {
		return nil, err
	}
	s.samples.SetTools(s)
	manager := tools.NewManager(f.managerConfig(s.samples, events, logger))
	s.manager.Store(manager)
	manager.Start()
	s.runs = ondemand.NewManager(ondemand.Config{
		Runner: s, Catalog: f.catalog, Options: f.options, MaxDuration: f.runDuration, StartTimeout: f.startWithin, MaxConcurrent: f.runConcurrent,
		Finished: s.samples.RunFinished, Logger: logger,
	})
	s.tell(nil)
	return s, nil
}

func (s *service) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs.Close()
	s.manager.Load().Stop()
}

// tell sets the metrics about the last load.
func (s *service) tell(err error) {
	if err != nil {
		s.reloaded.Set(0)
		return
	}
	s.reloaded.Set(1)
	s.loadedAt.SetToCurrentTime()
}

// reload reads the config file and the definitions again, and runs what they ask
// for. On error what runs goes on.
func (s *service) reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.replace()
	s.tell(err)
	if err != nil {
		err = fmt.Errorf("%s", strings.Join(strings.Fields(err.Error()), " "))
		_ = level.Error(s.logger).Log("msg", "not reloaded, all goes on as it was", "err", err)
	}
	return err
}

func (s *service) replace() error {
	f, err := parseFlags(s.args)
	if err != nil {
		return err
	}
	if name := needRestart(s.flags.settings, f.settings); name != "" {
		return fmt.Errorf("%s cannot change while the exporter runs: restart it", name)
	}
	if f.digest() == s.flags.digest() {
		_ = level.Info(s.logger).Log("msg", "reloaded, nothing has changed")
		return nil
	}
	// What cannot be declared is to be known before anything stops.
	if err := collector.New(collector.Config{}).SetToolset(f.toolset()); err != nil {
		return err
	}
	old, next := s.manager.Load(), tools.NewManager(f.managerConfig(s.samples, s.events, s.logger))
	old.Stop()
	if err := s.samples.SetToolset(f.toolset()); err != nil {
		return err
	}
	next.Inherit(old)
	next.Start()
	s.manager.Store(next)
	s.runs.SetToolset(f.catalog, f.options)
	s.flags = f
	_ = level.Info(s.logger).Log("msg", "reloaded, the tools start again")
	return nil
}

// Status and all below pass on to the manager of now.
func (s *service) Status() []tools.Status       { return s.manager.Load().Status() }
func (s *service) Ring(name string) *tools.Ring { return s.manager.Load().Ring(name) }
func (s *service) Ready() bool                  { return s.manager.Load().Ready() }
func (s *service) Refresh(ctx context.Context)  { s.manager.Load().Refresh(ctx) }
func (s *service) CanRun(name string) error     { return s.manager.Load().CanRun(name) }
func (s *service) Run(ctx context.Context, spec tools.RunSpec, sink tools.RunSink) (tools.RunCounts, error) {
	return s.manager.Load().Run(ctx, spec, sink)
}

// toolset are the definitions of the tools that run, or can.
func (f *flags) toolset() []*tools.Definition {
	return slices.DeleteFunc(f.catalog.Tools(), func(d *tools.Definition) bool { return !f.enabled[d.Name] })
}

// digest is the same for flags that make the same tools run in the same way.
func (f *flags) digest() string {
	return fmt.Sprint(f.catalog.Digest(), f.enabled, f.options, f.backends, f.pinned, f.excludeSelf, f.maxDelay,
		f.cpuLimit, f.memoryLimit, f.selfTest, f.stateDir)
}

// needRestart finds a setting that differs between two config files and
// cannot change while the exporter runs: "" if there is none.
func needRestart(old, now []setting) string {
	for _, pair := range [][2][]setting{{now, old}, {old, now}} {
		for _, s := range pair[0] {
			same := func(o setting) bool { return o.name == s.name && slices.Equal(o.values, s.values) }
			if isFixed(s.name) && !slices.ContainsFunc(pair[1], same) {
				return s.name
			}
		}
	}
	return ""
}

func isFixed(name string) bool {
	group, _, _ := strings.Cut(name, ".")
	return slices.Contains([]string{"web", "log", "events", "ondemand"}, group) ||
		name == "tools.max-series" || name == "tools.series-idle"
}
