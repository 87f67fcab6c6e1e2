package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The workloads do something n times and wait for all of its events.

// execWork executes a small program.
func execWork(b *testing.B) func(n int) error {
	b.Helper()
	program, err := exec.LookPath("true")
	if err != nil {
		b.Fatal(err)
	}
	return func(n int) error {
		for range n {
			if err := execute(program, "true"); err != nil {
				return err
			}
		}
		return nil
	}
}

// tcpWork has sessions over loopback, without data. Each has two ends.
func tcpWork(b *testing.B) func(n int) error {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	accepted := make(chan error)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, err = io.Copy(io.Discard, c)
			accepted <- errors.Join(err, c.Close())
		}
	}()
	b.Cleanup(func() {
		l.Close()
		<-accepted
	})
	return func(n int) error {
		for range n {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			if err := errors.Join(c.Close(), <-accepted); err != nil {
				return err
			}
		}
		return nil
	}
}

// openWork opens and closes a file.
func openWork(b *testing.B) func(n int) error {
	b.Helper()
	file := benchFile(b)
	return func(n int) error {
		for range n {
			fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			unix.Close(fd)
		}
		return nil
	}
}

// blockWork reads single blocks from a device, past the page cache; nil if no
// block device is below the temporary folder.
func blockWork(b *testing.B) func(n int) error {
	b.Helper()
	file := benchFile(b)
	if _, err := deviceOf(file); err != nil {
		fmt.Printf("no block device below the temporary folder: %v: block I/O is left out\n", err)
		return nil
	}
	return readWork(b, file, unix.O_DIRECT)
}

// cacheWork reads single pages that are in the page cache.
func cacheWork(b *testing.B) func(n int) error {
	b.Helper()
	return readWork(b, benchFile(b), 0)
}

const benchPage, benchPages = 4096, 1024

func readWork(b *testing.B, file string, flags int) func(n int) error {
	b.Helper()
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		b.Fatal(err)
	}
	page, err := unix.Mmap(-1, 0, benchPage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // aligned
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		unix.Close(fd)
		_ = unix.Munmap(page)
	})
	return func(n int) error {
		for i := range n {
			if _, err := unix.Pread(fd, page, int64(i%benchPages)*benchPage); err != nil {
				return err
			}
		}
		return nil
	}
}

// benchFile is a file of benchPages pages that are on the disk.
func benchFile(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	_, err = f.Write(make([]byte, benchPage*benchPages))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		b.Fatal(err)
	}
	return path
}

// benchThroughput compares how fast workloads run with and without the
// exporter: pairs in alternating order, the median of their ratios.
func benchThroughput(b *testing.B) []figure {
	const pairs = 5
	works := []struct {
		what, unit string
		n          int
		work       func(n int) error
		expected   string
	}{
		{"exec_loop", "execs/s", 1000, execWork(b), ""},
		{"loopback_connections", "sessions/s", 4000, tcpWork(b), ""},
		{"open_loop", "opens/s", 400_000, openWork(b), "1.0"},
		{"direct_reads", "reads/s", 4000, blockWork(b), ""},
	}
	// rates of each workload, in one state of the exporter.
	rates := func() []float64 {
		all := make([]float64, len(works))
		for i, w := range works {
			if w.work == nil {
				continue
			}
			begin := time.Now()
			if err := w.work(w.n); err != nil {
				b.Fatal(err)
			}
			all[i] = float64(w.n) / time.Since(begin).Seconds()
		}
		return all
	}
	with, without := make([][]float64, pairs), make([][]float64, pairs)
	rates() // the first run of anything is slow
	// off on, on off, off on, ...: one exporter serves two pairs.
	var running *tracer
	for i := range pairs {
		if running == nil {
			without[i] = rates()
			running = benchExporter(b)
			with[i] = rates()
			continue
		}
		with[i] = rates()
		running.end()
		running = nil
		without[i] = rates()
	}
	if running != nil {
		running.end()
	}
	var figures []figure
	for i, w := range works {
		if w.work == nil {
			continue
		}
		ours, bare, ratios := make([]float64, pairs), make([]float64, pairs), make([]float64, pairs)
		for p := range pairs {
			ours[p], bare[p], ratios[p] = with[p][i], without[p][i], with[p][i]/without[p][i]
		}
		base := median(bare)
		figures = append(figures, figure{what: "throughput_" + w.what, unit: w.unit, ours: base * median(ratios), bare: base,
			beside: "without the exporter; the ratio is the median of pairs", expected: w.expected})
	}
	return figures
}
