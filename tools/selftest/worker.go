package selftest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// worker does all workloads but exec, at the same time.
type worker struct {
	*order
	mu    sync.Mutex
	facts *Facts
}

func (w *worker) work() {
	var all sync.WaitGroup
	for _, name := range w.Workloads {
		run := Workloads[name].run
		if run == nil {
			continue
		}
		all.Go(func() {
			if err := run(w); err != nil {
				w.mu.Lock()
				w.facts.Failed[name] = err.Error()
				w.mu.Unlock()
			}
		})
	}
	all.Wait()
	print(w.facts)
}

func (w *worker) did(workload string, numbers map[string]float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.facts.Numbers[workload] = numbers
}

// throughFile is a path that no file system can have.
const throughFile = itself + "/none"

// fail tries to execute what does not exist.
func fail() {
	err := unix.Exec(throughFile, []string{throughFile}, nil)
	if err != unix.ENOTDIR {
		fmt.Fprintln(os.Stderr, "exec:", err)
		os.Exit(1)
	}
	os.Exit(execStatus)
}

func (w *worker) open() error {
	resume, err := w.stopReaders()
	defer resume()
	if err != nil {
		return err
	}
	for range w.Opens {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		unix.Close(fd)
		if _, err := unix.Open(throughFile, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != unix.ENOTDIR {
			return fmt.Errorf("open %s: %v, want ENOTDIR", throughFile, err)
		}
	}
	w.did("open", map[string]float64{"opens": float64(w.Opens), "failed": float64(w.Opens)})
	return nil
}

// patience bounds what should take no time.
const patience = 30 * time.Second

// pair returns both ends of a new connection of an address to itself.
func pair(ip string) (client, server *net.TCPConn, err error) {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	client, err = dial(listener)
	if err != nil {
		return nil, nil, err
	}
	_ = listener.SetDeadline(time.Now().Add(patience))
	server, err = listener.AcceptTCP()
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	_ = server.SetDeadline(time.Now().Add(patience))
	return client, server, nil
}

// dial connects a listener's address to the listener.
func dial(listener *net.TCPListener) (*net.TCPConn, error) {
	address := listener.Addr().(*net.TCPAddr)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: address.IP}, Timeout: patience}
	c, err := dialer.Dial("tcp4", address.String())
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn), nil
}

// Whole KiB: bcc's tcplife shows no others.
const sent, answered = 20 << 10, 5 << 10

func (w *worker) tcp() error {
	for range w.Sessions {
		client, server, err := pair(w.Address)
		if err != nil {
			return err
		}
		if err := talk(client, server); err != nil {
			return err
		}
	}
	w.did("tcp", map[string]float64{"sessions": float64(2 * w.Sessions), "bytes": float64(w.Sessions * (sent + answered))})
	return nil
}

// talk sends both ways, closes the client's end first and waits until both ends
// are closed.
func talk(client, server *net.TCPConn) error {
	defer server.Close()
	defer client.Close()
	for _, way := range []struct {
		from, to *net.TCPConn
		bytes    int
	}{{client, server, sent}, {server, client, answered}} {
		if _, err := way.from.Write(make([]byte, way.bytes)); err != nil {
			return err
		}
		if _, err := io.ReadFull(way.to, make([]byte, way.bytes)); err != nil {
			return err
		}
	}
	if err := client.CloseWrite(); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, server); err != nil {
		return err
	}
	if err := server.Close(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, client)
	return err
}

// retransmit sends to a listener that drops what comes, as its queue is full,
// until the kernel has sent twice again: about 0.6 s. No privilege is needed; a
// socket filter that drops wants CAP_NET_ADMIN on newer kernels
// (6.1.0-50 of Debian and 6.18 ask for it).
func (w *worker) retransmit() error {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(w.Lossy)})
	if err != nil {
		return err
	}
	defer listener.Close()
	// Sessions come into the queue when they have data, tcp(7).
	err = control(listener, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, int(patience.Seconds()))
	})
	if err != nil {
		return fmt.Errorf("TCP_DEFER_ACCEPT: %w", err)
	}
	var clients [2]*net.TCPConn
	for i := range clients {
		if clients[i], err = dial(listener); err != nil {
			return err
		}
		defer clients[i].Close()
		_ = clients[i].SetLinger(0) // no orderly end, which would be sent again too
	}
	// The first one's data fills the queue.
	if err := control(listener, func(fd int) error { return unix.Listen(fd, 0) }); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for _, c := range clients {
		if _, err := c.Write(make([]byte, 100)); err != nil {
			return err
		}
	}
	var again uint32
	for deadline := time.Now().Add(patience); again < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d segments sent again in %s", again, patience)
		}
		if again, err = retransmits(clients[1]); err != nil {
			return err
		}
	}
	// One more may go before the connection is closed.
	w.did("retransmit", map[string]float64{"retransmits": float64(again), "max_retransmits": float64(again) + 1})
	return nil
}

func control(c syscall.Conn, do func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := raw.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

func retransmits(c *net.TCPConn) (n uint32, err error) {
	err = control(c, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = info.Total_retrans
		}
		return err
	})
	return n, err
}

const blockSize = 4096

// aligned returns memory that direct I/O takes.
func aligned() []byte {
	b := make([]byte, 2*blockSize)
	at := blockSize - int(uintptr(unsafe.Pointer(&b[0]))%blockSize)
	return b[at : at+blockSize]
}

// enough bounds the time of one direction: a slow disk does less.
const enough = time.Second

func (w *worker) disk() error {
	if w.Dir == "" {
		return errors.New(w.NoDir)
	}
	f, err := unnamed(w.Dir, unix.O_DIRECT)
	if err != nil {
		return fmt.Errorf("direct I/O in %s: %w", w.Dir, err)
	}
	defer f.Close()
	before := diskRequests()
	block := aligned()
	writes, err := w.blocks(w.Blocks, func(at int64) (int, error) { return f.WriteAt(block, at) })
	if err != nil {
		return fmt.Errorf("direct write in %s: %w", w.Dir, err)
	}
	reads, err := w.blocks(writes, func(at int64) (int, error) { return f.ReadAt(block, at) })
	if err != nil {
		return fmt.Errorf("direct read in %s: %w", w.Dir, err)
	}
	if moved := diskRequests() - before; moved < float64(reads+writes) {
		return fmt.Errorf("of %d direct reads and writes in %s only %.0f reached a disk", reads+writes, w.Dir, moved)
	}
	w.did("disk", map[string]float64{"writes": float64(writes), "reads": float64(reads), "requests": float64(reads + writes), "bytes": float64((reads + writes) * blockSize)})
	return nil
}

func (w *worker) blocks(n int, do func(at int64) (int, error)) (int, error) {
	for i, begin := 0, time.Now(); i < n; i++ {
		if _, err := do(int64(i) * blockSize); err != nil {
			return 0, err
		}
		if i >= 10 && time.Since(begin) > enough {
			return i + 1, nil
		}
	}
	return n, nil
}

func (w *worker) cache() error {
	if w.Dir == "" {
		return errors.New(w.NoDir)
	}
	f, err := unnamed(w.Dir, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// Page by page, so that a file system with large folios dirties as many.
	page := make([]byte, os.Getpagesize())
	for i := range w.Pages {
		if _, err := f.WriteAt(page, int64(i*len(page))); err != nil {
			return err
		}
	}
	if err := evict(f, w.Pages*len(page)); err != nil {
		return fmt.Errorf("%s: %w", w.Dir, err)
	}
	buffer := make([]byte, 32*len(page)) // of which the file is a multiple: nothing is asked for beyond its end
	for range 4 {
		for at := 0; at < w.Pages*len(page); at += len(buffer) {
			if _, err := f.ReadAt(buffer, int64(at)); err != nil {
				return err
			}
		}
	}
	w.did("cache", map[string]float64{"pages": float64(w.Pages), "warm": float64(3 * w.Pages)})
	return nil
}

// evict makes sure that next to nothing of the file is in the page cache.
func evict(f *os.File, size int) error {
	memory, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(memory)
	pages := size / os.Getpagesize()
	for range 5 {
		if err := f.Sync(); err != nil {
			return err
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("fadvise: %w", err)
		}
		// Where nobody may look, the kernel is believed to have done it.
		if left, err := resident(memory, pages); err != nil || left <= pages/50 {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("pages stay in the page cache")
}

func resident(memory []byte, pages int) (int, error) {
	state := make([]byte, pages)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&memory[0])), uintptr(len(memory)), uintptr(unsafe.Pointer(&state[0])))
	if errno != 0 {
		return 0, fmt.Errorf("mincore: %w", errno)
	}
	state = slices.DeleteFunc(state, func(b byte) bool { return b&1 == 0 })
	return len(state), nil
}
