package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// Options of every type, from a folder of tools.
func TestOptionFlags(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "probe"), 0o755); err != nil {
		t.Fatal(err)
	}
	definition := `name: probe
help: A tool to test with.
options:
  least: {help: Least., type: int, min: 0, max: 60000, default: 10}
  mode: {help: Mode., type: enum, values: [fast, slow], default: fast}
  loud: {help: Loud., default: true}
metrics: [{name: bpf_probe_events_total, help: Events., type: counter}]
sources: [{backend: bcc, command: [probe], format: columns, columns: n:int}]
`
	if err := os.WriteFile(filepath.Join(dir, "probe", "tool.yaml"), []byte(definition), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want map[string]string
		err  string
	}{
		{nil, map[string]string{"least": "10", "mode": "fast", "loud": "true"}, ""},
		{[]string{"--collector.probe.least=0", "--collector.probe.mode=slow", "--no-collector.probe.loud"},
			map[string]string{"least": "0", "mode": "slow", "loud": "false"}, ""},
		{[]string{"--collector.probe.least=60001"}, nil, `--collector.probe.least: "60001": want a whole number from 0 to 60000`},
		{[]string{"--collector.probe.mode=slower"}, nil, `--collector.probe.mode: "slower": want one of fast, slow`},
	} {
		f, err := parseFlags(append(c.args, "--tools.directory="+dir))
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%v: got %v, want %s", c.args, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", c.args, err)
			continue
		}
		for name, want := range c.want {
			if got := f.options["probe"][name]; got != want {
				t.Errorf("%v: %s is %q, want %q", c.args, name, got, want)
			}
		}
	}
}

// A socket that systemd passes on tells the exporter's port.
func TestActivatedPort(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": filepath.Join(t.TempDir(), "socket")}[network]
		l, err := net.Listen(network, address)
		if err != nil {
			cannotRun(t, err.Error())
		}
		defer l.Close()
		file, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		want := ""
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			want = strconv.Itoa(a.Port)
		}
		for pid, want := range map[string]string{strconv.Itoa(os.Getpid()): want, "1": "", "": ""} {
			if got := activatedPort(func(string) string { return pid }, int(file.Fd())); got != want {
				t.Errorf("%s, LISTEN_PID=%s: got %q, want %q", network, pid, got, want)
			}
		}
	}
	if got := activatedPort(func(string) string { return strconv.Itoa(os.Getpid()) }, 9999); got != "" {
		t.Errorf("no file: got %q", got)
	}
}
