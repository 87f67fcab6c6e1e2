package backend

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Version is a sequence of numbers: 6.18.44 or 0.17.0.
type Version []int

var versionPattern = regexp.MustCompile(`^v?(\d+)((?:\.\d+)*)`)

// ParseVersion reads the numbers at the beginning of text, such as those of
// "6.18.44-cloud-amd64" or "v0.17.0".
func ParseVersion(text string) (Version, error) {
	m := versionPattern.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("%q is no version: want numbers such as 5.16", text)
	}
	var v Version
	for _, part := range strings.Split(m[1]+m[2], ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, fmt.Errorf("%q is no version: %w", text, err)
		}
		v = append(v, n)
	}
	return v, nil
}

// Less tells whether v is before w. A missing number is 0.
func (v Version) Less(w Version) bool {
	for i := 0; i < max(len(v), len(w)); i++ {
		var a, b int
		if i < len(v) {
			a = v[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return a < b
		}
	}
	return false
}

func (v Version) String() string {
	parts := make([]string, len(v))
	for i, n := range v {
		parts[i] = strconv.Itoa(n)
	}
	return strings.Join(parts, ".")
}

// KernelRelease is the running kernel's, as uname -r prints it.
func KernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// tracefs mount points: the kernel's own, and the one of old that some
// bpftrace versions insist on.
const (
	tracefs = "/sys/kernel/tracing"
	debugfs = "/sys/kernel/debug"
)

// MountTracefs mounts tracefs and debugfs where they are not, as trace-cmd
// does: without them no tracepoint can be attached, and bpftrace before 0.18
// looks for tracefs below debugfs only. It returns what it mounted; the error
// names the mount command that failed.
func MountTracefs() (mounted []string, err error) {
	for _, m := range []struct{ fstype, dir, witness string }{
		{"tracefs", tracefs, "events"},
		{"debugfs", debugfs, "tracing/events"},
	} {
		if _, err := os.Stat(filepath.Join(m.dir, m.witness)); err == nil {
			continue
		}
		if err := unix.Mount(m.fstype, m.dir, m.fstype, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return mounted, fmt.Errorf("%s is not mounted: %w; run as root: mount -t %s %s %s", m.dir, err, m.fstype, m.fstype, m.dir)
		}
		mounted = append(mounted, m.dir)
	}
	return mounted, nil
}

// HasTracepoint tells whether the kernel has a tracepoint such as
// "sched:sched_process_exec".
func HasTracepoint(name string) bool {
	category, event, ok := strings.Cut(name, ":")
	if !ok {
		return false
	}
	for _, root := range []string{tracefs, debugfs + "/tracing"} {
		if _, err := os.Stat(filepath.Join(root, "events", category, event, "format")); err == nil {
			return true
		}
	}
	return false
}

// InitialPIDNamespace tells whether process ids here are those that BPF
// programs see. The kernel gives the initial namespace a fixed inode
// (PROC_PID_INIT_INO in include/linux/proc_ns.h).
func InitialPIDNamespace() bool {
	target, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && target == "pid:[4026531836]"
}
