package tools

import (
	"math"
	"os"
	"runtime"
	"testing"
	"time"
)

// footprint is what the process holds: the least of some samples, as a child
// that runs at the moment has files and goroutines of its own.
type footprint struct {
	files, goroutines int
	heap              uint64
}

func takeFootprint(t *testing.T) footprint {
	t.Helper()
	least := footprint{math.MaxInt, math.MaxInt, math.MaxUint64}
	for range 30 {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		least.files = min(least.files, len(files))
		least.goroutines = min(least.goroutines, runtime.NumGoroutine())
		least.heap = min(least.heap, memory.HeapAlloc)
		time.Sleep(50 * time.Millisecond)
	}
	return least
}

// A tool that dies again and again leaves nothing behind: neither files nor
// goroutines nor memory.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	m, _ := fakeManager(t, func(cfg *Config) { cfg.RestartMaxDelay = time.Nanosecond }, "die")
	restarts := func() uint64 { return status(t, m, "fake").Restarts["exit"] }
	eventually(t, "the first restarts", func() bool { return restarts() >= 5 })
	before, from := takeFootprint(t), restarts()
	eventually(t, "thirty more restarts", func() bool { return restarts() >= from+30 })
	after := takeFootprint(t)
	t.Logf("%d restarts: %+v before, %+v after", restarts()-from, before, after)
	if after.files > before.files {
		t.Errorf("%d files are open, there were %d", after.files, before.files)
	}
	if after.goroutines > before.goroutines {
		t.Errorf("%d goroutines, there were %d", after.goroutines, before.goroutines)
	}
	if after.heap > before.heap+1<<20 {
		t.Errorf("%d bytes of heap, there were %d", after.heap, before.heap)
	}
}
