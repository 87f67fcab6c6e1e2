package kernels

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"
)

// A want is what a load must make a metric rise by: n, or a little more where
// others on the machine do the same.
type want struct {
	metric string
	labels map[string]string
	n      float64
	others float64 // that may come on top
	fewer  float64 // that may be missing, where the metric is a difference
	equals string  // the kernel's own counter that tells n (see scrape)
}

// loads make what the tools count, by tool.
var loads = map[string]func() ([]want, error){
	"execsnoop":  func() ([]want, error) { return execLoad("bpf_execsnoop_execs_total", "result", "success") },
	"exitsnoop":  func() ([]want, error) { return execLoad("bpf_exitsnoop_exits_total", "signal", "none") },
	"opensnoop":  openLoad,
	"syscount":   syscallLoad,
	"ext4slower": func() ([]want, error) { return syncLoad("bpf_ext4slower_latency_seconds", "/var/tmp") },
	"fsslower":   func() ([]want, error) { return syncLoad("bpf_fsslower_latency_seconds", xfsDir) },
	"biolatency": func() ([]want, error) { return diskLoad("bpf_biolatency_seconds", "") },
	"biosnoop":   func() ([]want, error) { return diskLoad("bpf_biosnoop_latency_seconds", "bpf_biosnoop_bytes_total") },
	"cachestat":  cacheLoad,
	"tcplife":    func() ([]want, error) { return sessionLoad("bpf_tcplife_peer_sessions_total") },
	"tcpconnlat": func() ([]want, error) { return sessionLoad("") },
	"tcpretrans": retransmitLoad,
	"softirqs":   func() ([]want, error) { return []want{{metric: "bpf_softirqs_seconds", n: 20, others: 1e9}}, sleep(6) },
	"oomkill":    oomLoad,
}

func sleep(seconds int) error {
	time.Sleep(time.Duration(seconds) * time.Second)
	return nil
}

func uniqueName(prefix string) string {
	return fmt.Sprintf("%s%0*x", prefix, 15-len(prefix), rand.Uint64N(1<<(4*(15-len(prefix)))))
}

// execLoad starts a program of 130 bytes that only exits.
func execLoad(metric, label, value string) ([]want, error) {
	const n = 200
	name := uniqueName("exec")
	path := filepath.Join("/var/tmp", name)
	if err := os.WriteFile(path, tinyELF(), 0o755); err != nil {
		return nil, err
	}
	defer os.Remove(path)
	for range n {
		p, err := os.StartProcess(path, []string{"x"}, &os.ProcAttr{})
		if err != nil {
			return nil, err
		}
		if _, err := p.Wait(); err != nil {
			return nil, err
		}
	}
	return []want{{metric: metric, labels: map[string]string{"comm": name, label: value}, n: n}}, nil
}

// tinyELF is a static executable for amd64 that calls exit(0).
func tinyELF() []byte {
	code := []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // mov eax, 60; xor edi, edi; syscall
	const base, header = 0x400000, 64 + 56
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	size := uint64(header + len(code))
	for _, field := range []any{
		uint16(2), uint16(62), uint32(1), uint64(base + header), uint64(64), uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(4096),
	} {
		_ = binary.Write(&b, binary.LittleEndian, field)
	}
	b.Write(code)
	return b.Bytes()
}

// asThread runs f in a thread with a comm of its own, which ends with it.
func asThread(comm string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := os.WriteFile("/proc/thread-self/comm", []byte(comm), 0); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func openLoad() ([]want, error) {
	const n = 300
	name := uniqueName("open")
	err := asThread(name, func() error {
		for range n {
			fd, err := syscall.Open("/etc/hostname", syscall.O_RDONLY, 0)
			if err != nil {
				return err
			}
			syscall.Close(fd)
		}
		return nil
	})
	return []want{{metric: "bpf_opensnoop_opens_total", labels: map[string]string{"comm": name, "result": "success"}, n: n}}, err
}

func syscallLoad() ([]want, error) {
	const n = 3000
	for range n {
		_, _, _ = unix.RawSyscall(unix.SYS_GETPGRP, 0, 0, 0) // which hardly anybody calls
	}
	return []want{{metric: "bpf_syscount_calls_total", labels: map[string]string{"syscall": "getpgrp"}, n: n, others: 50}}, nil
}

func syncLoad(metric, dir string) ([]want, error) {
	const n = 60
	f, err := os.CreateTemp(dir, "sync")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	for range n {
		if _, err := f.Write([]byte("x")); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
	}
	// The journal syncs, too.
	return []want{{metric: metric, labels: map[string]string{"operation": "fsync"}, n: n, others: 10}}, nil
}

// The disks as the host gives them, behind the root's and the payload's.
const scratchDisk, resultsDisk, xfsDisk = "/dev/vdc", "/dev/vdd", "/dev/vde"

func diskLoad(metric, bytes string) ([]want, error) {
	const writes, reads, size = 120, 80, 4096
	// It stays open: udev looks into a disk when a writer closes it.
	fd, err := unix.Open(scratchDisk, unix.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", scratchDisk, err)
	}
	page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(page)
	for i := range writes {
		if _, err := unix.Pwrite(fd, page, int64(200<<20+i*size)); err != nil {
			return nil, err
		}
	}
	for i := range reads {
		if _, err := unix.Pread(fd, page, int64(200<<20+i*size)); err != nil {
			return nil, err
		}
	}
	device := map[string]string{"device": filepath.Base(scratchDisk)}
	wants := []want{{metric: metric, labels: device, n: writes + reads}}
	if bytes != "" {
		wants = append(wants, want{metric: bytes, labels: device, n: (writes + reads) * size})
	}
	return wants, nil
}

// cacheLoad reads a file cold and twice warm.
func cacheLoad() ([]want, error) {
	const size = 16 << 20
	const pages = size / 4096
	path := filepath.Join("/var/tmp", uniqueName("cache"))
	defer os.Remove(path)
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		return nil, err
	}
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		return nil, err
	}
	buffer := make([]byte, 128<<10)
	for range 3 {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buffer)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	// Whatever else runs has to be read again, too, and what readahead brings in
	// vain is a miss that no read asked for.
	return []want{
		{metric: "bpf_cachestat_misses_total", n: pages, others: 2 * pages},
		{metric: "bpf_cachestat_hits_total", n: 2 * pages, others: 4 * pages, fewer: pages / 5},
	}, nil
}

// sessionLoad has TCP sessions over loopback, of which both ends are seen.
func sessionLoad(metric string) ([]want, error) {
	const n = 60
	l, err := net.Listen("tcp", "127.0.0.1:9191")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	served := make(chan error, n)
	go func() {
		for range n {
			c, err := l.Accept()
			if err != nil {
				served <- err
				return
			}
			_, err = io.Copy(c, c)
			c.Close()
			served <- err
		}
	}()
	for range n {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		_, _ = c.Write(make([]byte, 1000))
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		c.Close()
		if err := <-served; err != nil {
			return nil, err
		}
	}
	if metric == "" {
		// The scrapes make connections, too.
		return []want{{metric: "bpf_tcpconnlat_seconds", labels: map[string]string{"family": "ipv4"}, n: n, others: 20}}, nil
	}
	return []want{{metric: metric, labels: map[string]string{"port": "9191"}, n: 2 * n}}, nil
}

// retransmitLoad drops a session's data for a while. The kernel says how often it
// was sent again: of the session, and with all others in its own counter.
func retransmitLoad() ([]want, error) {
	const table = "kernel_matrix"
	l, err := net.Listen("tcp", "127.0.0.1:9192")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	rules := "table inet " + table + " { chain input { type filter hook input priority 0; tcp dport 9192 drop; }; }"
	if out, err := exec.Command("nft", rules).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("nft: %w: %s", err, out)
	}
	_, _ = c.Write([]byte("lost"))
	time.Sleep(4 * time.Second)
	err = exec.Command("nft", "delete", "table", "inet", table).Run()
	time.Sleep(4 * time.Second) // until the last one gets through
	n, err2 := retransmits(c.(*net.TCPConn))
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("nothing was sent again")
	}
	return []want{
		{metric: "bpf_tcpretrans_peer_retransmits_total", labels: map[string]string{"peer": "127.0.0.1", "port": "9192"}, n: n},
		{metric: "bpf_tcpretrans_retransmits_total", equals: retransSegs},
	}, nil
}

// retransSegs is the kernel's counter of all segments sent again.
const retransSegs = "RetransSegs"

// snmp adds a counter of /proc/net/snmp to metrics. That has lines of names and of
// values, of one protocol each.
func (m metrics) snmp(name string) error {
	text, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if i := slices.Index(names, name); i >= 0 && i < len(fields) {
			value, err := strconv.ParseFloat(fields[i], 64)
			m[name] = &dto.MetricFamily{Metric: []*dto.Metric{{Counter: &dto.Counter{Value: &value}}}}
			return err
		}
		names = fields
	}
	return fmt.Errorf("/proc/net/snmp: no %s", name)
}

// retransmits is how many segments of a connection were sent again
// (tcpi_total_retrans of tcp(7)).
func retransmits(c *net.TCPConn) (n float64, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var err2 error
	err = raw.Control(func(fd uintptr) { info, err2 = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err = errors.Join(err, err2); err != nil {
		return 0, err
	}
	return float64(info.Total_retrans), nil
}

// hogEnv makes the program take memory until it is killed.
const hogEnv = "KERNEL_MATRIX_HOG"

func oomLoad() ([]want, error) {
	name := uniqueName("hog")
	path := filepath.Join("/var/tmp", name)
	defer os.Remove(path)
	self, err := os.ReadFile("/payload/guest")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, self, 0o755); err != nil {
		return nil, err
	}
	out, err := exec.Command("systemd-run", "--wait", "--collect", "-p", "MemoryMax=64M", "-p", "MemorySwapMax=0", "-p", "MemoryLimit=64M",
		"-E", hogEnv+"=1", path).CombinedOutput()
	if err == nil {
		return nil, fmt.Errorf("the hog was not killed: %s", out)
	}
	return []want{{metric: "bpf_oomkill_kills_total", labels: map[string]string{"comm": name}, n: 1}}, nil
}

func hog() {
	for {
		page, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
		if err != nil {
			panic(err)
		}
		_ = unsafe.SliceData(page)
	}
}
