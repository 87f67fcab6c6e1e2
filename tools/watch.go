package tools

import (
	"context"
	"time"
)

const (
	// checkInterval is how often children are looked at. Between scrapes the
	// values are asked for as often, so that a killed bpftrace takes little
	// with it, and one that hangs is noticed.
	checkInterval = 10 * time.Second
	// statsInterval and statsWindow are how often and how long the kernel
	// takes the run time of BPF programs: doing so costs about as much as the
	// counting itself.
	statsInterval = time.Minute
	statsWindow   = time.Second
)

// watch looks at the children until ctx ends.
func (m *Manager) watch(ctx context.Context) {
	check := time.NewTicker(checkInterval)
	defer check.Stop()
	stats := time.NewTimer(2 * time.Second)
	defer stats.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			m.check(ctx)
		case <-stats.C:
			m.sampleBPF(ctx)
			stats.Reset(statsInterval)
		}
	}
}

func (m *Manager) runners() []*runner {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*runner, 0, len(m.running))
	for _, r := range m.running {
		// A child is known a moment before its runner has it.
		if r.current() != nil {
			all = append(all, r)
		}
	}
	return all
}

func (m *Manager) check(ctx context.Context) {
	m.mu.Lock()
	shared := m.shared
	m.mu.Unlock()
	if shared != nil && m.canAsk() && shared.quiet(checkInterval) {
		wait, cancel := context.WithTimeout(ctx, time.Second)
		_ = shared.ask(wait)
		cancel()
	}
	for _, r := range m.runners() {
		r.countSkipped(m.stats)
		if fault := r.fails(m.cfg); fault != "" {
			r.kill(fault)
		}
		if r.changed() {
			m.reconsider(change{runner: r})
		}
	}
	m.lookAgain()
}

// quiet tells whether there has been no answer for so long.
func (c *child) quiet(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.last) > d
}

// fails names what is wrong with the runner's child, if anything is.
func (r *runner) fails(cfg Config) string {
	c := r.current()
	select {
	case <-c.attached:
	default:
		return "" // the start has a deadline of its own
	}
	usage, err := c.process.Usage()
	if err != nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	cpu, out := usage.UserSeconds+usage.SystemSeconds, float64(usage.StdoutBytes)
	flood := (out-r.outAt)/now.Sub(r.checked).Seconds() > floodRate
	r.outAt, r.checked = out, now
	busy := false
	if over := now.Sub(r.cpuSince); over >= time.Minute {
		busy = cfg.CPULimit > 0 && (cpu-r.cpuAt)/over.Seconds() > cfg.CPULimit
		r.cpuAt, r.cpuSince = cpu, now
	}
	switch {
	case flood:
		return reasonFlood
	case busy:
		return reasonCPU
	case cfg.MemoryLimit > 0 && usage.ResidentBytes > cfg.MemoryLimit:
		return reasonMemory
	case r.silent(c, usage.LastOutput):
		return reasonHang
	}
	return ""
}

// silent tells whether the child does not print what it should: answers, or
// the output of its interval.
func (r *runner) silent(c *child, last time.Time) bool {
	if c.answers {
		if r.m.canAsk() {
			return c.hung(hangAfter)
		}
		return c.quiet(10 * pollInterval * time.Second)
	}
	// libbpf-tools' biolatency prints an empty line at least.
	interval := time.Duration(r.members[0].source.Interval) * time.Second
	// What bcc compiles before is no silence.
	if attached := c.started.Add(c.tookToAttach); last.Before(attached) {
		last = attached
	}
	// Where it took long to attach, all takes long.
	return interval > 0 && time.Since(last) > 10*interval+c.tookToAttach
}
