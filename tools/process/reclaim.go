package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errEnded is the error of a method that needs a living child.
var errEnded = errors.New("process has ended")

// mapping is a range of a process's address space, laid out as struct iovec, of which the kernel wants
// the address in another process, so that it is no pointer here.
type mapping struct {
	start, length uintptr
}

// ReclaimFilePages asks the kernel to drop the child's unwritable file mappings from memory. They come
// back from their files as they are touched. It takes two thirds of a bpftrace that has attached: the
// pages of LLVM and clang. Pages that other processes map too stay.
//
// It needs Linux 5.10 and CAP_SYS_NICE; any error is harmless.
func (p *Process) ReclaimFilePages() error {
	pidfd, maps, err := p.openMemory()
	if err != nil {
		return err
	}
	return reclaim(pidfd, maps)
}

// ReclaimOwnFilePages does the same for this process: most of its program is of
// use once, at the start.
func ReclaimOwnFilePages() error {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		unix.Close(pidfd)
		return err
	}
	return reclaim(pidfd, maps)
}

// reclaim closes what it is given.
func reclaim(pidfd int, maps *os.File) error {
	defer unix.Close(pidfd)
	defer maps.Close()
	mappings, err := parseMaps(maps)
	if err != nil {
		return err
	}
	for _, m := range mappings {
		// A mapping that refuses, as a locked one does, does not save the others.
		if e := pageOut(pidfd, m); e != nil && err == nil {
			err = fmt.Errorf("process_madvise: %w", e)
		}
	}
	return err
}

// openMemory opens what stays the child's even when its number is another's.
func (p *Process) openMemory() (pidfd int, maps *os.File, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return -1, nil, errEnded
	}
	pidfd, err = unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("pidfd_open: %w", err)
	}
	maps, err = os.Open(fmt.Sprintf("/proc/%d/maps", p.pid))
	if err != nil {
		unix.Close(pidfd)
		return -1, nil, err
	}
	return pidfd, maps, nil
}

// parseMaps returns the unwritable file mappings of /proc/PID/maps. Writable ones hold changed pages, which
// could only go to swap, and what has no path from / is a ring or a map of the kernel's.
func parseMaps(r io.Reader) ([]mapping, error) {
	var mappings []mapping
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			return nil, fmt.Errorf("maps: line %q: too few fields", lines.Text())
		}
		if len(fields) < 6 || fields[5][0] != '/' || strings.Contains(fields[1], "w") {
			continue
		}
		m, err := parseRange(fields[0])
		if err != nil {
			return nil, fmt.Errorf("maps: range %q: %w", fields[0], err)
		}
		mappings = append(mappings, m)
	}
	return mappings, lines.Err()
}

// parseRange takes two hexadecimal addresses with a hyphen between them, of which the second is past the end.
func parseRange(text string) (mapping, error) {
	first, second, _ := strings.Cut(text, "-")
	start, err := strconv.ParseUint(first, 16, bits.UintSize)
	if err != nil {
		return mapping{}, err
	}
	end, err := strconv.ParseUint(second, 16, bits.UintSize)
	if err != nil {
		return mapping{}, err
	}
	if end <= start {
		return mapping{}, errors.New("empty")
	}
	return mapping{start: uintptr(start), length: uintptr(end - start)}, nil
}

// pageOut takes a mapping that the child has unmapped meanwhile for done.
func pageOut(pidfd int, m mapping) error {
	_, _, errno := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(pidfd),
		uintptr(unsafe.Pointer(&m)), 1, unix.MADV_PAGEOUT, 0, 0)
	if errno == 0 || errno == unix.ENOMEM {
		return nil
	}
	return errno
}
