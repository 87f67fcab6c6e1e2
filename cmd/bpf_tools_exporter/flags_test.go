package main

import (
	"os"
	"path/filepath"
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
