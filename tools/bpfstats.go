package tools

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
)

// bpfStats reads what the kernel knows of the BPF programs and maps of the
// children.
type bpfStats struct {
	names map[uint32]string // of programs, by id
}

func newBPFStats() *bpfStats { return &bpfStats{names: make(map[uint32]string)} }

// bpfUsage is what one process holds, from /proc/PID/fdinfo: run time by
// program id, and the memory of maps (memlock, kernel/bpf/syscall.c).
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
		m.measureMaps(runners)
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

func (m *Manager) measureMaps(runners []*runner) {
	for _, r := range runners {
		u := readBPF(r.current().process.Pid())
		r.mu.Lock()
		r.maps = u.mapBytes
		r.mu.Unlock()
	}
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
	r.maps = after.mapBytes
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
		script, err := member.tool.def.Script(member.source)
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
