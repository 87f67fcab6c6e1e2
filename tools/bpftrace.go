package tools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/output"
	"bpf_tools_exporter/tools/process"
)

// askTracepoint is fired by the exporter to ask for the maps: it writes its own
// oom_score_adj to itself. Nothing else on a host does that often, so that the
// probe costs nothing; every bpftrace can print maps in a probe, and the event
// wakes it at once, while a SIGUSR1 waits for its poll of 100 ms.
const askTracepoint = "oom:oom_score_adj_update"

// endRow is printed after the last map of an answer.
const endRow = "end"

// pollInterval is that of a bpftrace that cannot be asked, in seconds.
const pollInterval = 5

var tracepoint = regexp.MustCompile(`(?m)^\s*tracepoint:(\w+:\w+)`)

// tracepoints are those that a script attaches to.
func tracepoints(script string) []string {
	var names []string
	for _, m := range tracepoint.FindAllStringSubmatch(script, -1) {
		names = append(names, m[1])
	}
	return names
}

// compose makes the one program of all members: their scripts and the probe
// that prints what they count.
func compose(members []*member, canAsk bool) (string, error) {
	var text, maps strings.Builder
	for _, m := range members {
		script, err := m.tool.def.Script(m.source, m.tool.options)
		if err != nil {
			return "", err
		}
		text.WriteString(script)
		for _, name := range m.feed.mapNames() {
			fmt.Fprintf(&maps, "  print(%s);\n", name)
		}
	}
	probe := fmt.Sprintf("interval:s:%d", pollInterval)
	if canAsk {
		probe = "tracepoint:" + askTracepoint + "\n/pid == $1/"
	}
	fmt.Fprintf(&text, "%s\n{\n%s  printf(\"%s\\n\");\n}\n", probe, maps.String(), endRow)
	return text.String(), nil
}

// bufInRow is what a script prints of memory by %rx.
var bufInRow = regexp.MustCompile(`, buf\((?:[^()]|\([^()]*\))*\)`)

// inDialect rewrites a program for an older bpftrace: %rx is from 0.15, and of 0.11
// buf() was seen to read on behind the arguments, into the environment. So rows
// show neither arguments nor names of files there.
func inDialect(program string, version backend.Version) string {
	if version.Less(backend.Version{0, 15}) {
		program = strings.ReplaceAll(bufInRow.ReplaceAllString(program, ""), "%rx", "")
	}
	return program
}

// bpftraceEnv bounds maps and strings. Older versions know the first, newer
// ones the second name of each, and warn of the other. glibc keeps one arena
// and gives memory back.
func bpftraceEnv(version backend.Version, keys int) []string {
	env := append(process.DefaultEnv(), "BPFTRACE_PERF_RB_PAGES=64",
		"MALLOC_ARENA_MAX=1", "MALLOC_TRIM_THRESHOLD_=65536", "MALLOC_TOP_PAD_=0", "MALLOC_MMAP_THRESHOLD_=4096")
	if version.Less(backend.Version{0, 18}) {
		// Else it reads the symbols of a program again for each frame. What runs
		// twice at different addresses has names only in one of them.
		env = append(env, "BPFTRACE_CACHE_USER_SYMBOLS=1")
	}
	if version.Less(backend.Version{0, 19}) {
		return append(env, "BPFTRACE_STRLEN=200", fmt.Sprintf("BPFTRACE_MAP_KEYS_MAX=%d", keys))
	}
	return append(env, "BPFTRACE_MAX_STRLEN=512", fmt.Sprintf("BPFTRACE_MAX_MAP_KEYS=%d", keys))
}

// stackKeys is how many different stacks are told apart.
const stackKeys = 32768

// bpftraceSpec is what it takes to start bpftrace.
type bpftraceSpec struct {
	path    string
	version backend.Version
	canAsk  bool
	exclude string // the process, "" for none
	port    string // the local port to leave out, "" for none
}

// startBPFtrace runs the scripts of all members in one process.
func startBPFtrace(spec bpftraceSpec, members []*member, interest func(*process.Process)) (*child, error) {
	program, err := compose(members, spec.canAsk)
	if err != nil {
		return nil, err
	}
	keys, maxLine, wait := mapKeys, maxMapLine, grace
	if members[0].source.yieldsAtEnd() { // it is alone
		keys, maxLine, wait = stackKeys, maxStacksLine, stacksGrace
	}
	c := &child{members: members, path: spec.path, attached: make(chan struct{}), started: time.Now(), answers: true, flush: func() {}}
	args := []string{"-f", "json", "-B", "line", "-", strconv.Itoa(os.Getpid()), orNone(spec.exclude), orNone(spec.port)}
	if spec.version.Less(backend.Version{0, 12}) {
		args = append([]string{"--btf"}, args...) // 0.11 reads it only when told to
	}
	c.process, err = process.Start(process.Spec{
		Path: spec.path,
		Args: args,
		Env:  bpftraceEnv(spec.version, keys), Stdin: inDialect(program, spec.version), MaxLine: maxLine, Grace: wait,
		Stdout: c.message, Stderr: c.stderr,
	})
	if err != nil {
		return nil, err
	}
	interest(c.process)
	return c, nil
}

// orNone is a number that no process or port has.
func orNone(s string) string {
	if s == "" {
		return "4294967295"
	}
	return s
}

// message takes one line of bpftrace's output. It runs in the goroutine that
// reads stdout.
func (c *child) message(line []byte, cut bool) {
	// At its end bpftrace prints all maps, also those that only scripts read.
	if name, ok := output.MapName(line); ok && !c.wants(name) {
		for _, m := range c.members {
			if m.source.Stacks != nil && string(name) == "@"+m.source.Stacks.Map {
				c.endStacks = append(c.endStacks[:0], line...)
			}
		}
		return
	}
	message, err := output.ParseBPFtrace(line)
	switch {
	case cut || err != nil:
		for _, m := range c.members {
			m.feed.counters.parseErrors.Add(1)
		}
	case message.Kind == output.KindLostEvents:
		c.lost(message.Count)
	case message.Kind == output.KindText:
		if n, ok := output.Losses(line); ok {
			c.lost(n)
			return
		}
		c.note(line)
	case message.Kind == output.KindMap || message.Kind == output.KindStats:
		for _, m := range c.members {
			m.feed.takeMap(&message)
		}
	case message.Kind == output.KindPrintf:
		c.row(bytes.TrimSuffix(message.Data, []byte("\n")))
	}
}

func (c *child) wants(name []byte) bool {
	for _, m := range c.members {
		if m.feed.maps[string(name)] != nil {
			return true
		}
	}
	return false
}

// row takes what a script printed: an event behind its tool's name, or the end
// of an answer.
func (c *child) row(data []byte) {
	name, rest, _ := bytes.Cut(data, []byte(" "))
	if string(name) == endRow {
		c.answered()
		return
	}
	for _, m := range c.members {
		if m.tool.def.Name != string(name) || m.rows == nil {
			continue
		}
		columns, err := m.rows.Decode(rest, m.columns[:0])
		if err != nil {
			m.feed.counters.parseErrors.Add(1)
			return
		}
		m.columns = columns
		m.feed.takeRow(columns)
		return
	}
	c.note(data)
}

func (c *child) answered() {
	for _, m := range c.members {
		m.feed.takeEnd()
	}
	c.markAttached()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed, c.last = 0, time.Now()
	if c.answer != nil {
		close(c.answer)
		c.answer = nil
	}
}

// errStale says that the values are those of the last answer.
var errStale = errors.New("no answer")

// ask requests the values of all maps and waits for the answer. Callers that
// ask at the same time share one request.
func (c *child) ask(ctx context.Context) error {
	c.mu.Lock()
	answer, first := c.answer, c.answer == nil
	if first {
		answer = make(chan struct{})
		c.answer = answer
	}
	c.mu.Unlock()
	if first {
		if err := fireAskTracepoint(); err != nil {
			c.forget(answer)
			return err
		}
	}
	select {
	case <-answer:
		return nil
	case <-c.process.Done():
	case <-ctx.Done():
	}
	c.forget(answer)
	return errStale
}

// forget gives a request up, so that the next caller asks anew.
func (c *child) forget(answer chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answer != answer {
		return
	}
	c.answer = nil
	if c.missed == 0 {
		c.since = time.Now()
	}
	c.missed++
}

// hung tells whether requests have gone unanswered for so long.
func (c *child) hung(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.missed >= 3 && time.Since(c.since) > d
}

// fireAskTracepoint writes the exporter's oom_score_adj back to itself.
func fireAskTracepoint() error {
	const file = "/proc/self/oom_score_adj"
	value, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, bytes.TrimSpace(value), 0)
}

// awaitBPFtrace waits for the first answer: bpftrace prints nothing that means
// "attached" in all versions, and serves its output only when it is.
func (c *child) awaitBPFtrace(ctx context.Context, canAsk bool) error {
	for {
		wait, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		if canAsk {
			_ = c.ask(wait)
		}
		select {
		case <-c.attached:
			cancel()
			c.mu.Lock()
			c.missed = 0
			c.mu.Unlock()
			return c.skipped()
		case <-c.process.Done():
			cancel()
			return c.failure()
		case <-wait.Done():
			cancel()
		}
		if ctx.Err() != nil {
			return c.timeout(ctx)
		}
	}
}

// skipped finds what bpftrace up to 0.23 says of probes that it leaves out.
func (c *child) skipped() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.lines {
		if strings.Contains(strings.ToLower(line), "could not attach probe") {
			return errors.New(strings.TrimSpace(line))
		}
	}
	return nil
}
