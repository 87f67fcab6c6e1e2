package tools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bpf_tools_exporter/tools/output"
	"bpf_tools_exporter/tools/process"
	"bpf_tools_exporter/tools/selftest"
)

// Bounds of a child's lines: a bpftrace line holds a whole map, and a text
// tool's line a whole command line, which is at most 128 KiB per argument.
const (
	maxMapLine  = 4 << 20
	maxTextLine = 256 << 10
	// maxStacksLine holds 32,000 different stacks of common depth.
	maxStacksLine = 64 << 20
)

// grace is how long a tool has to end after SIGINT.
const grace = 2 * time.Second

// stacksGrace is that of a tool that looks up the symbols of its stacks when it
// ends, which takes as long as there are programs and stacks.
var stacksGrace = 20 * time.Second

// A child is one process that serves one tool or, for bpftrace, several. It is
// made anew for each start.
type child struct {
	members []*member
	path    string
	started time.Time
	process *process.Process
	host    selftest.Host // before the start
	// tookToAttach tells how slow the machine is.
	tookToAttach time.Duration // valid once attached is closed
	printed      time.Time     // that it has printed by, while it attaches

	attached chan struct{} // closed when the child is known to see events
	once     sync.Once
	skips    skips

	mu      sync.Mutex
	lines   []string // the last of stderr, and of stdout that was no output
	answer  chan struct{}
	missed  int       // requests in a row without an answer
	since   time.Time // of the first of those
	last    time.Time // of the last answer
	flush   func()
	answers bool // a bpftrace, which is asked for its values
	// endStacks is the line of stacks that a bpftrace printed when it ended;
	// written by the goroutine that reads stdout.
	endStacks []byte
	retired   bool // its accounts are settled; under the runner's lock
}

// member is a tool with the source that a child serves it from.
type member struct {
	tool   *tool
	source *Source
	feed   *feed

	rows    *output.Columns // of a bpftrace script; nil if it prints none
	columns []string        // reused
}

func newMember(t *tool, s *Source, sink Sink, own *ownDoings) *member {
	m := &member{tool: t, source: s, feed: newFeed(t.def, s, t.options, sink, t.ring, &t.counters, own)}
	if s.Rows != "" {
		m.rows, _ = output.NewColumns(s.Rows, nil) // checked by the catalogue
	}
	return m
}

func (c *child) markAttached() {
	c.once.Do(func() {
		c.tookToAttach = time.Since(c.started)
		close(c.attached)
	})
}

func (c *child) isAttached() bool {
	select {
	case <-c.attached:
		return true
	default:
		return false
	}
}

// note keeps a line for the reason of a failure, but for what bpftrace says
// under any low limit, and goes on.
func (c *child) note(line []byte) {
	if bytes.Contains(line, []byte("RLIMIT_MEMLOCK")) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lines) == 20 {
		c.lines = c.lines[1:]
	}
	c.lines = append(c.lines, printable(string(line[:min(len(line), 400)])))
}

// printable makes one plain line of what a tool says.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// complaints are what lines that say why a child failed have in them. Those that
// say it best come first: bcc's shell misses modprobe before it misses headers.
var complaints = [][]string{
	{"unable to find kernel headers"},
	{"error", "unable to", "failed", "could not attach", "not found"},
}

// complaint is the line that says best why a child failed: the last of a Python
// traceback that is not code, the first that speaks of an error, or else the
// last.
func (c *child) complaint() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.lines, func(line string) bool { return strings.HasPrefix(line, "Traceback (") }) {
		for _, line := range slices.Backward(c.lines) {
			if line != "" && !strings.HasPrefix(line, " ") {
				return line
			}
		}
	}
	for _, words := range complaints {
		for _, line := range c.lines {
			lower := strings.ToLower(line)
			if slices.ContainsFunc(words, func(word string) bool { return strings.Contains(lower, word) }) {
				return strings.TrimSpace(line)
			}
		}
	}
	if len(c.lines) > 0 {
		return strings.TrimSpace(c.lines[len(c.lines)-1])
	}
	return ""
}

// stderr is drained always; losses in it are counted for the tool, or for each
// tool that shares the child, as nothing tells whose they are.
func (c *child) stderr(line []byte, _ bool) {
	if n, ok := output.Losses(line); ok {
		c.lost(n)
		return
	}
	c.note(line)
}

func (c *child) lost(n uint64) {
	for _, m := range c.members {
		m.tool.counters.lost.Add(n)
	}
}

// startText runs an upstream tool. Its stdout is a terminal, as libbpf-tools
// hold 4 KiB back on a pipe.
func startText(m *member, path string, interest func(*process.Process)) (*child, error) {
	c := &child{members: []*member{m}, path: path, attached: make(chan struct{}), started: time.Now()}
	args, err := m.tool.def.arguments(m.source, m.tool.options)
	if err != nil {
		return nil, err
	}
	decoder := m.feed.lineDecoder()
	c.flush = decoder.flush
	wait := grace
	if m.source.yieldsAtEnd() {
		wait = stacksGrace
	}
	env := append(process.DefaultEnv(), "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
	p, err := process.Start(process.Spec{
		Path: path, Args: args, Env: env, PTY: true, MaxLine: maxTextLine, Grace: wait,
		Stdout: func(line []byte, cut bool) {
			if isStartupError(line) && !c.isAttached() {
				c.note(line)
				return
			}
			decoder.line(line, cut)
		},
		Stderr: c.stderr,
	})
	if err != nil {
		return nil, err
	}
	c.process = p
	interest(p)
	return c, nil
}

// isStartupError knows what bcc prints on stdout when it cannot run: without
// kernel headers or kprobes. Later, such a line is a row of a program that is
// named to look like it.
func isStartupError(line []byte) bool {
	s := string(line[:min(len(line), 80)])
	return strings.HasPrefix(s, "Unable to find kernel headers") || strings.HasPrefix(s, "ERROR: ")
}

// printsAtLast is how long a program may print without having attached anything
// before it is taken for something else than a BPF tool.
const printsAtLast = 10 * time.Second

// settling tells when a text tool has attached all: it has something, and had
// nothing more for a tenth of the time that this took, 50 ms at least.
type settling struct {
	began   time.Time
	changed time.Time
	last    int
}

const settleAtLeast = 50 * time.Millisecond

// over takes how many attachments there are now.
func (s *settling) over(now time.Time, attachments int) bool {
	if attachments != s.last {
		s.last, s.changed = attachments, now
	}
	return attachments > 0 && now.Sub(s.changed) >= max(settleAtLeast, s.changed.Sub(s.began)/10)
}

// awaitText waits until a text tool has attached all that it attaches. Looking
// costs: what takes long is looked at less often.
func (c *child) awaitText(ctx context.Context) error {
	for attaching := (settling{began: c.started}); ; {
		n := attachments(c.process.Pid())
		if attaching.over(time.Now(), n) {
			c.markAttached()
			return nil
		}
		if n == 0 && c.printsFor(printsAtLast) {
			return errors.New("it prints, but has attached no BPF program")
		}
		select {
		case <-time.After(max(settleAtLeast, time.Since(c.started)/50)):
		case <-c.process.Done():
			return c.failure()
		case <-ctx.Done():
			return c.timeout(ctx)
		}
	}
}

// printsFor tells whether the child printed something so long ago.
func (c *child) printsFor(d time.Duration) bool {
	usage, err := c.process.Usage()
	if err != nil || usage.LastOutput.IsZero() {
		return false
	}
	if c.printed.IsZero() {
		c.printed = usage.LastOutput
	}
	return time.Since(c.printed) > d
}

// failure says how a child ended that should not have.
func (c *child) failure() error {
	if said := c.complaint(); said != "" {
		return fmt.Errorf("%s: %s", c.process.Exit(), said)
	}
	return fmt.Errorf("%s", c.process.Exit())
}

func (c *child) timeout(ctx context.Context) error {
	return fmt.Errorf("not attached after %s", time.Since(c.started).Round(time.Second))
}

// attachments counts the BPF links and perf events that a process or one of its
// children holds, by which programs hang on to what they trace. Programs alone
// are loaded only.
func attachments(pid int) int {
	n := ownAttachments(pid)
	if n > 0 {
		return n
	}
	// The tool may be behind a script.
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(children)) {
		if id, err := strconv.Atoi(child); err == nil && id != pid {
			n += ownAttachments(id)
		}
	}
	return n
}

func ownAttachments(pid int) int {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	n := 0
	for _, entry := range entries {
		switch target, _ := os.Readlink(filepath.Join(dir, entry.Name())); target {
		case "anon_inode:bpf_link", "anon_inode:bpf-link", "anon_inode:bpf-raw-tracepoint", "anon_inode:bpf_raw_tracepoint", "anon_inode:[perf_event]":
			n++
		}
	}
	return n
}
