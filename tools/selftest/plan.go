package selftest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// A Workload is a kind of doings with the names and numbers that it gives to
// expectations.
type Workload struct {
	Help    string   // what it does, in one line
	Names   []string // texts that labels can have: "comm" for $comm
	Numbers []string // of Facts

	run   func(*worker) error // in the worker; nil for exec
	count func(*Plan)         // chooses the numbers
	did   string              // what was done, with numbers as {name}
}

// Workloads are all there are, by name.
var Workloads = map[string]*Workload{
	"exec": {
		Help:  "runs the exporter's own program under a comm of its own; each but one of those tries to run something that does not exist, too, and ends with exit status 7",
		Names: []string{"comm"}, Numbers: []string{"execs", "failed", "exits"},
		count: func(p *Plan) { p.Execs = between(8, 12) },
		did:   "ran {execs} programs as {comm}, and in vain {failed} more",
	},
	"open": {
		Help:  "opens a file, and a path that goes through a file (ENOTDIR), at once: a tool that prints each is stopped meanwhile, so that its buffer must hold them",
		Names: []string{"comm"}, Numbers: []string{"opens", "failed"},
		run:   (*worker).open,
		count: func(p *Plan) { p.Opens = between(100, 150) },
		did:   "opened {opens} files as {comm}, and in vain {failed} more",
	},
	"tcp": {
		Help:  "opens connections to itself and closes them, on a loopback address that nothing else uses",
		Names: []string{"comm", "address"}, Numbers: []string{"sessions", "bytes"},
		run:   (*worker).tcp,
		count: func(p *Plan) { p.Sessions = between(8, 16) },
		did:   "closed {sessions} ends of connections of {address} to itself that sent {bytes} bytes",
	},
	"retransmit": {
		Help:  "sends to a socket of its own that drops what arrives, on a loopback address that nothing else uses",
		Names: []string{"comm", "address"}, Numbers: []string{"retransmits", "max_retransmits"},
		run: (*worker).retransmit,
		did: "sent {retransmits} segments again from {address} to itself",
	},
	"disk": {
		Help:  "writes a file and reads it with direct I/O; max_requests is what /proc/diskstats counted on all disks since the tool's start",
		Names: []string{"comm", "device"}, Numbers: []string{"reads", "writes", "requests", "bytes", "max_requests"},
		run:   (*worker).disk,
		count: func(p *Plan) { p.Blocks = between(90, 180) },
		did:   "made {writes} direct writes and {reads} direct reads, while all disks had {max_requests} requests",
	},
	"ext4": {
		Help:  "writes, reads and syncs a file on ext4",
		Names: []string{"comm"}, Numbers: []string{"reads", "writes", "syncs"},
		run:   func(w *worker) error { return w.files("ext4") },
		count: func(p *Plan) { p.Files = between(100, 200) },
		did:   "made {writes} writes, {reads} reads and {syncs} syncs of a file on ext4",
	},
	"xfs": {
		Help:  "writes, reads and syncs a file on XFS",
		Names: []string{"comm"}, Numbers: []string{"reads", "writes", "syncs"},
		run:   func(w *worker) error { return w.files("xfs") },
		count: func(p *Plan) { p.Files = between(100, 200) },
		did:   "made {writes} writes, {reads} reads and {syncs} syncs of a file on XFS",
	},
	"cpu": {
		Help:  "computes for half a second of CPU time",
		Names: []string{"comm"}, Numbers: []string{"cpu_seconds"},
		run: (*worker).cpu,
		did: "computed for {cpu_seconds} s as {comm}",
	},
	"sched": {
		Help:  "has two threads compete for one CPU; waits is how often it was given to one of them, as /proc/PID/schedstat counts",
		Names: []string{"comm"}, Numbers: []string{"waits"},
		run: (*worker).sched,
		did: "had two threads wait for a CPU {waits} times",
	},
	"cache": {
		Help:  "writes a file, drops it from the page cache, and reads it cold and three times warm; max_* are what /proc/vmstat counted since the tool's start",
		Names: []string{"comm"}, Numbers: []string{"pages", "warm", "max_missed", "max_dirtied"},
		run:   (*worker).cache,
		count: func(p *Plan) { p.Pages = 32 * between(30, 60) },
		did:   "wrote {pages} pages, read them once cold and three times warm",
	},
}

// Names returns the names of all workloads.
func Names() []string {
	names := make([]string, 0, len(Workloads))
	for name := range Workloads {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// A Plan says what a run does.
type Plan struct {
	Workloads  []string
	Comm       string // of all processes whose doings are to be seen
	Address    string // both ends of the connections of tcp
	Lossy      string // both ends of the connection of retransmit
	Dir        string // where files are made; "" if there is no place for them
	NoDir      string // why there is none
	FileSystem string // of Dir
	Device     string // the disk that holds Dir, "" if that cannot be told

	// Readers are tools, children of this process, that print a line for each
	// event. They are stopped while there is a burst of events.
	Readers []int

	Execs, Opens, Sessions, Blocks, Files, Pages int
}

// NewPlan chooses names and numbers at random. Files go to the first of dirs
// that is on a disk.
func NewPlan(workloads []string, dirs []string) *Plan {
	// Ten bytes: bcc's tcplife shows no more of a comm.
	p := &Plan{Workloads: workloads, Comm: "self" + randomHex(3), Address: loopback(64), Lossy: loopback(128)}
	p.Dir, p.NoDir = onDisk(dirs)
	if p.Dir != "" {
		p.Device, p.FileSystem = device(p.Dir), fileSystem(p.Dir)
	}
	for _, name := range workloads {
		if count := Workloads[name].count; count != nil {
			count(p)
		}
	}
	return p
}

// loopback returns an address of 127/8, all of which are the host's.
func loopback(second int) string {
	return fmt.Sprintf("127.%d.%d.%d", second+between(0, 63), between(1, 254), between(1, 254))
}

// Label returns the value of a name such as "comm", as a workload has it.
func (p *Plan) Label(workload, name string) string {
	switch name {
	case "comm":
		return p.Comm
	case "device":
		return p.Device
	}
	if workload == "retransmit" {
		return p.Lossy
	}
	return p.Address
}

func between(low, high int) int {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(high-low+1)))
	if err != nil {
		return high
	}
	return low + int(n.Int64())
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, says crypto/rand
	return hex.EncodeToString(b)
}

// fileSystems are those that keep files on disks of this host and read them
// through the page cache, by the magic of statfs(2).
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.F2FS_SUPER_MAGIC: "f2fs", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
}

// onDisk returns the first folder that is on a disk and takes files, or why
// none does.
func onDisk(dirs []string) (dir, why string) {
	var faults []string
	for _, dir := range dirs {
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", dir, err))
			continue
		}
		if fileSystems[int64(s.Type)] == "" {
			faults = append(faults, dir+": not on a disk's file system")
			continue
		}
		f, err := unnamed(dir, 0)
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", dir, err))
			continue
		}
		f.Close()
		return dir, ""
	}
	return "", "no place for a file on a disk: " + strings.Join(faults, "; ")
}

// unnamed makes a file that is gone when it is closed, however that happens.
func unnamed(dir string, flags int) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC|flags, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir+"/(unnamed)"), nil
	}
	// Not every file system knows O_TMPFILE.
	f, err := os.CreateTemp(dir, ".bpf_tools_exporter-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	if flags == 0 {
		return f, nil
	}
	defer f.Close()
	return os.OpenFile(f.Name(), os.O_RDWR|flags, 0)
}

// device is the name of the disk that a folder is on, as the kernel counts its
// requests; "" where several disks, or one with several names, may be below.
func device(dir string) string {
	var s unix.Stat_t
	if unix.Stat(dir, &s) != nil {
		return ""
	}
	path, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(s.Dev), unix.Minor(s.Dev)))
	if err != nil {
		return "" // btrfs and overlay have numbers of their own
	}
	if _, err := os.Stat(filepath.Join(path, "partition")); err == nil {
		path = filepath.Dir(path)
	}
	below, _ := os.ReadDir(filepath.Join(path, "slaves"))
	name := filepath.Base(path)
	if len(below) > 0 || strings.HasPrefix(name, "nvme") && multipath(name) {
		return ""
	}
	return name
}

// multipath tells whether requests of an NVMe disk go through another one that
// has no name in /dev, such as nvme0c0n1 for nvme0n1.
func multipath(name string) bool {
	number, _, _ := strings.Cut(name, "n1")
	hidden, _ := filepath.Glob("/sys/block/" + number + "c*n*")
	return len(hidden) > 0
}
