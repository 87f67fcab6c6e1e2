// Package eventlog writes the events of the tools as lines of JSON, for a
// shipper of logs (Alloy, Fluent Bit, Vector) to take to where logs are kept.
//
// A line is {"time", "tool", "host", "fields"}: the time of the event (RFC
// 3339, UTC, microseconds), the tool, the host's name, and an object with the
// tool's fields, numbers as numbers, unknown ones left out. Fields that may hold
// secrets are left out too unless Config.Secrets says otherwise.
//
// Tools never wait for the log: what comes faster than the rate that is allowed,
// or than the disk takes, is left out and counted. An error of the disk is
// logged once and the lines are counted; the log goes on when the disk does.
package eventlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"bpf_tools_exporter/tools"
)

// Stdout as the path writes to standard output.
const Stdout = "stdout"

const (
	queueSize = 1024
	// batchSize is about how many bytes one write has when events queue up.
	batchSize = 64 << 10
	// closeTimeout is how long Close waits for a reader that does not read.
	closeTimeout = time.Second
)

// Config says what a [Log] writes and where.
type Config struct {
	// Path is a file, which is made if it is missing, or Stdout.
	Path string
	// Secrets writes also the fields that may hold secrets, such as the
	// arguments of programs.
	Secrets bool
	// Rate bounds the events a second, of all tools, over ten seconds.
	Rate   int
	Logger log.Logger
}

// A Log takes events and writes them in the background until Close. It is a
// [prometheus.Collector] of what it wrote and left out. Its methods are safe
// for concurrent use; those of a nil Log do nothing.
type Log struct {
	cfg   Config
	host  string // as JSON
	limit *rate.Limiter

	queue  chan entry
	reopen chan struct{}
	closed chan struct{} // by Close
	done   chan struct{} // at the end of run
	once   sync.Once

	out     io.WriteCloser // run's own, as are those that follow
	failing bool
	torn    bool // the file ends within a line

	written prometheus.Counter
	dropped *prometheus.CounterVec
}

type entry struct {
	def   *tools.Definition
	event tools.Event
}

// Why events were left out.
const (
	byRate  = "rate"  // they came faster than Config.Rate
	byQueue = "queue" // they came faster than they could be written
	byError = "error" // they could not be written
)

// Open starts a log. The caller closes it.
func Open(cfg Config) (*Log, error) {
	out, err := open(cfg.Path)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	l := newLog(cfg, host, out)
	go l.run()
	return l, nil
}

func newLog(cfg Config, host string, out io.WriteCloser) *Log {
	quoted, _ := json.Marshal(host) // a string always can be
	l := &Log{
		cfg: cfg, host: string(quoted), limit: rate.NewLimiter(rate.Limit(cfg.Rate), 10*cfg.Rate), out: out,
		queue: make(chan entry, queueSize), reopen: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{}),
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bpf_tools_exporter_events_log_written_total", Help: "Events written to the event log."}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bpf_tools_exporter_events_log_dropped_total", Help: "Events left out of the event log: over the rate allowed, too many for the disk, or not written because of an error."}, []string{"reason"}),
	}
	for _, reason := range []string{byRate, byQueue, byError} {
		l.dropped.WithLabelValues(reason)
	}
	return l
}

// Add writes an event of a tool soon, or counts that it did not. It does not
// block.
func (l *Log) Add(d *tools.Definition, e tools.Event) {
	if l == nil {
		return
	}
	if !l.limit.Allow() {
		l.dropped.WithLabelValues(byRate).Inc()
		return
	}
	select {
	case l.queue <- entry{d, e}:
	default:
		l.dropped.WithLabelValues(byQueue).Inc()
	}
}

// Reopen makes the log go on in a new file of its name, for the old one has
// been moved away. Where that fails it goes on in the old one.
func (l *Log) Reopen() {
	if l == nil {
		return
	}
	select {
	case l.reopen <- struct{}{}:
	default: // one that is still to be done will do
	}
}

// Close writes what is queued. An event that comes later is not written.
func (l *Log) Close() {
	if l == nil {
		return
	}
	l.once.Do(func() { close(l.closed) })
	select {
	case <-l.done:
	case <-time.After(closeTimeout):
		_ = level.Warn(l.cfg.Logger).Log("msg", "event log: the last events are not written, as nobody reads them", "path", l.cfg.Path)
	}
}

// Describe implements [prometheus.Collector].
func (l *Log) Describe(out chan<- *prometheus.Desc) {
	l.written.Describe(out)
	l.dropped.Describe(out)
}

// Collect implements [prometheus.Collector].
func (l *Log) Collect(out chan<- prometheus.Metric) {
	l.written.Collect(out)
	l.dropped.Collect(out)
}

// run is the only one that writes, so that a disk that hangs holds up nothing
// else.
func (l *Log) run() {
	defer close(l.done)
	defer func() { l.out.Close() }()
	for {
		select {
		case <-l.reopen:
			l.openAgain()
		case e := <-l.queue:
			l.write(e)
		case <-l.closed:
			for len(l.queue) > 0 {
				l.write(<-l.queue)
			}
			return
		}
	}
}

func (l *Log) openAgain() {
	out, err := open(l.cfg.Path)
	if err != nil {
		_ = level.Error(l.cfg.Logger).Log("msg", "event log: goes on in the old file", "err", err)
		return
	}
	l.out.Close()
	l.out, l.torn = out, false
	_ = level.Info(l.cfg.Logger).Log("msg", "event log: opened again", "path", l.cfg.Path)
}

// write writes an event and those that queue up behind it.
func (l *Log) write(e entry) {
	var b bytes.Buffer
	if l.torn {
		b.WriteByte('\n')
	}
	l.line(&b, e)
	n := 1
	for ; len(l.queue) > 0 && b.Len() < batchSize; n++ {
		l.line(&b, <-l.queue)
	}
	wrote, err := l.out.Write(b.Bytes())
	if err == nil {
		l.written.Add(float64(n))
		l.recovered()
		return
	}
	text := b.Bytes()[:wrote]
	whole := min(bytes.Count(bytes.TrimPrefix(text, []byte("\n")), []byte("\n")), n)
	l.written.Add(float64(whole))
	l.dropped.WithLabelValues(byError).Add(float64(n - whole))
	if wrote > 0 {
		l.torn = text[wrote-1] != '\n'
	}
	if !l.failing {
		_ = level.Error(l.cfg.Logger).Log("msg", "event log: events are lost until it can be written again", "err", err)
	}
	l.failing = true
}

func (l *Log) recovered() {
	if l.failing {
		_ = level.Info(l.cfg.Logger).Log("msg", "event log: can be written again", "path", l.cfg.Path)
	}
	l.failing, l.torn = false, false
}

func (l *Log) line(b *bytes.Buffer, e entry) {
	var leaveOut []string
	if !l.cfg.Secrets {
		leaveOut = e.def.Secret
	}
	fmt.Fprintf(b, `{"time":%q,"tool":%q,"host":%s,"fields":%s}`+"\n",
		e.event.Time.UTC().Format(tools.TimeFormat), e.def.Name, l.host, e.event.FieldsJSON(leaveOut))
}
