package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// What biosnoop counts on a loop device of our own is what /proc/diskstats
// says: requests, bytes (fields 3 and 7, in sectors) and, as it is small, all of
// it in the first two buckets of 16 MiB. What the kernel skipped may be missing.
func TestLiveBlockSnoop(t *testing.T) {
	needLive(t)
	for _, option := range []string{"--no-collector.biosnoop.queued", "--collector.biosnoop.queued"} {
		t.Run(option, func(t *testing.T) {
			e := startExporter(t, "--collector.biosnoop", option)
			device := loopDevice(t, 32<<20)
			disk := filepath.Base(device)
			bpftrace := theChild(t, e, "bpftrace")
			skipped, kernel, before := skippedPrograms(bpftrace), readSectors(t, disk), e.scrape(t)
			directIO(t, device, 300, 200)
			after, kernelAfter := e.scrape(t), readSectors(t, disk)
			lost := skippedPrograms(bpftrace) - skipped
			rise := func(metric, operation string) float64 {
				which := labels{"device": disk, "operation": operation}
				return after.sum(metric, which) - before.sum(metric, which)
			}
			reads, writes := rise("bpf_biosnoop_latency_seconds", "read"), rise("bpf_biosnoop_latency_seconds", "write")
			readBytes, writtenBytes := rise("bpf_biosnoop_bytes_total", "read"), rise("bpf_biosnoop_bytes_total", "write")
			flushes := writes - 300
			t.Logf("%v reads of %v bytes, %v writes of %v bytes, %v of them flushes, %v skipped", reads, readBytes, writes, writtenBytes, flushes, lost)
			wantRead, wantWritten := 512*(kernelAfter.read-kernel.read), 512*(kernelAfter.written-kernel.written)
			if wantRead != 200*4096 || wantWritten != 300*4096 {
				t.Fatalf("the kernel counted %v and %v bytes, want %v and %v", wantRead, wantWritten, 200*4096, 300*4096)
			}
			if reads > 200 || reads < 200-lost || readBytes != reads*4096 {
				t.Errorf("%v reads of %v bytes, want 200 of 4096 each but for what was skipped", reads, readBytes)
			}
			if writtenBytes > wantWritten || writtenBytes < wantWritten-lost*4096 || flushes < 0-lost || flushes > 4 {
				t.Errorf("%v writes of %v bytes, want 300 of 4096 each, and flushes of none", writes, writtenBytes)
			}
			expectOffsets(t, after, disk, (readBytes+writtenBytes)/4096)
		})
	}
}

// expectOffsets looks at the linear histogram of a disk of 32 MiB.
func expectOffsets(t *testing.T, m metrics, disk string, n float64) {
	t.Helper()
	series := m.series("bpf_biosnoop_offset_bytes", labels{"device": disk})
	if len(series) != 1 {
		t.Fatalf("%d series of offsets, want 1", len(series))
	}
	buckets := series[0].Histogram.Bucket
	if len(buckets) != 65 {
		t.Fatalf("%d buckets, want 64 and +Inf", len(buckets))
	}
	const width = 16 << 20
	for i, b := range buckets[:64] {
		if b.GetUpperBound() != float64((i+1)*width) {
			t.Errorf("bucket %d ends at %v, want %v", i, b.GetUpperBound(), (i+1)*width)
		}
	}
	first, second := float64(buckets[0].GetCumulativeCount()), float64(buckets[1].GetCumulativeCount())
	if second != n || float64(buckets[64].GetCumulativeCount()) != n || first < n/4 || first > n*3/4 {
		t.Errorf("%v of %v in the first 16 MiB, %v in 32: want about half, and all", first, n, second)
	}
}

// sectors are those that a device has read and written.
type sectors struct{ read, written float64 }

func readSectors(t *testing.T, device string) sectors {
	t.Helper()
	data, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 14 || fields[2] != device {
			continue
		}
		read, err1 := strconv.ParseFloat(fields[5], 64)
		written, err2 := strconv.ParseFloat(fields[9], 64)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		return sectors{read, written}
	}
	t.Fatal(fmt.Errorf("no %s in /proc/diskstats", device))
	return sectors{}
}
