package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseConfig(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"a comment", "# nothing\n", ""},
		{"null", "null\n", ""},
		{"flat", "tools.max-series: 1000\nlog.level: debug\n", "1 tools.max-series [1000]; 2 log.level [debug]"},
		{"nested", "collector:\n  opensnoop: true\ntools:\n  max-series: 7\n", "2 collector.opensnoop [true]; 4 tools.max-series [7]"},
		{"enabled", "collector:\n  execsnoop: {enabled: true, failed: true}\n", "2 collector.execsnoop [true]; 2 collector.execsnoop.failed [true]"},
		{"enabled of no tool", "web: {enabled: true}\n", "1 web.enabled [true]"},
		{"a list", "tools.backends: [bcc, bpftrace]\n", "1 tools.backends [bcc bpftrace]"},
		{"a text", "tools.series-idle: '5m'\n", "1 tools.series-idle [5m]"},
		{"twice", "a: 1\na: 2\n", "error: 2: a has a value in line 1 already"},
		{"twice, nested and flat", "a: {b: 1}\na.b: 2\n", "error: 2: a.b has a value in line 1 already"},
		{"no value", "a:\n  b:\n", "error: 2: a.b has no value"},
		{"a list of mappings", "a:\n- b: 1\n", "error: 2: a: want a list of plain values"},
		{"a list of nothing", "a: [~]\n", "error: 1: a: want a list of plain values"},
		{"no mapping", "[a, b]\n", "error: 1: want a mapping of flags to values, such as tools.max-series: 1000"},
		{"a text only", "text\n", "error: 1: want a mapping of flags to values, such as tools.max-series: 1000"},
		{"aliases", "a: &x 1\nb: *x\n", "error: 2: aliases are not for this file: write the value again"},
		{"two documents", "a: 1\n---\nb: 2\n", "error: 1: the file is one YAML document: remove what follows the first"},
		{"no YAML", "a: [\n", "error: 1: is no YAML: did not find expected node content"},
		{"no YAML later", "a: 1\nb: {\n", "error: 2: is no YAML: did not find expected node content"},
	} {
		t.Run(c.name, func(t *testing.T) {
			settings, err := parseConfig([]byte(c.text))
			var all []string
			for _, s := range settings {
				all = append(all, fmt.Sprintf("%d %s %v", s.line, s.name, s.values))
			}
			got := strings.Join(all, "; ")
			if err != nil {
				got = "error: " + err.Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("collector:\n  execsnoop: {enabled: true, failed: true}\ntools.backends: [bcc]\n"))
	f.Add([]byte("a: &x [1, *x]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		settings, err := parseConfig(text)
		if err != nil && (strings.ContainsAny(err.Error(), "\n") || err.Error()[0] < '0' || err.Error()[0] > '9') {
			t.Errorf("%q: no line that begins with its number", err)
		}
		for _, s := range settings {
			if s.line < 1 {
				t.Errorf("%+v has no line", s)
			}
		}
	})
}

// writeConfig writes a file that the exporter trusts, and returns its path.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// The file's values are defaults: what the command line says goes before them.
func TestConfigFile(t *testing.T) {
	file := writeConfig(t, `collector:
  execsnoop: {enabled: true, failed: true}
  tcplife: false
  disable-defaults: true
tools:
  max-series: 1000
  backends: [bcc, bpftrace]
  tcplife.backend: libbpf-tools
web.listen-address: ["127.0.0.1:1", "127.0.0.1:2"]
`)
	f, err := parseFlags([]string{"--config.file=" + file, "--tools.max-series=7", "--collector.tcpretrans"})
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"execsnoop":         {fmt.Sprint(f.enabled["execsnoop"]), "true"},
		"execsnoop.failed":  {f.options["execsnoop"]["failed"], "true"},
		"tcplife":           {fmt.Sprint(f.enabled["tcplife"]), "false"},
		"tcpretrans":        {fmt.Sprint(f.enabled["tcpretrans"]), "true"},
		"biolatency":        {fmt.Sprint(f.enabled["biolatency"]), "false"},
		"max-series":        {fmt.Sprint(f.maxSeries), "7"},
		"backends":          {fmt.Sprint(f.backends), "[bcc bpftrace]"},
		"backend of a tool": {f.pinned["tcplife"], "libbpf-tools"},
		"addresses":         {fmt.Sprint(*f.toolkit.WebListenAddresses), "[127.0.0.1:1 127.0.0.1:2]"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %s, want %s", what, pair[0], pair[1])
		}
	}
}

func TestConfigFileFaults(t *testing.T) {
	for text, want := range map[string]string{
		"\ntools.max-series: 0\n":                  "FILE:2: tools.max-series: 0: want 1 to 100000",
		"tools: {max-series: many}\n":              `FILE:1: tools.max-series: strconv.ParseFloat: parsing "many": invalid syntax`,
		"collector: {execsnoop: maybe}\n":          `FILE:1: collector.execsnoop: "maybe": want true or false`,
		"collector: {execsnop: true}\n":            `FILE:1: no flag "collector.execsnop": --help lists all`,
		"tools.backends: [bcc, perf]\n":            `FILE:1: tools.backends: no backend "perf": want some of bpftrace,libbpf-tools,bcc`,
		"log.level: loud\n":                        "FILE:1: log.level: enum value must be one of debug,info,warn,error, got 'loud'",
		"config.file: other.yml\n":                 "FILE:1: config.file is for the command line only",
		"events.log-args: true\n":                  "FILE:1: events.log-args: there is no event log: want --events.log=FILE too",
		"tools.directory: [/nonexistent/folder]\n": "/nonexistent/folder: no such file or directory",
	} {
		file := writeConfig(t, text)
		_, err := parseFlags([]string{"--config.file", file})
		if err == nil || strings.ReplaceAll(err.Error(), file, "FILE") != want {
			t.Errorf("%q: got  %v\nwant %s", text, err, want)
		}
	}
	writable := writeConfig(t, "")
	if err := os.Chmod(writable, 0o666); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		writable:            "is writable by others",
		"/nonexistent/file": "/nonexistent/file: no such file or directory",
	} {
		if _, err := parseFlags([]string{"--config.file=" + file}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", file, err, want)
		}
	}
}

// An error of a flag names it and what would be right.
func TestBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--tools.max-series=x":          `--tools.max-series: strconv.ParseFloat: parsing "x": invalid syntax; see --help`,
		"--tools.max-series x":          `--tools.max-series: strconv.ParseFloat: parsing "x": invalid syntax; see --help`,
		"--tools.series-idle=5x":        `--tools.series-idle: time: unknown unit "x" in duration "5x"; see --help`,
		"--log.format=xml":              "--log.format: enum value must be one of logfmt,json, got 'xml'; see --help",
		"--collector.execsnoop=1":       "--collector.execsnoop: unexpected 1; see --help",
		"--log.level=info --nope":       "unknown long flag '--nope'; see --help",
		"--tools.cpu-limit":             "expected argument for flag '--tools.cpu-limit'; see --help",
		"--tools.cpu-limit=-1":          "--tools.cpu-limit: -1: want 0 or more",
		"--tools.tcplife.backend=perf":  `--tools.tcplife.backend: no backend "perf": want one of bpftrace, libbpf-tools, bcc`,
		"--config.file":                 "--config.file wants a file",
		"--tools.directory":             "--tools.directory wants a folder",
		"--collector.tcplife unwelcome": "--collector.tcplife: unexpected unwelcome; see --help",
	} {
		if _, err := parseFlags(strings.Fields(args)); err == nil || err.Error() != want {
			t.Errorf("%s: got  %v\nwant %s", args, err, want)
		}
	}
}

func TestNeedRestart(t *testing.T) {
	set := func(name, value string) setting { return setting{name: name, values: []string{value}} }
	for _, c := range []struct {
		old, now []setting
		want     string
	}{
		{nil, nil, ""},
		{nil, []setting{set("collector.x", "true"), set("tools.cpu-limit", "2")}, ""},
		{[]setting{set("collector.x", "true")}, nil, ""},
		{nil, []setting{set("web.telemetry-path", "/m")}, "web.telemetry-path"},
		{[]setting{set("log.level", "info")}, nil, "log.level"},
		{[]setting{set("events.log", "a")}, []setting{set("events.log", "b")}, "events.log"},
		{[]setting{set("tools.max-series", "7")}, []setting{set("tools.max-series", "7")}, ""},
		{[]setting{set("tools.max-series", "7")}, []setting{set("tools.max-series", "8")}, "tools.max-series"},
	} {
		if got := needRestart(c.old, c.now); got != c.want {
			t.Errorf("%v to %v: %q, want %q", c.old, c.now, got, c.want)
		}
	}
}
