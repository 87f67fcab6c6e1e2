package tools

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
)

// bpfStats reads what the kernel knows of the BPF programs and maps of the
// children.
type bpfStats struct {
	mu    sync.Mutex
	names map[uint32]string // of programs, by id
}

func newBPFStats() *bpfStats { return &bpfStats{names: make(map[uint32]string)} }

// bpfUsage is what one process holds, from /proc/PID/fdinfo: run time by
// program id, and the memory of maps (memlock, both of kernel/bpf/syscall.c).
type bpfUsage struct {
	runTime  map[uint32]time.Duration
	mapBytes uint64
}

func readBPF(pid int) bpfUsage {
	u := bpfUsage{runTime: make(map[uint32]time.Duration)}
	seen := make(map[string]bool)
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	for _, file := range files {
		info := readFDInfo(file)
		if id := info["prog_id"]; id != "" && info["run_time_ns"] != "" {
			n, _ := strconv.ParseUint(id, 10, 32)
			ns, _ := strconv.ParseInt(info["run_time_ns"], 10, 64)
			u.runTime[uint32(n)] = time.Duration(ns)
		}
		if id := info["map_id"]; id != "" && !seen[id] {
			seen[id] = true
			bytes, _ := strconv.ParseUint(info["memlock"], 10, 64)
			u.mapBytes += bytes
		}
	}
	return u
}

func readFDInfo(file string) map[string]string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	info := make(map[string]string)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		info[key] = strings.TrimSpace(value)
	}
	return info
}

// sampleBPF measures the run time of all children's programs in a short window
// and takes it for the time since the last.
func (m *Manager) sampleBPF(ctx context.Context) {
	runners := m.runners()
	enabled, err := ebpf.EnableStats(ebpfStatsRunTime)
	if err != nil {
		return
	}
	defer enabled.Close()
	before := make(map[*runner]bpfUsage)
	for _, r := range runners {
		before[r] = readBPF(r.current().process.Pid())
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(statsWindow):
	}
	for _, r := range runners {
		r.account(before[r], readBPF(r.current().process.Pid()), m.stats)
	}
}

// ebpfStatsRunTime is BPF_STATS_RUN_TIME of include/uapi/linux/bpf.h.
const ebpfStatsRunTime = 0

// countSkipped takes what the kernel did not let the child's programs see.
// Programs on tracepoints share one guard for each CPU (bpf_prog_active,
// trace_call_bpf in kernel/trace/bpf_trace.c), so that an event in an interrupt
// can fall into another program's run.
func (r *runner) countSkipped(stats *bpfStats) {
	c := r.current()
	if !c.isAttached() {
		return
	}
	c.skips.Lock()
	defer c.skips.Unlock()
	for id, n := range c.skips.read(c.process.Pid()) {
		before := c.skips.taken[id]
		if n <= before {
			continue
		}
		c.skips.taken[id] = n
		if owners := r.owners(stats.name(id)); len(owners) == 1 {
			r.member(owners[0]).feed.takeSkipped(n - before)
		}
	}
}

// skips are the runs that were skipped of one child's programs.
type skips struct {
	sync.Mutex
	files []string          // in /proc/PID/fdinfo, of programs
	taken map[uint32]uint64 // by program id
}

// read returns how often each program was skipped so far. The descriptors of a
// child that is attached do not change.
func (s *skips) read(pid int) map[uint32]uint64 {
	if s.files == nil {
		s.taken = make(map[uint32]uint64)
		all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
		for _, file := range all {
			if readFDInfo(file)["recursion_misses"] != "" {
				s.files = append(s.files, file)
			}
		}
	}
	skipped := make(map[uint32]uint64, len(s.files))
	for _, file := range s.files {
		info := readFDInfo(file)
		id, err := strconv.ParseUint(info["prog_id"], 10, 32)
		if n, nErr := strconv.ParseUint(info["recursion_misses"], 10, 64); err == nil && nErr == nil {
			skipped[uint32(id)] = n
		}
	}
	return skipped
}

func (r *runner) member(name string) *member {
	for _, m := range r.members {
		if m.tool.def.Name == name {
			return m
		}
	}
	return nil
}

func (r *runner) account(before, after bpfUsage, stats *bpfStats) {
	times := make(map[uint32]time.Duration)
	for id, t := range after.runTime {
		if was, ok := before.runTime[id]; ok {
			times[id] = t - was
		}
	}
	scale := float64(statsInterval) / float64(statsWindow)
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, t := range times {
		owners := r.owners(stats.name(id))
		for _, tool := range owners {
			r.bpf[tool] += t.Seconds() * scale / float64(len(owners))
		}
	}
}

// owners are the tools that a program can belong to: bpftrace names it after
// its tracepoint, cut to 15 bytes.
func (r *runner) owners(program string) []string {
	var fit, all []string
	for _, member := range r.members {
		name := member.tool.def.Name
		all = append(all, name)
		script, err := member.tool.def.Script(member.source, member.tool.options)
		if err != nil {
			continue
		}
		for _, tp := range tracepoints(script) {
			_, event, _ := strings.Cut(tp, ":")
			if program != "" && strings.HasPrefix(event, program[:min(len(program), 15)]) {
				fit = append(fit, name)
				break
			}
		}
	}
	if len(fit) > 0 {
		return fit
	}
	return all
}

// name is a program's, which costs two system calls, once.
func (s *bpfStats) name(id uint32) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name, ok := s.names[id]; ok {
		return name
	}
	if len(s.names) > 1000 {
		clear(s.names)
	}
	var name string
	if program, err := ebpf.NewProgramFromID(ebpf.ProgramID(id)); err == nil {
		if info, err := program.Info(); err == nil {
			name = info.Name
		}
		program.Close()
	}
	s.names[id] = name
	return name
}
