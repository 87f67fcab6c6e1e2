package process

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// userHZ is the unit of CPU times in /proc/PID/stat, 1/100 s on every architecture that Go runs on.
const userHZ = 100

// Usage is what a process has cost so far.
type Usage struct {
	UserSeconds   float64   // CPU time in user space
	SystemSeconds float64   // CPU time in the kernel
	ResidentBytes uint64    // resident set size; the kernel keeps it to within some pages per CPU
	StdoutBytes   uint64    // bytes read from stdout
	LastOutput    time.Time // when stdout last brought something; zero if it never did
}

// Usage reads /proc/PID/stat and /proc/PID/statm. Once the child is reaped it returns the final CPU times
// of wait4(2), and no resident memory.
func (p *Process) Usage() (Usage, error) {
	u := Usage{StdoutBytes: p.stdout.bytes.Load()}
	if last := p.stdout.last.Load(); last != 0 {
		u.LastOutput = time.Unix(0, last)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		if p.state != nil {
			u.UserSeconds, u.SystemSeconds = p.state.UserTime().Seconds(), p.state.SystemTime().Seconds()
		}
		return u, nil
	}
	return u, u.read(p.pid)
}

func (u *Usage) read(pid int) error {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err
	}
	if u.UserSeconds, u.SystemSeconds, err = parseStat(stat); err != nil {
		return err
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return err
	}
	u.ResidentBytes, err = parseStatm(statm)
	return err
}

// parseStat returns fields 14 and 15 of /proc/PID/stat in seconds. Field 2, comm, may hold blanks,
// newlines and parentheses; nothing after it does.
func parseStat(stat []byte) (user, system float64, err error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("stat %q: too few fields", stat)
	}
	utime, err := strconv.ParseUint(string(fields[11]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("stat: utime: %w", err)
	}
	stime, err := strconv.ParseUint(string(fields[12]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("stat: stime: %w", err)
	}
	return float64(utime) / userHZ, float64(stime) / userHZ, nil
}

// parseStatm returns the second field of /proc/PID/statm, resident pages, in bytes.
func parseStatm(statm []byte) (uint64, error) {
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm %q: too few fields", statm)
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("statm: resident: %w", err)
	}
	return pages * uint64(os.Getpagesize()), nil
}
