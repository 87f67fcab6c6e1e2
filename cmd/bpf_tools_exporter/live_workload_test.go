package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// uniqueName returns a name that no other program on this machine has: as long
// as a comm can be, 15 bytes.
func uniqueName(prefix string) string {
	return fmt.Sprintf("%s%0*x", prefix, 15-len(prefix), rand.Uint64N(1<<(4*(15-len(prefix)))))
}

// tinyProgram returns the path of a program that only exits: 130 bytes, so that
// thousands of them start in a second.
func tinyProgram(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, tinyELF(t), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// tinyELF is a static executable of one segment that calls exit(0).
func tinyELF(t *testing.T) []byte {
	t.Helper()
	code, machine := []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}, uint16(62) // mov eax, 60; xor edi, edi; syscall
	switch runtime.GOARCH {
	case "amd64":
	case "arm64": // mov x8, 93; mov x0, 0; svc 0
		code, machine = []byte{0xa8, 0x0b, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4}, 183
	default:
		t.Skipf("no tiny program for %s", runtime.GOARCH)
	}
	const base, header = 0x400000, 64 + 56
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	size := uint64(header + len(code))
	for _, field := range []any{
		uint16(2), machine, uint32(1), uint64(base + header), uint64(64), uint64(0), uint32(0), // executable, entry, program headers
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(4096), // loaded, readable and executable
	} {
		_ = binary.Write(&b, binary.LittleEndian, field)
	}
	b.Write(code)
	return b.Bytes()
}

// A helper is a running copy of the test binary, under a name of its own.
type helper struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

// startHelper runs one of helpers as a program of the given name.
func startHelper(t *testing.T, name, what string, args ...string) *helper {
	t.Helper()
	return startHelperIn(t, &syscall.SysProcAttr{}, name, what, args...)
}

// startHelperIn is startHelper with attributes such as a network namespace.
func startHelperIn(t *testing.T, attr *syscall.SysProcAttr, name, what string, args ...string) *helper {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := copyFile(path, self); err != nil {
		t.Fatal(err)
	}
	attr.Pdeathsig = syscall.SIGKILL
	h := &helper{cmd: exec.Command(path, args...)}
	h.cmd.SysProcAttr, h.cmd.Stderr = attr, &h.stderr
	h.cmd.Env = append(os.Environ(), helperEnv+"="+what)
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.stdout = bufio.NewReader(stdout)
	// The parent-death signal comes at the death of the thread that forked:
	// only one that is locked to its goroutine lives as long as the test.
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
	})
	return h
}

// copyFile makes a file of the same content; a link would do on one file
// system only.
func copyFile(to, from string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

// line reads one line of the helper's output.
func (h *helper) line(t *testing.T) string {
	t.Helper()
	line, err := h.stdout.ReadString('\n')
	if err != nil {
		_ = h.cmd.Wait()
		t.Fatalf("%s: %v\n%s", h.cmd.Path, err, h.stderr.Bytes())
	}
	return strings.TrimSuffix(line, "\n")
}

// finish tells the helper to end and returns the rest of its output.
func (h *helper) finish(t *testing.T) string {
	t.Helper()
	h.stdin.Close()
	rest, err := io.ReadAll(h.stdout)
	if err == nil {
		err = h.cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", h.cmd.Path, err, h.stderr.Bytes())
	}
	return strings.TrimSpace(string(rest))
}

// runHelper runs a helper to its end.
func runHelper(t *testing.T, name, what string, args ...string) string {
	t.Helper()
	return startHelper(t, name, what, args...).finish(t)
}

// idleAndBusy runs a test twice: alone, and while another program is executed
// about 2,000 times a second. Those execs must be counted exactly too.
func idleAndBusy(t *testing.T, e *exporter, test func(t *testing.T)) {
	t.Run("idle", test)
	t.Run("busy", func(t *testing.T) {
		name := uniqueName("load")
		load := startHelper(t, uniqueName("loop"), "execs", tinyProgram(t, name), "0", "2000")
		load.line(t)
		test(t)
		n, err := strconv.ParseFloat(load.finish(t), 64)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%v execs in the background", n)
		e.expectCounts(t, count{"bpf_execsnoop_execs_total", labels{"comm": name, "result": "success"}, n})
	})
}

// execsHelper executes a program: arguments are its path, how often (0: until
// stdin ends) and how often a second (0: as fast as it goes). It writes
// "started", and at the end how often it was.
func execsHelper(args []string) error {
	limit, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	fmt.Println("started")
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	n, begin := 0, time.Now()
	for running := true; running && (limit == 0 || n < limit); {
		select {
		case <-ended:
			if running = limit > 0; !running {
				continue
			}
		default:
		}
		if rate > 0 && time.Since(begin) < time.Duration(n)*time.Second/time.Duration(rate) {
			time.Sleep(time.Millisecond)
			continue
		}
		if err := execute(args[0], "x"); err != nil {
			return err
		}
		n++
	}
	fmt.Println(n)
	return nil
}

// execute runs a program and waits for its success.
func execute(path string, argv ...string) error {
	p, err := os.StartProcess(path, argv, &os.ProcAttr{})
	if err != nil {
		return err
	}
	state, err := p.Wait()
	if err != nil {
		return err
	}
	if !state.Success() {
		return fmt.Errorf("%s: %s", path, state)
	}
	return nil
}

// failingExecsHelper fails to execute: arguments are a path and how often. The
// calls come from this very process, under its comm.
func failingExecsHelper(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for range n {
		if err := syscall.Exec(args[0], []string{"x"}, nil); err == nil || errors.Is(err, syscall.E2BIG) {
			return fmt.Errorf("exec of %s: %v", args[0], err)
		}
	}
	return nil
}

// waitHelper lives until stdin ends.
func waitHelper([]string) error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
