package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// On a file system of our own everything that is done is known: nobody else
// has XFS mounted where it counts exactly, and with ext4 what others do comes on
// top. Both tools are one macro.
func TestLiveFileOperations(t *testing.T) {
	needLive(t, "mkfs.xfs", "mke2fs")
	e := startExporter(t, "--collector.fsslower", "--collector.fsslower.threshold=0", "--collector.ext4slower", "--collector.ext4slower.threshold=0")
	e.stopWithin = detachTimeout
	for _, c := range []struct {
		tool, mkfs string
		args       []string
		size       int64
		exact      bool
	}{
		{"fsslower", "mkfs.xfs", []string{"-q"}, 320 << 20, !isMounted(t, "xfs")},
		{"ext4slower", "mke2fs", []string{"-q", "-t", "ext4"}, 32 << 20, false},
	} {
		t.Run(c.tool, func(t *testing.T) {
			device := loopDevice(t, c.size)
			if out, err := exec.Command(c.mkfs, append(c.args, device)...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", c.mkfs, err, out)
			}
			dir := t.TempDir()
			kind := map[string]string{"fsslower": "xfs", "ext4slower": "ext4"}[c.tool]
			if err := unix.Mount(device, dir, kind, 0, ""); err != nil {
				cannotRun(t, fmt.Sprintf("no file system %s: %v", kind, err))
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			metric, n := "bpf_"+c.tool+"_latency_seconds", 100.0
			before := e.scrape(t)
			name := uniqueName("files")
			runHelper(t, uniqueName("program"), "file-operations", name, filepath.Join(dir, name), strconv.Itoa(int(n)))
			after := e.scrape(t)
			for operation, want := range map[string]float64{"open": n, "read": 3 * n, "write": 3 * n, "fsync": 2 * n} {
				got := after.sum(metric, labels{"operation": operation}) - before.sum(metric, labels{"operation": operation})
				if got < want || c.exact && got != want {
					t.Errorf("%s rose by %v, want %v", operation, got, want)
				}
			}
			if !c.exact {
				return // the rows, of which there are few, are of what others do
			}
			events := e.mustGet(t, "/tools/"+c.tool+"/events?n=1000")
			if !strings.Contains(events, `"file":"`+name+`"`) || !strings.Contains(events, `"comm":"`+name+`"`) {
				t.Errorf("no row of %s among\n%s", name, events)
			}
		})
	}
}

func isMounted(t *testing.T, kind string) bool {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(mounts), " "+kind+" ")
}

// fileOperationsHelper opens a file and reads, writes and syncs it in every way
// so many times, under a comm of its own.
func fileOperationsHelper(args []string) error {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if err := takeComm(args[0]); err != nil {
		return err
	}
	some := make([]byte, 100)
	vector := [][]byte{some}
	for range n {
		fd, err := unix.Open(args[1], unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			return err
		}
		for _, do := range []func() (int, error){
			func() (int, error) { return unix.Write(fd, some) },
			func() (int, error) { return unix.Pwrite(fd, some, 100) },
			func() (int, error) { return unix.Writev(fd, vector) },
			func() (int, error) { return 0, unix.Fsync(fd) },
			func() (int, error) { return 0, unix.Fdatasync(fd) },
			func() (int, error) { return unix.Read(fd, some) },
			func() (int, error) { return unix.Pread(fd, some, 0) },
			func() (int, error) { return unix.Preadv(fd, vector, 0) },
		} {
			if _, err := do(); err != nil {
				return err
			}
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}
