package eventlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"bpf_tools_exporter/tools"
)

var execsnoop = &tools.Definition{Name: "execsnoop", Secret: []string{"args"}}

func event(comm, args string) tools.Event {
	return tools.Event{
		Time:   time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Fields: tools.Fields{{Name: "comm", Type: "string"}, {Name: "pid", Type: "int"}, {Name: "args", Type: "string"}},
		Values: []string{comm, "12", args},
	}
}

// A buffer is written to by the log while the test reads it.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *buffer) Close() error { return nil }

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !check(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within ten seconds: %s", what)
		}
	}
}

func droppedBy(l *Log, reason string) float64 {
	return testutil.ToFloat64(l.dropped.WithLabelValues(reason))
}

func TestLines(t *testing.T) {
	head := `{"time":"2026-01-02T03:04:05.000006Z","tool":"execsnoop","host":"web-1","fields":`
	for _, c := range []struct {
		name       string
		secrets    bool
		comm, args string
		want       string
	}{
		{"no secrets", false, "mysql", "mysql --password=hunter2", `{"comm":"mysql","pid":12}`},
		{"secrets", true, "mysql", "mysql --password=hunter2", `{"comm":"mysql","pid":12,"args":"mysql --password=hunter2"}`},
		{"unknown", true, "", "", `{"pid":12}`},
		{"another line", false, "x\n{\"tool\":\"sshd\"}", "", `{"comm":"x\n{\"tool\":\"sshd\"}","pid":12}`},
		{"steers a terminal", true, "\x1b[2J\u009b1m", "\u202etxt.exe", `{"comm":"\u001b[2J\u009b1m","pid":12,"args":"\u202etxt.exe"}`},
		{"no UTF-8", false, "\xff\xfe", "", `{"comm":"` + "\uFFFD" + `","pid":12}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := new(buffer)
			l := newLog(Config{Secrets: c.secrets, Rate: 100, Logger: log.NewNopLogger()}, "web-1", out)
			go l.run()
			l.Add(execsnoop, event(c.comm, c.args))
			l.Close()
			if got, want := out.String(), head+c.want+"}\n"; got != want {
				t.Errorf("\ngot  %s\nwant %s", got, want)
			}
			if !json.Valid([]byte(out.String())) {
				t.Error("no JSON")
			}
		})
	}
}

func TestRate(t *testing.T) {
	out := new(buffer)
	l := newLog(Config{Rate: 1, Logger: log.NewNopLogger()}, "h", out)
	go l.run()
	for range 500 {
		l.Add(execsnoop, event("sh", ""))
	}
	l.Close()
	lines := float64(strings.Count(out.String(), "\n"))
	if lines < 10 || lines > 20 {
		t.Errorf("%v lines, want ten seconds' worth of one a second", lines)
	}
	if written, dropped := testutil.ToFloat64(l.written), droppedBy(l, byRate); written != lines || written+dropped != 500 {
		t.Errorf("%v written, %v dropped, %v lines, want 500 in all", written, dropped, lines)
	}
	if problems, err := testutil.CollectAndLint(l); err != nil || len(problems) > 0 {
		t.Errorf("%v: %v", err, problems)
	}
}

// hanging is a file whose disk does not answer.
type hanging struct{ answer chan struct{} }

func (h hanging) Write(p []byte) (int, error) { <-h.answer; return len(p), nil }
func (h hanging) Close() error                { return nil }

// A disk that hangs holds up neither the tools nor the end of the exporter.
func TestHangingDisk(t *testing.T) {
	disk := hanging{make(chan struct{})}
	l := newLog(Config{Rate: 100000, Logger: log.NewNopLogger()}, "h", disk)
	go l.run()
	const n = 5000
	for range n {
		l.Add(execsnoop, event("sh", ""))
	}
	l.Reopen()
	l.Reopen()
	l.Close()
	if dropped := droppedBy(l, byQueue); dropped < n-queueSize-batchSize/50 || dropped >= n {
		t.Errorf("%v of %d dropped, want all but a queue", dropped, n)
	}
	close(disk.answer)
	<-l.done
	if written, dropped := testutil.ToFloat64(l.written), droppedBy(l, byQueue); written+dropped != n {
		t.Errorf("%v written, %v dropped, want %d", written, dropped, n)
	}
}

// A full disk is logged once, and again when it is not full any more.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err) // every Linux has it
	}
	messages := new(buffer)
	l := newLog(Config{Rate: 1000, Logger: log.NewLogfmtLogger(messages)}, "h", full)
	go l.run()
	for n := range 100 {
		l.Add(execsnoop, event("sh", ""))
		eventually(t, "the error is counted", func() bool { return droppedBy(l, byError) == float64(n+1) })
	}
	if got := strings.Count(messages.String(), "\n"); got != 1 || !strings.Contains(messages.String(), "no space left") {
		t.Errorf("%d messages, want one of the lack of space:\n%s", got, messages)
	}
	l.cfg.Path = filepath.Join(t.TempDir(), "log")
	l.Reopen()
	eventually(t, "the log is opened again", func() bool { return strings.Contains(messages.String(), "opened again") })
	l.Add(execsnoop, event("sh", ""))
	l.Close()
	if !strings.Contains(messages.String(), "can be written again") || testutil.ToFloat64(l.written) != 1 {
		t.Errorf("%v written:\n%s", testutil.ToFloat64(l.written), messages)
	}
}

// tearing takes so many bytes and then has an error, once.
type tearing struct {
	buffer
	left int
}

func (f *tearing) Write(p []byte) (int, error) {
	if f.left < 0 || len(p) <= f.left {
		return f.buffer.Write(p)
	}
	n, _ := f.buffer.Write(p[:f.left])
	f.left = -1
	return n, errors.New("torn")
}

// A line that was written in part spoils no other.
func TestTornLine(t *testing.T) {
	line := new(bytes.Buffer)
	newLog(Config{Rate: 1}, "h", nil).line(line, entry{execsnoop, event("sh", "")})
	for left := range line.Len() + 2 {
		file := &tearing{left: left}
		l := newLog(Config{Rate: 100, Logger: log.NewNopLogger()}, "h", file)
		for range 3 { // all in one write
			l.queue <- entry{execsnoop, event("sh", "")}
		}
		l.write(<-l.queue)
		l.write(entry{execsnoop, event("sh", "")})
		whole := float64(strings.Count(file.String(), line.String()))
		if left == line.Len()-1 {
			whole-- // its newline came with the next write: it counts as torn
		}
		if written, dropped := testutil.ToFloat64(l.written), droppedBy(l, byError); written != whole || written+dropped != 4 {
			t.Errorf("torn after %d bytes: %v written, %v dropped, %v whole lines:\n%s", left, written, dropped, whole, file.String())
		}
		if !strings.HasSuffix(file.String(), "\n"+line.String()) && file.String() != line.String() {
			t.Errorf("torn after %d bytes: the next line is no line:\n%s", left, file.String())
		}
	}
}

// Rotation: the file is moved away, the exporter gets a signal, and not one
// event is in neither file or in both.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l, err := Open(Config{Path: path, Rate: 1000, Logger: log.NewNopLogger()})
	if err != nil {
		t.Fatal(err)
	}
	add := func(n int, comm string) {
		for range n {
			l.Add(execsnoop, event(comm, ""))
		}
	}
	written := func(n float64) {
		t.Helper()
		eventually(t, "events are written", func() bool { return testutil.ToFloat64(l.written) == n })
	}
	add(10, "first")
	written(10)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add(5, "between")
	written(15)
	l.Reopen()
	eventually(t, "there is a new file", func() bool { _, err := os.Stat(path); return err == nil })
	add(7, "second")
	l.Close()
	for file, want := range map[string]map[string]int{path + ".1": {"first": 10, "between": 5, "second": 0}, path: {"first": 0, "between": 0, "second": 7}} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for comm, n := range want {
			if got := strings.Count(string(text), `"`+comm+`"`); got != n {
				t.Errorf("%s has %d of %q, want %d", file, got, comm, n)
			}
		}
		if info, _ := os.Stat(file); info.Mode().Perm()&^0o640 != 0 {
			t.Errorf("%s has mode %04o, want 0640", file, info.Mode().Perm())
		}
	}
}

// Where the new file cannot be had the log stays in the old one.
func TestReopenFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "events.log")
	messages := new(buffer)
	l, err := Open(Config{Path: path, Rate: 1000, Logger: log.NewLogfmtLogger(messages)})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(path, path+".1"), os.Symlink("/etc/passwd", path)); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	eventually(t, "the error is logged", func() bool { return strings.Contains(messages.String(), "symbolic link") })
	l.Add(execsnoop, event("sh", ""))
	l.Close()
	if text, _ := os.ReadFile(path + ".1"); strings.Count(string(text), "\n") != 1 {
		t.Errorf("the old file has %q, want the event", text)
	}
}

func TestOpen(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("not root")
		}
		t.Skip("needs root: files of other users are made")
	}
	const nobody = 65534
	for _, c := range []struct {
		name string
		make func(dir string) error
		path string
		want string // in the error; "" for none
	}{
		{"new file", func(string) error { return nil }, "log", ""},
		{"file of ours", func(dir string) error { return os.WriteFile(dir+"/log", nil, 0o644) }, "log", ""},
		{"link of ours to a folder", func(dir string) error { return errors.Join(os.Mkdir(dir+"/d", 0o755), os.Symlink("d", dir+"/l")) }, "l/log", ""},
		{"link up", func(dir string) error {
			return errors.Join(os.MkdirAll(dir+"/a/b", 0o755), os.Symlink("../a/./b/", dir+"/a/l"))
		}, "a/l/log", ""},
		{"folder of all with the sticky bit", func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/tmp", 0o777), os.Chmod(dir+"/tmp", 0o777|os.ModeSticky))
		}, "tmp/log", ""},
		{"folder of a group", func(dir string) error { return errors.Join(os.Mkdir(dir+"/d", 0), os.Chmod(dir+"/d", 0o775)) }, "d/log", ""},
		{"no folder", func(string) error { return nil }, "d/log", "d: no such file"},
		{"a folder", func(dir string) error { return os.Mkdir(dir+"/log", 0o755) }, "log", "is a directory"},
		{"file as a folder", func(dir string) error { return os.WriteFile(dir+"/f", nil, 0o644) }, "f/log", "not a directory"},
		{"link", func(dir string) error { return os.Symlink("/etc/passwd", dir+"/log") }, "log", "is a symbolic link"},
		{"dangling link", func(dir string) error { return os.Symlink("x", dir+"/log") }, "log", "is a symbolic link"},
		{"links in a circle", func(dir string) error { return os.Symlink("l", dir+"/l") }, "l/log", "too many levels"},
		{"hard link", func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/f", nil, 0o600), os.Link(dir+"/f", dir+"/log"))
		}, "log", "hard link"},
		{"pipe", func(dir string) error { return syscall.Mkfifo(dir+"/log", 0o600) }, "log", "no such device"},
		{"file of another", func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/log", nil, 0o644), os.Chown(dir+"/log", nobody, nobody))
		}, "log", "belongs to user 65534"},
		{"folder of another", func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/d", 0o755), os.Chown(dir+"/d", nobody, nobody))
		}, "d/log", "d belongs to another user"},
		{"link of another", func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/d", 0o755), os.Symlink("d", dir+"/l"), os.Lchown(dir+"/l", nobody, nobody))
		}, "l/log", "l belongs to another user"},
		{"link into what others can write", func(dir string) error {
			return errors.Join(os.MkdirAll(dir+"/all/d", 0o755), os.Chmod(dir+"/all", 0o777), os.Symlink("all/d", dir+"/l"))
		}, "l/log", "all is writable by all (mode 0777)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.make(dir); err != nil {
				t.Fatal(err)
			}
			f, err := open(filepath.Join(dir, c.path))
			if err == nil {
				f.Close()
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestOpenStdout(t *testing.T) {
	l, err := Open(Config{Path: Stdout, Rate: 1, Logger: log.NewNopLogger()})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := os.Stdout.WriteString(""); err != nil {
		t.Errorf("standard output is closed: %v", err)
	}
}

func TestNoLog(t *testing.T) {
	var l *Log
	l.Add(execsnoop, event("sh", ""))
	l.Reopen()
	l.Close()
}

var _ prometheus.Collector = (*Log)(nil)
