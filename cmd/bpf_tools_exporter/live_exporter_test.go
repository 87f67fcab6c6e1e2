package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stopTimeout is how long the exporter and its children may take to end.
const stopTimeout = 5 * time.Second

// detachTimeout is for those with some 80 probes and more instead of the 14 that
// run by default. The kernel waits for RCU grace periods at each, also when the
// process is killed: on Linux 6.18 with two idle cores 14 took 1.0 s, 80 took 4.4 s.
const detachTimeout = 20 * time.Second

// bucketLines are what nobody wants to read in a log.
var bucketLines = regexp.MustCompile(`(?m)^(#|go_|\w+_bucket).*\n`)

// An exporter is a running one.
type exporter struct {
	url  string
	dir  string // its temporary files
	pid  int
	cmd  *exec.Cmd
	log  *logBuffer
	done chan struct{} // closed when it has ended
	err  error         // of its end

	stopWithin time.Duration // of SIGTERM
}

// startExporter runs the exporter on a free loopback port and waits until it
// is ready. It is stopped at the end of the test, which fails if anything of it
// lives on. Self-tests are made once for all tests, unless one has a state
// directory of its own.
func startExporter(t *testing.T, args ...string) *exporter {
	t.Helper()
	return startCommand(t, &exec.Cmd{Path: buildExporter(t), Args: append([]string{"bpf_tools_exporter"}, args...)})
}

// startCommand is startExporter for one that a wrapper starts: the command's
// last arguments are the exporter's.
func startCommand(t *testing.T, cmd *exec.Cmd) *exporter {
	t.Helper()
	address := freeAddress(t)
	e := &exporter{stopWithin: stopTimeout, url: "http://" + address, dir: t.TempDir(), cmd: cmd, log: new(logBuffer), done: make(chan struct{})}
	cmd.Args = append(cmd.Args, "--web.listen-address="+address)
	if !slices.ContainsFunc(cmd.Args, func(arg string) bool { return strings.HasPrefix(arg, "--tools.state-directory") }) {
		cmd.Args = append(cmd.Args, "--tools.state-directory="+filepath.Join(built.dir, "state"))
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+e.dir)
	cmd.Stdout, cmd.Stderr = e.log, e.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.pid = cmd.Process.Pid
	go func() {
		e.err = cmd.Wait()
		close(e.done)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			text, err := e.get("/metrics")
			t.Logf("metrics (%v):\n%s", err, bucketLines.ReplaceAllString(text, ""))
		}
		e.stop(t)
		if t.Failed() {
			t.Logf("log of the exporter:\n%s", e.log.String())
		}
	})
	eventually(t, time.Minute, "the exporter is ready", func() error {
		select {
		case <-e.done:
			return fmt.Errorf("the exporter ended: %v\n%s", e.err, e.log.String())
		default:
		}
		_, err := e.get("/-/ready")
		return err
	})
	return e
}

// stop sends SIGTERM and checks that the exporter ends well, with all that it
// started.
func (e *exporter) stop(t *testing.T) {
	t.Helper()
	select {
	case <-e.done:
		return
	default:
	}
	family := descendants(e.pid)
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-e.done:
	case <-time.After(e.stopWithin):
		_ = e.cmd.Process.Kill()
		<-e.done
		t.Errorf("the exporter does not end within %s of SIGTERM", e.stopWithin)
	}
	if e.err != nil {
		t.Errorf("the exporter ended with %v, want exit status 0", e.err)
	}
	expectGone(t, family)
	if left, _ := filepath.Glob(filepath.Join(e.dir, "*")); len(left) > 0 {
		t.Errorf("temporary files are left: %q", left)
	}
}

// get returns the body of a 200 answer.
func (e *exporter) get(path string) (string, error) {
	return e.getAs(path, "text/plain")
}

func (e *exporter) getAs(path, accept string) (string, error) {
	request, err := http.NewRequest(http.MethodGet, e.url+path, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Accept", accept)
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, answer.Status, bytes.TrimSpace(body))
	}
	return string(body), err
}

// mustGet is get for answers that must come.
func (e *exporter) mustGet(t *testing.T, path string) string {
	t.Helper()
	body, err := e.get(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually waits until check finds no fault any more.
func eventually(t *testing.T, within time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", within, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// A logBuffer collects what a process writes while others look at it.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A proc is a process for good: ids are used again, ids with a start time are
// not.
type proc struct {
	pid, ppid int
	start     string // in clock ticks since boot
	comm      string
}

// readProc reads /proc/PID/stat; false if the process is gone or a zombie.
func readProc(pid int) (proc, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, false
	}
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	ppid, _ := strconv.Atoi(fields[1])
	return proc{pid: pid, ppid: ppid, start: fields[19], comm: string(data[open+1 : end])}, fields[0] != "Z" && fields[0] != "X"
}

// descendants are the processes below one.
func descendants(pid int) []proc {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var all []proc
	for _, dir := range dirs {
		id, _ := strconv.Atoi(filepath.Base(dir))
		if p, ok := readProc(id); ok {
			all = append(all, p)
		}
	}
	family := map[int]bool{pid: true}
	var found []proc
	for grew := true; grew; {
		grew = false
		for _, p := range all {
			if family[p.ppid] && !family[p.pid] {
				family[p.pid], grew = true, true
				found = append(found, p)
			}
		}
	}
	return found
}

func (p proc) alive() bool {
	now, ok := readProc(p.pid)
	return ok && now.start == p.start
}

// expectGone checks that none of the processes lives on.
func expectGone(t *testing.T, family []proc) {
	t.Helper()
	eventually(t, stopTimeout, "all children are gone", func() error {
		alive := slices.DeleteFunc(slices.Clone(family), func(p proc) bool { return !p.alive() })
		if len(alive) > 0 {
			return fmt.Errorf("alive: %+v", alive)
		}
		return nil
	})
}

// residentBytes is the VmRSS of a process.
func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal(errors.New("no VmRSS"))
	return 0
}
