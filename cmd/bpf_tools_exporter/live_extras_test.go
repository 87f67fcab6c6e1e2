package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The small tools that are off by default, in one exporter.
func TestLiveExtras(t *testing.T) {
	needLive(t)
	e := startExporter(t, "--collector.exitsnoop", "--collector.tcpconnlat", "--collector.softirqs", "--collector.syscount", "--collector.syscount.time", "--collector.oomkill")
	t.Run("exitsnoop", func(t *testing.T) { testExits(t, e) })
	t.Run("tcpconnlat", func(t *testing.T) { testConnections(t, e) })
	t.Run("softirqs", func(t *testing.T) { testSoftirqs(t, e) })
	t.Run("syscount", func(t *testing.T) { testSystemCalls(t, e) })
	t.Run("oomkill", func(t *testing.T) { testOOMKills(t, e) })
}

func testExits(t *testing.T, e *exporter) {
	const exits = "bpf_exitsnoop_exits_total"
	name := uniqueName("exits")
	const n = 5
	for range n {
		runHelper(t, name, "wait-for-stdin")
		failed := startHelper(t, name, "exit", "3")
		_ = failed.cmd.Wait()
		for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
			killed := startHelper(t, name, "wait-loudly")
			killed.line(t) // its runtime handles signals by now
			if err := killed.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = killed.cmd.Wait()
		}
	}
	e.expectCounts(t,
		count{exits, labels{"comm": name, "status": "0", "signal": "none"}, n},
		count{exits, labels{"comm": name, "status": "3", "signal": "none"}, n},
		count{exits, labels{"comm": name, "status": "signal", "signal": "SIGTERM"}, n},
		count{exits, labels{"comm": name, "status": "signal", "signal": "SIGKILL"}, n},
		count{exits, labels{"comm": name}, 4 * n},
	)
}

// Others connect too: one undisturbed measurement in a few must be exact.
func testConnections(t *testing.T, e *exporter) {
	const n, metric = 50, "bpf_tcpconnlat_seconds"
	for try := 1; ; try++ {
		before := e.scrape(t)
		client := uniqueName("cli")
		runSessions(t, uniqueName("srv"), client, "::1", n, 100, 100)
		after := e.scrape(t)
		got := after.sum(metric, labels{"family": "ipv6"}) - before.sum(metric, labels{"family": "ipv6"})
		if got == n {
			if events := e.mustGet(t, "/tools/tcpconnlat/events?n=1000"); !strings.Contains(events, client) {
				t.Errorf("no row of %s among\n%s", client, events)
			}
			return
		}
		if try == attempts {
			t.Fatalf("rose by %v, want %v", got, n)
		}
	}
}

// The kernel counts in /proc/softirqs what it is about to run. Between two
// readings, none is counted that did not run, and what ran was counted or the
// kernel says that it skipped the program.
func testSoftirqs(t *testing.T, e *exporter) {
	const metric = "bpf_softirqs_seconds"
	bpftrace := theChild(t, e, "bpftrace")
	skipped := skippedPrograms(bpftrace)
	outer, before, inner := readSoftirqs(t), e.scrape(t), readSoftirqs(t)
	runSessions(t, uniqueName("srv"), uniqueName("cli"), "127.0.0.1", 50, 1000, 1000)
	time.Sleep(time.Second)
	innerAfter, after, outerAfter := readSoftirqs(t), e.scrape(t), readSoftirqs(t)
	lost := skippedPrograms(bpftrace) - skipped
	for vector := range outer {
		got := after.sum(metric, labels{"vector": vector}) - before.sum(metric, labels{"vector": vector})
		least, most := innerAfter[vector]-inner[vector], outerAfter[vector]-outer[vector]
		t.Logf("%s: %v, kernel %v to %v, skipped %v of all", vector, got, least, most, lost)
		// One on each CPU may be under way at either reading.
		slack := 2 * float64(runtime.NumCPU())
		if got > most+slack || got+lost+slack < least {
			t.Errorf("%s rose by %v, the kernel says %v to %v, and %v skipped", vector, got, least, most, lost)
		}
	}
	if net := outerAfter["net_rx"] - outer["net_rx"]; net < 50 {
		t.Errorf("net_rx ran %v times, want some for each session", net)
	}
}

// readSoftirqs sums up /proc/softirqs by vector, in small letters.
func readSoftirqs(t *testing.T) map[string]float64 {
	t.Helper()
	data, err := os.ReadFile("/proc/softirqs")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for line := range strings.Lines(string(data)) {
		vector, cells, ok := strings.Cut(strings.TrimSpace(line), ":")
		for _, cell := range strings.Fields(cells) {
			n, err := strconv.ParseFloat(cell, 64)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				all[strings.ToLower(vector)] += n
			}
		}
	}
	return all
}

func testSystemCalls(t *testing.T, e *exporter) {
	const n = 5000
	which := labels{"syscall": "sched_get_priority_max"}
	for try := 1; ; try++ {
		before, begin := e.scrape(t), time.Now()
		runHelper(t, uniqueName("program"), "system-calls", strconv.Itoa(n))
		took := time.Since(begin)
		after := e.scrape(t)
		got := after.sum("bpf_syscount_calls_total", which) - before.sum("bpf_syscount_calls_total", which)
		seconds := after.sum("bpf_syscount_seconds_total", which) - before.sum("bpf_syscount_seconds_total", which)
		if got == n && seconds > 0 && seconds < took.Seconds() {
			return
		}
		if try == attempts {
			t.Fatalf("rose by %v calls and %v s in %s, want %v", got, seconds, took, n)
		}
	}
}

func testOOMKills(t *testing.T, e *exporter) {
	group := memoryGroup(t, 32<<20)
	name := uniqueName("oom")
	const n = 3
	for range n {
		victim := startHelper(t, name, "eat-memory", group)
		err := victim.cmd.Wait()
		if status, ok := victim.cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); err == nil || !ok || status.Signal() != unix.SIGKILL {
			t.Fatalf("the victim ended with %v, want killed\n%s", err, victim.stderr.Bytes())
		}
	}
	e.expectCounts(t, count{"bpf_oomkill_kills_total", labels{"comm": name}, n})
	if events := e.mustGet(t, "/tools/oomkill/events?n=10"); !strings.Contains(events, `"trigger_comm":"`+name+`"`) {
		t.Errorf("no row of %s among\n%s", name, events)
	}
}

// memoryGroup makes a control group with so much memory and no swap, of either
// version.
func memoryGroup(t *testing.T, limit int64) string {
	t.Helper()
	name := uniqueName("test")
	for _, c := range []struct{ root, limit, swap string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"},
		{"/sys/fs/cgroup", "memory.max", "memory.swap.max"},
	} {
		dir := filepath.Join(c.root, name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if os.WriteFile(filepath.Join(dir, c.limit), []byte(strconv.FormatInt(limit, 10)), 0) != nil {
			_ = os.Remove(dir)
			continue
		}
		swap := "0"
		if c.root != "/sys/fs/cgroup" {
			swap = strconv.FormatInt(limit, 10)
		}
		_ = os.WriteFile(filepath.Join(dir, c.swap), []byte(swap), 0) // not there without swap accounting
		t.Cleanup(func() { _ = os.Remove(dir) })
		return dir
	}
	cannotRun(t, "no control group with a limit of memory can be made here")
	return ""
}

// takeComm gives the calling thread, which stays the goroutine's, a comm.
func takeComm(name string) error {
	runtime.LockOSThread()
	return os.WriteFile(fmt.Sprintf("/proc/self/task/%d/comm", unix.Gettid()), []byte(name), 0)
}

func exitHelper(args []string) error {
	code, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	os.Exit(code)
	return nil
}

func waitLoudlyHelper([]string) error {
	fmt.Println("waiting")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func systemCallsHelper(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	for range n {
		if _, _, errno := unix.RawSyscall(unix.SYS_SCHED_GET_PRIORITY_MAX, 0, 0, 0); errno != 0 {
			return errno
		}
	}
	return nil
}

// eatMemoryHelper joins a control group and takes more memory than that has.
func eatMemoryHelper(args []string) error {
	if err := os.WriteFile(filepath.Join(args[0], "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	memory, err := unix.Mmap(-1, 0, 256<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	return nil
}
