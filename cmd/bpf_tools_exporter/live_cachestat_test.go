package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Cachestat counts the reads of the whole machine, so a measurement that others
// disturbed is repeated.
const attempts = 4

// 64 MiB that are not in the page cache are read by one process, and then by
// another: as one file, which comes in by readahead, and as many.
func TestLivePageCache(t *testing.T) {
	needLive(t)
	e := startExporter(t)
	const pages = 64 << 20 >> 12
	for _, c := range []struct {
		name        string
		files, size int
	}{
		{"one file", 1, 64 << 20},
		{"many files", 4096, 16 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			idleAndBusy(t, e, func(t *testing.T) {
				busy := strings.HasSuffix(t.Name(), "busy")
				var faults []string
				for range attempts {
					got := readColdAndWarm(t, e, coldFiles(t, c.files, c.size))
					t.Log(got)
					if got.plausible(pages, busy) {
						return
					}
					faults = append(faults, got.String())
				}
				t.Errorf("want within 2 %% of %d: cold all misses, warm all hits; got %q", pages, faults)
			})
		})
	}
}

// cacheReads is what two processes in a row found in the page cache, in pages.
type cacheReads struct{ coldHits, coldMisses, warmHits, warmMisses float64 }

func (r cacheReads) String() string {
	return fmt.Sprintf("cold: %v hits, %v misses; warm: %v hits, %v misses", r.coldHits, r.coldMisses, r.warmHits, r.warmMisses)
}

// plausible tells whether the first read missed all pages and the second hit
// them all, within 2 %. An exec reads its program too: with those in the
// background there are more hits.
func (r cacheReads) plausible(pages float64, busy bool) bool {
	near := func(got, want float64) bool { return got >= want-pages*0.02 && got <= want+pages*0.02 }
	if busy {
		r.coldHits, r.warmHits = min(r.coldHits, 0), min(r.warmHits, pages)
	}
	return near(r.coldHits, 0) && near(r.coldMisses, pages) && near(r.warmHits, pages) && near(r.warmMisses, 0)
}

func readColdAndWarm(t *testing.T, e *exporter, files []string) cacheReads {
	t.Helper()
	var at [3]metrics
	at[0] = e.scrape(t)
	for i := 1; i < len(at); i++ {
		runHelper(t, uniqueName("reader"), "read-files", filepath.Dir(files[0]))
		at[i] = e.scrape(t)
	}
	rise := func(i int, name string) float64 { return at[i+1].sum(name, nil) - at[i].sum(name, nil) }
	const hits, misses = "bpf_cachestat_hits_total", "bpf_cachestat_misses_total"
	return cacheReads{rise(0, hits), rise(0, misses), rise(1, hits), rise(1, misses)}
}

// coldFiles returns files, in a folder of their own, whose pages are on the
// disk only.
func coldFiles(t *testing.T, n, size int) []string {
	t.Helper()
	dir := t.TempDir()
	files := make([]string, n)
	for i := range files {
		files[i] = filepath.Join(dir, fmt.Sprintf("cold%d", i))
		if err := os.WriteFile(files[i], make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	unix.Sync()
	for _, file := range files {
		if err := evict(file); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// evict drops a file's clean pages from the page cache.
func evict(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// readFilesHelper reads all files of a folder.
func readFilesHelper(args []string) error {
	entries, err := os.ReadDir(args[0])
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return err
		}
		// No more than there is: what is asked for beyond the end of a file
		// counts as accessed too.
		buffer := make([]byte, min(info.Size(), 1<<17))
		if err := readFile(filepath.Join(args[0], entry.Name()), buffer); err != nil {
			return err
		}
	}
	return nil
}

func readFile(name string, buffer []byte) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	// Without ReadFrom and WriteTo, which choose buffers of their own.
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buffer)
	return err
}
