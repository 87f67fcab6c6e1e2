package collector

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bpf_tools_exporter/tools"
)

// Config bounds what a Collector holds and how long a scrape waits.
type Config struct {
	// MaxSeries is how many series a metric family may have, not counting
	// those that take the overflow. It is at least one.
	MaxSeries int
	// IdleAfter is how long a series must not have changed before a new one
	// may take its place. Zero means that none ever may.
	IdleAfter time.Duration
	// ScrapeTimeout is how long a scrape waits for the tools to report. With
	// zero it does not wait and shows what they reported before.
	ScrapeTimeout time.Duration
	// Now tells the time. It is time.Now unless a test says otherwise.
	Now func() time.Time
}

// Tools are what a Collector scrapes.
type Tools interface {
	// Refresh makes the tools that count by themselves report their samples.
	// It returns when they have, or when the context ends.
	Refresh(ctx context.Context)
	// Status returns what is known of each tool. No two have the same name.
	Status() []tools.Status
}

// A Collector is a [tools.Sink] and a [prometheus.Collector]. Its methods are
// safe for concurrent use.
type Collector struct {
	cfg  Config
	runs *runs

	mu       sync.RWMutex // guards what follows, not the families' content
	tools    Tools
	families map[*tools.Metric]*family
}

// New returns a Collector without tools.
func New(cfg Config) *Collector {
	cfg.MaxSeries = max(cfg.MaxSeries, 1)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Collector{cfg: cfg, runs: newRuns(), families: make(map[*tools.Metric]*family)}
}

// SetTools tells what to refresh at a scrape and whose status to show. Without
// it a scrape shows only the samples that were passed.
func (c *Collector) SetTools(t Tools) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tools = t
}

// AddTool declares the metric families of a tool. Samples that come before are
// dropped. Where a family cannot be exposed, because of its name, type or
// labels or because another one has its name, AddTool returns an error and
// declares none.
func (c *Collector) AddTool(d *tools.Definition) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	families := maps.Clone(c.families)
	if err := c.declare(families, d); err != nil {
		return err
	}
	c.families = families
	return nil
}

// SetToolset declares the metric families of these tools in place of all others.
// A family that was there before, as the same metric of the same tool, keeps its
// series. On error nothing changes; see AddTool.
func (c *Collector) SetToolset(all []*tools.Definition) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	families := make(map[*tools.Metric]*family)
	for _, d := range all {
		if err := c.declare(families, d); err != nil {
			return err
		}
	}
	c.families = families
	return nil
}

// declare adds the families of a tool, new ones or those that are there.
func (c *Collector) declare(families map[*tools.Metric]*family, d *tools.Definition) error {
	names := make(map[string]bool, len(families))
	for _, f := range families {
		names[f.metric.Name] = true
	}
	for _, m := range d.Metrics {
		if names[m.Name] {
			return fmt.Errorf("%s: metric %q is already declared", d.Name, m.Name)
		}
		names[m.Name] = true
		f := c.declaredAs(d.Name, m)
		if f == nil {
			var err error
			if f, err = newFamily(d.Name, m, c.cfg); err != nil {
				return fmt.Errorf("%s: metric %q: %w", d.Name, m.Name, err)
			}
		}
		families[m] = f
	}
	return nil
}

// declaredAs finds the family of a metric that was read from its definition
// again, or nil.
func (c *Collector) declaredAs(tool string, m *tools.Metric) *family {
	for _, f := range c.families {
		if f.tool == tool && reflect.DeepEqual(f.metric, m) {
			return f
		}
	}
	return nil
}

// Sample adds to the series that the sample names. A sample of a metric that
// no tool declared, or that no series can take, is dropped: see AddTool and
// [tools.Sample].
func (c *Collector) Sample(_ string, s tools.Sample) {
	c.mu.RLock()
	f := c.families[s.Metric]
	c.mu.RUnlock()
	if f != nil {
		f.sample(s)
	}
}

// Describe sends nothing, which makes the Collector an unchecked one: what it
// exposes depends on the tools that were added.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect refreshes the tools and sends all series. A series is read when the
// registry asks for its values, each at one moment.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	c.mu.RLock()
	scraped := c.tools
	c.mu.RUnlock()
	if scraped != nil {
		ctx, cancel := context.WithTimeout(context.Background(), c.cfg.ScrapeTimeout)
		scraped.Refresh(ctx)
		cancel()
	}
	for _, f := range c.declared() {
		for _, s := range f.all() {
			out <- s
		}
		collectOverflow(out, f)
	}
	c.runs.collect(out)
	if scraped == nil {
		return
	}
	for _, status := range scraped.Status() {
		collectStatus(out, status)
	}
}

func (c *Collector) declared() []*family {
	c.mu.RLock()
	defer c.mu.RUnlock()
	declared := make([]*family, 0, len(c.families))
	for _, f := range c.families {
		declared = append(declared, f)
	}
	return declared
}
