package selftest

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// files reads, writes and syncs a file, if there is a place for it on that file
// system.
func (w *worker) files(workload string) error {
	if w.Dir == "" {
		return errors.New(w.NoDir)
	}
	if w.FileSystem != workload {
		return fmt.Errorf("%s is on %s, not on %s", w.Dir, w.FileSystem, workload)
	}
	f, err := unnamed(w.Dir, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buffer := make([]byte, blockSize)
	for i := range w.Files {
		if _, err := f.WriteAt(buffer, int64(i)*blockSize); err != nil {
			return err
		}
	}
	for i := range w.Files {
		if _, err := f.ReadAt(buffer, int64(i)*blockSize); err != nil {
			return err
		}
	}
	const syncs = 2
	for range syncs {
		if _, err := f.WriteAt(buffer, 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	w.did(workload, map[string]float64{"reads": float64(w.Files), "writes": float64(w.Files + syncs), "syncs": syncs})
	return nil
}

func fileSystem(dir string) string {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return ""
	}
	return fileSystems[int64(s.Type)]
}
