package selftest

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cpuTime   = 500 * time.Millisecond
	schedTime = 300 * time.Millisecond
)

// cpu computes for half a second of CPU time.
func (w *worker) cpu() error {
	begin, err := processTime()
	if err != nil {
		return err
	}
	for now := begin; now-begin < cpuTime; {
		spin(time.Millisecond)
		if now, err = processTime(); err != nil {
			return err
		}
	}
	w.did("cpu", map[string]float64{"cpu_seconds": cpuTime.Seconds()})
	return nil
}

func processTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// spin does not give the CPU back.
func spin(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

// sched has two threads compete for one CPU, which the kernel then gives to
// them by turns.
func (w *worker) sched() error {
	var set, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	for cpu := range 1 << 14 {
		if set.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	var all sync.WaitGroup
	turns, faults := make([]float64, 2), make([]error, 2)
	for i := range turns {
		all.Go(func() { turns[i], faults[i] = compete(&one) })
	}
	all.Wait()
	for _, err := range faults {
		if err != nil {
			return err
		}
	}
	w.did("sched", map[string]float64{"waits": turns[0] + turns[1]})
	return nil
}

// compete returns how often the thread was given the CPU. The thread ends with
// the goroutine, as it stays on that CPU.
func compete(on *unix.CPUSet) (float64, error) {
	runtime.LockOSThread()
	if err := unix.SchedSetaffinity(0, on); err != nil {
		return 0, fmt.Errorf("sched_setaffinity: %w", err)
	}
	before, err := timeslices()
	if err != nil {
		return 0, err
	}
	for end := time.Now().Add(schedTime); time.Now().Before(end); {
		spin(time.Millisecond)
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	after, err := timeslices()
	return after - before, err
}

// timeslices is the third number of /proc/PID/schedstat.
func timeslices() (float64, error) {
	text, err := os.ReadFile("/proc/thread-self/schedstat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 3 {
		return 0, fmt.Errorf("schedstat %q: too few fields", text)
	}
	return strconv.ParseFloat(fields[2], 64)
}
