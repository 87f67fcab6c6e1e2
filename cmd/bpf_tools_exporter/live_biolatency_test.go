package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const biolatency = "bpf_biolatency_seconds"

// diskstats are the completed requests of a block device, by what
// Documentation/admin-guide/iostats.rst calls them: fields 1, 5, 12 and 16.
type diskstats struct{ reads, writes, discards, flushes float64 }

func readDiskstats(device string) (diskstats, error) {
	data, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return diskstats{}, err
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 19 || fields[2] != device {
			continue
		}
		var d diskstats
		for at, to := range map[int]*float64{3: &d.reads, 7: &d.writes, 14: &d.discards, 18: &d.flushes} {
			if *to, err = strconv.ParseFloat(fields[at], 64); err != nil {
				return diskstats{}, err
			}
		}
		return d, nil
	}
	return diskstats{}, fmt.Errorf("no %s in /proc/diskstats", device)
}

// The count of biolatency equals the requests that the kernel says it
// completed, operation by operation:
//
//   - Requests that were merged are one here and one there.
//
//   - A flush is one empty write here and one there, where it is counted apart
//     too (field 16, which we have not). To the tracepoints it is an issue as FF
//     and an end as WS of no sectors, with a second end that nothing began.
//
//   - The kernel skips a BPF program whose tracepoint interrupts another BPF
//     program on that CPU, and says how often (recursion_misses). On a machine
//     that is busy with events of other tools so many may be missing.
//
// A loop device of our own has no I/O but ours and must match at once. On the
// device of the temporary folder others write too: a measurement that they
// disturbed between the readings is repeated.
func TestLiveBlockIO(t *testing.T) {
	needLive(t)
	e := startExporter(t)
	idleAndBusy(t, e, func(t *testing.T) {
		t.Run("loop device", func(t *testing.T) {
			device := loopDevice(t, 32<<20)
			got := measureIO(t, e, filepath.Base(device), func() { directIO(t, device, 300, 200) })
			t.Log(got)
			want := diskstats{reads: 200, writes: 300 + got.kernel.flushes, flushes: got.kernel.flushes}
			if got.kernel != want || !got.same() {
				t.Errorf("want exactly %+v, and the same counted but for what was skipped", want)
			}
		})
		t.Run("file", func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "io")
			if err := os.WriteFile(file, make([]byte, 32<<20), 0o644); err != nil {
				t.Fatal(err)
			}
			device, err := deviceOf(file)
			if err != nil {
				cannotRun(t, "no block device below the temporary folder: "+err.Error())
			}
			unix.Sync()
			for try := 1; ; try++ {
				got := measureIO(t, e, device, func() { directIO(t, file, 300, 200) })
				t.Log(got)
				if got.same() && got.kernel.writes >= 300 && got.kernel.reads >= 200 {
					return
				}
				if try == attempts {
					t.Fatalf("%s: want the same, at least 300 writes and 200 reads", got)
				}
			}
		})
	})
}

// ioCounts are by how much the counters of one device rose: the kernel's, and
// ours, which do not know flushes apart, and the runs that the kernel skipped.
type ioCounts struct {
	kernel, counted diskstats
	skipped         float64
}

func (c ioCounts) String() string {
	return fmt.Sprintf("diskstats %+v, counted %+v, skipped %v", c.kernel, c.counted, c.skipped)
}

func (c ioCounts) same() bool {
	reads, writes, discards := c.kernel.reads-c.counted.reads, c.kernel.writes-c.counted.writes, c.kernel.discards-c.counted.discards
	return min(reads, writes, discards) >= 0 && reads+writes+discards <= c.skipped
}

func measureIO(t *testing.T, e *exporter, device string, work func()) ioCounts {
	t.Helper()
	bpftrace := descendants(e.pid)[0]
	skippedBefore, kernelBefore, before := skippedPrograms(bpftrace), mustReadDiskstats(t, device), e.scrape(t)
	work()
	after, kernelAfter := e.scrape(t), mustReadDiskstats(t, device)
	rise := func(operation string) float64 {
		which := labels{"device": device, "operation": operation}
		return after.sum(biolatency, which) - before.sum(biolatency, which)
	}
	return ioCounts{
		kernel: diskstats{
			kernelAfter.reads - kernelBefore.reads, kernelAfter.writes - kernelBefore.writes,
			kernelAfter.discards - kernelBefore.discards, kernelAfter.flushes - kernelBefore.flushes,
		},
		counted: diskstats{rise("read"), rise("write"), rise("discard"), 0},
		skipped: skippedPrograms(bpftrace) - skippedBefore,
	}
}

// skippedPrograms is how often the kernel skipped one of a process's BPF
// programs.
func skippedPrograms(p proc) float64 {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", p.pid))
	skipped := make(map[string]float64)
	for _, file := range files {
		info, _ := os.ReadFile(file)
		id, misses := "", 0.0
		for line := range strings.Lines(string(info)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			switch key {
			case "prog_id":
				id = strings.TrimSpace(value)
			case "recursion_misses":
				misses, _ = strconv.ParseFloat(strings.TrimSpace(value), 64)
			}
		}
		if id != "" {
			skipped[id] = misses
		}
	}
	var sum float64
	for _, misses := range skipped {
		sum += misses
	}
	return sum
}

func mustReadDiskstats(t *testing.T, device string) diskstats {
	t.Helper()
	d, err := readDiskstats(device)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// deviceOf is the name of the block device that a file is on.
func deviceOf(file string) (string, error) {
	var s unix.Stat_t
	if err := unix.Stat(file, &s); err != nil {
		return "", err
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(s.Dev), unix.Minor(s.Dev)))
	if err != nil {
		return "", err
	}
	return filepath.Base(link), nil
}

// directIO writes and reads single blocks past the page cache, with a flush
// after every hundredth write.
func directIO(t *testing.T, path string, writes, reads int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(block)
	for i := range writes {
		if _, err := f.WriteAt(block, rand.Int64N(8192)*4096); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range reads {
		if _, err := f.ReadAt(block, rand.Int64N(8192)*4096); err != nil {
			t.Fatal(err)
		}
	}
}

// loopDevice returns a loop device over a file of its own.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		cannotRun(t, "no loop devices: "+err.Error())
	}
	defer control.Close()
	for range attempts {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		device, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			cannotRun(t, "no loop device: "+err.Error())
		}
		err = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(file.Fd()))
		if errors.Is(err, unix.EBUSY) { // taken by somebody else meanwhile
			device.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0)
			device.Close()
		})
		return path
	}
	cannotRun(t, "all loop devices are taken")
	return ""
}
