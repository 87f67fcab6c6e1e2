package process

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait of the tests. It is far above what a slow machine needs.
const patience = 60 * time.Second

// helperEnv names what the test binary does when a test starts it as a child.
const helperEnv = "PROCESS_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helpers[name]()
		return
	}
	os.Exit(m.Run())
}

var helpers = map[string]func(){
	"numbers":   helpNumbers,
	"long line": helpLongLine,
	"parent":    helpParent,
	"second":    helpSecondInterrupt,
	"bytes":     helpBytes,
}

const numbers = 10_000_000

func helpNumbers() {
	w := bufio.NewWriter(os.Stdout)
	defer w.Flush()
	var line []byte
	for n := range numbers {
		line = append(strconv.AppendInt(line[:0], int64(n), 10), '\n')
		w.Write(line)
	}
}

const longLine = 100_000_000

func helpLongLine() {
	fmt.Println("before")
	block := []byte(strings.Repeat("x", 1_000_000))
	for range longLine / len(block) {
		os.Stdout.Write(block)
	}
	fmt.Print("\nafter\nend")
}

// helpParent starts a child, prints its pid and waits to be killed.
func helpParent() {
	p, err := Start(Spec{Path: "/bin/sleep", Args: []string{"1000"}, Env: DefaultEnv()})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Pid())
	<-p.Done()
}

// helpSecondInterrupt ends at the second SIGINT only.
func helpSecondInterrupt() {
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, unix.SIGINT)
	fmt.Println("ready")
	for n := range 2 {
		<-interrupts
		fmt.Println("interrupt", n+1)
	}
}

// awkward holds every byte that a terminal which is not raw would change or swallow.
const awkward = "a\tb\rc\x03\x04\x11\x13\x16\x1a\x1c\x7f\xff\xffd\x00e\r"

// helpBytes prints a line, waits for a SIGINT, and prints one without newline.
func helpBytes() {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT)
	os.Stdout.WriteString(awkward + "\n\n")
	<-interrupts
	os.Stdout.WriteString("last")
}

// helper returns a Spec that runs one of helpers.
func helper(t *testing.T, name string) Spec {
	t.Helper()
	path, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	return Spec{Path: path, Env: append(DefaultEnv(), helperEnv+"="+name)}
}

func shell(script string) Spec {
	return Spec{Path: "/bin/sh", Args: []string{"-c", script}, Env: DefaultEnv()}
}

// start starts spec and sees to it that nothing of it outlives the test.
func start(t *testing.T, spec Spec) *Process {
	t.Helper()
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		await(t, p)
	})
	return p
}

func await(t *testing.T, p *Process) Exit {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(patience):
		t.Fatal("the process is not done")
		return Exit{}
	}
}

// eventually waits until condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// alive tells whether pid, or group -pid, has a member that is no zombie.
func alive(pid int) bool {
	if pid > 0 {
		return running(pid)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range procs {
		member, _ := strconv.Atoi(filepath.Base(dir))
		if group, err := unix.Getpgid(member); err == nil && group == -pid && running(member) {
			return true
		}
	}
	return false
}

func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state := string(stat[strings.LastIndexByte(string(stat), ')')+2])
	return state != "Z" && state != "X"
}

// collector is a LineFunc's memory.
type collector struct {
	mu    sync.Mutex
	lines []string
}

func (c *collector) add(line []byte, truncated bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := string(line)
	if truncated {
		text += "[cut]"
	}
	c.lines = append(c.lines, text)
}

func (c *collector) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.lines...)
}

func (c *collector) await(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d lines", n), func() bool { return len(c.all()) >= n })
}

// stop stops p within the tests' patience.
func stop(t *testing.T, p *Process) Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	exit := p.Stop(ctx)
	if ctx.Err() != nil {
		t.Fatal("the process did not stop in time")
	}
	return exit
}

var sigkill = Exit{Code: -1, Signal: syscall.SIGKILL}

// ended returns exit without its duration, which differs from run to run.
func ended(exit Exit) Exit {
	exit.Wall = 0
	return exit
}

func atoi(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
