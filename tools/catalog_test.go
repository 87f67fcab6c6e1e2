package tools

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// scripts are what the definitions in testdata name.
func scripts(t *testing.T) fstest.MapFS {
	t.Helper()
	probe, err := os.ReadFile("testdata/valid/probe/probe.bt")
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{
		"probe.bt":     {Data: probe},
		"begin.bt":     {Data: []byte("// BEGIN in a comment is none.\n\n  BEGIN { @probe_events = 0; }\n")},
		"foreign.bt":   {Data: []byte("// @other_map in a comment is none.\ntracepoint:a:b { @other_map = count(); }\n")},
		"option.bt":    {Data: []byte("// option(gone) in a comment is none.\ntracepoint:a:b /args->x > option(slow)/ { @probe_events = count(); }\n")},
		"huge.bt":      {Data: bytes.Repeat([]byte("//\n"), maxFile/3+1)},
		"folder.bt/in": {},
	}
}

func TestInvalidDefinitions(t *testing.T) {
	invalid := map[string]string{
		"alias":                   "probe/tool.yaml: is no YAML: unknown anchor 'seconds' referenced",
		"backend":                 `probe/tool.yaml:28: backend "perf-tools": want bpftrace, libbpf-tools, bcc`,
		"bounded":                 `probe/tool.yaml:12: bounded names "pid", which is no label of bpf_probe_events_total`,
		"columns":                 `probe/tool.yaml:31: columns: column "ms:decimal": unknown type "decimal"`,
		"columns-missing":         "probe/tool.yaml:28: columns: no columns",
		"command-missing":         `probe/tool.yaml:28: command is missing: the tool's name and arguments, such as [biolatency, -D, "5"]`,
		"command-path":            `probe/tool.yaml:29: command "/tmp/probe": want the tool's plain name; where it lies is found on each host`,
		"command-with-maps":       "probe/tool.yaml:28: scripts, maps, rows and stacks are for backend bpftrace",
		"comment-only":            "probe/tool.yaml: is empty: want at least name, help, sources and metrics",
		"counter-name":            "probe/tool.yaml:8: metric bpf_probe_events: the name of a counter ends in _total",
		"empty":                   "probe/tool.yaml: is empty: want at least name, help, sources and metrics",
		"events-no-map":           "probe/tool.yaml:26: events: map @probe_gone is in none of the scripts",
		"events-without-rows":     "probe/tool.yaml:18: rows and events go together: events is the map that counts what rows are printed of",
		"exclude-pids":            `probe/tool.yaml:4: no field "tid"; there are: comm, pid, seconds`,
		"exclude-ports":           `probe/tool.yaml:4: no field "lport"; there are: comm, pid, seconds`,
		"field-name":              `probe/tool.yaml:3: field "Comm": want small letters, digits and _, a letter first`,
		"field-twice":             `probe/tool.yaml:3: field "pid" stands here twice`,
		"field-type":              `probe/tool.yaml:3: field pid has type "integer": want string, int or float`,
		"fields-list":             "probe/tool.yaml:3: fields is a mapping of name to type, such as {comm: string, pid: int}",
		"format":                  `probe/tool.yaml:30: format "json": want columns, csv, pattern, log2 or folded`,
		"csv-column":              `probe/tool.yaml:31: columns: column "comm/16": want a name and perhaps a type: CSV has no widths and no rest of the line`,
		"csv-columns-missing":     "probe/tool.yaml:28: columns: no columns",
		"pattern":                 "probe/tool.yaml:31: pattern: error parsing regexp: missing closing ): `(?P<comm>.*) (?P<pid>[0-9]+`",
		"pattern-groups":          "probe/tool.yaml:31: pattern: no named groups, such as (?P<pid>[0-9]+)",
		"pattern-missing":         "probe/tool.yaml:28: pattern: no named groups, such as (?P<pid>[0-9]+)",
		"pattern-with-columns":    "probe/tool.yaml:32: pattern is for format pattern",
		"shown-field":             `probe/tool.yaml:33: no field "ms"; there are: comm, pid, seconds`,
		"shown-string":            "probe/tool.yaml:33: shown: field comm is a string: want an int or float field",
		"shown-option":            `probe/tool.yaml:33: shown: option "slow": want an option of type int`,
		"shown-scale":             "probe/tool.yaml:34: shown: scale 0: want a factor above 0",
		"shown-with-scripts":      "probe/tool.yaml:19: command, arguments, format, columns, pattern and shown are for backends libbpf-tools and bcc",
		"width":                   "probe/tool.yaml:16: metric bpf_probe_seconds: width 0.5: want the least width of a bucket, 1 to 1.125899906842624e+15",
		"width-of-counter":        "probe/tool.yaml:11: metric bpf_probe_events_total: width is for a linear histogram",
		"help":                    "probe/tool.yaml:1: help is missing: say in one line what the tool shows",
		"histogram-name":          "probe/tool.yaml:13: metric bpf_probe_latency: the name of a histogram ends in _seconds, its unit",
		"histogram-without-value": "probe/tool.yaml:13: metric bpf_probe_seconds has no value for the libbpf-tools source to observe",
		"interval":                "probe/tool.yaml:15: interval -5: want the seconds between two outputs",
		"kernel":                  `probe/tool.yaml:20: kernel: "recent" is no version: want numbers such as 5.16`,
		"kernel-because":          "probe/tool.yaml:20: kernel has no because: say why other kernels will not do",
		"key-twice":               `probe/tool.yaml:2: mapping key "name" already defined at line 1`,
		"key-unknown":             `probe/tool.yaml:9: no key "hint" here: see CONFIGURATION.md for the keys of a definition`,
		"label-not-given":         `probe/tool.yaml:28: libbpf-tools source does not give field "comm": set it from task, pid, ms, or to 'unknown'`,
		"label-reserved":          `probe/tool.yaml:11: label "le" is reserved: choose another name`,
		"label-twice":             `probe/tool.yaml:11: label "comm" stands here twice`,
		"label-unknown":           `probe/tool.yaml:11: no field "uid"; there are: comm, pid, seconds`,
		"log2-counter":            "probe/tool.yaml:12: format log2 fills the first metric, and bpf_probe_total is no histogram of seconds",
		"log2-label":              `probe/tool.yaml:10: bcc source does not give field "operation": set it from disk, or to 'unknown'`,
		"lost-no-map":             "probe/tool.yaml:27: lost: map @probe_gone is in none of the scripts",
		"skipped":                 `probe/tool.yaml:27: skipped names "bpf_probe_seconds": want one of metrics, a counter of events`,
		"map-empty":               "probe/tool.yaml:24: map probe_slots is empty: want keys and a metric",
		"map-in-no-script":        "probe/tool.yaml:24: map @probe_gone is in none of the scripts",
		"map-key-twice":           `probe/tool.yaml:23: map probe_events: key "c0" stands here twice`,
		"map-label":               `probe/tool.yaml:18: bpftrace source does not give field "comm": set it from c0, or to 'unknown'`,
		"map-metric-unknown":      `probe/tool.yaml:24: no metric "bpf_probe_latency_seconds" among metrics`,
		"map-minus-in-no-script":  "probe/tool.yaml:23: map @probe_gone is in none of the scripts",
		"map-minus-total":         "probe/tool.yaml:23: map probe_events: minus and total do not go together",
		"map-name":                "probe/tool.yaml:24: map other_slots: want a name that begins with probe_",
		"map-no-metric":           "probe/tool.yaml:24: map probe_slots feeds no metric: name one",
		"map-scale":               "probe/tool.yaml:24: map probe_slots: scale -1: want a factor above 0",
		"map-scale-nan":           "probe/tool.yaml:24: map probe_slots: scale NaN: want a factor above 0",
		"map-slot-counter":        "probe/tool.yaml:23: map probe_events: a key slot is for a histogram",
		"map-slot-first":          "probe/tool.yaml:24: map probe_slots: slot is the last key of a histogram",
		"map-total-histogram":     "probe/tool.yaml:24: map probe_slots: total is for a map whose metric is a counter",
		"map-total-in-no-script":  "probe/tool.yaml:23: map @probe_gone is in none of the scripts",
		"maps-missing":            "probe/tool.yaml:18: maps is missing: what the scripts count in",
		"metric-empty":            "probe/tool.yaml:13: this metric is empty",
		"metric-help":             "probe/tool.yaml:8: metric bpf_probe_events_total has no help",
		"metric-name":             `probe/tool.yaml:8: metric "probe_events_total": want bpf_ and then small letters, digits and _`,
		"metric-twice":            "probe/tool.yaml:13: metric bpf_probe_events_total stands here twice",
		"metric-type":             `probe/tool.yaml:10: metric bpf_probe_events_total has type "gauge": want counter or histogram`,
		"metrics-missing":         "probe/tool.yaml:1: metrics is missing: name at least one",
		"mode":                    `probe/tool.yaml:3: mode "sometimes": want continuous or on-demand`,
		"name":                    `probe/tool.yaml:1: name "Probe!": want small letters, digits and _, a letter first`,
		"name-end":                `probe/tool.yaml:1: name "end" is reserved`,
		"name-missing":            `probe/tool.yaml:1: name "": want small letters, digits and _, a letter first`,
		"name-of-other-folder":    `probe/tool.yaml:1: name "other": want "probe", as the folder is called`,
		"no-utf8":                 "probe/tool.yaml: is no YAML: incomplete UTF-8 octet sequence",
		"arguments-option":        `probe/tool.yaml:30: arguments name option "least", which is not among options`,
		"arguments-value":         "probe/tool.yaml:31: arguments: {slow}: want an option of type int or enum",
		"arguments-words":         "probe/tool.yaml:30: want a list of words, not text `-x`",
		"arguments-bpftrace":      "probe/tool.yaml:18: command, arguments, format, columns, pattern and shown are for backends libbpf-tools and bcc",
		"folded-continuous":       "probe/tool.yaml:11: format folded is for mode on-demand: its tools print when they end",
		"folded-columns":          "probe/tool.yaml:11: format folded has no columns: they are comm and the stack",
		"folded-histogram":        "probe/tool.yaml:10: format folded counts samples, and bpf_probe_seconds is no counter without a value",
		"folded-label":            `probe/tool.yaml:11: bcc source does not give field "pid": set it from comm, or to 'unknown'`,
		"stacks-continuous":       "probe/tool.yaml:14: stacks are for mode on-demand: bpftrace prints them when it ends",
		"stacks-map":              "probe/tool.yaml:15: stacks: map @probe_gone is in none of the scripts",
		"stacks-total":            "probe/tool.yaml:15: stacks: total @probe_gone is in none of the scripts",
		"stacks-metric":           "probe/tool.yaml:15: stacks: map @probe_events cannot feed a metric too",
		"option-type":             `probe/tool.yaml:6: option slow has type "float": want bool, int or enum`,
		"option-bounds":           "probe/tool.yaml:7: option least: an int is bounded: want min and max, in this order",
		"option-bounds-missing":   "probe/tool.yaml:7: option least: an int is bounded: want min and max, in this order",
		"option-bounds-of-bool":   "probe/tool.yaml:6: option slow: min and max are for type int",
		"option-bound-type":       "probe/tool.yaml:7: want a whole number, not text `low`",
		"option-values-missing":   "probe/tool.yaml:7: option mode: want the values of the enum",
		"option-values-of-int":    "probe/tool.yaml:7: option least: values are for type enum",
		"option-value":            `probe/tool.yaml:7: option mode: value "-b": want words of letters, digits, _, . and -, each once`,
		"option-value-twice":      `probe/tool.yaml:7: option mode: value "a": want words of letters, digits, _, . and -, each once`,
		"option-default":          `probe/tool.yaml:7: option least: default "3": want a whole number from 0 to 2`,
		"option-default-missing":  `probe/tool.yaml:7: option least: default "": want a whole number from 0 to 2`,
		"option-default-of-bool":  `probe/tool.yaml:6: option slow: default "1": want true or false`,
		"when-value":              `probe/tool.yaml:19: when slow: "sometimes": want true or false`,
		"command-option":          "probe/tool.yaml:29: command: {least}: want an option of type int or enum",
		"command-option-bool":     "probe/tool.yaml:29: command: {slow}: want an option of type int or enum",
		"script-option":           "probe/option.bt:2: option(slow): want an option of type int",
		"option-help":             "probe/tool.yaml:6: option slow has no help: say in one line what it does",
		"option-name":             `probe/tool.yaml:6: option "Slow-er": want small letters, digits and _, a letter first`,
		"rows":                    `probe/tool.yaml:25: rows: column "pid:number": unknown type "number"`,
		"rows-without-events":     "probe/tool.yaml:18: rows and events go together: events is the map that counts what rows are printed of",
		"script-absolute":         `probe/tool.yaml:21: script "/etc/probe.bt": want the name of a .bt file in this folder`,
		"script-begin":            "probe/begin.bt:3: BEGIN and END are not for scripts that share one bpftrace",
		"script-folder":           "probe/tool.yaml:21: script folder.bt: is not a regular file",
		"script-foreign-map":      "probe/foreign.bt:2: map @other_map: want a name that begins with @probe_, as all scripts share one bpftrace",
		"script-gone":             "probe/tool.yaml:21: script gone.bt: file does not exist",
		"script-huge":             "probe/tool.yaml:21: script huge.bt: has 1048578 bytes: want at most 1048576",
		"script-traversal":        `probe/tool.yaml:21: script "../other/probe.bt": want the name of a .bt file in this folder`,
		"scripts-missing":         "probe/tool.yaml:18: scripts is missing: the .bt files of this folder",
		"scripts-with-command":    "probe/tool.yaml:18: command, arguments, format, columns, pattern and shown are for backends libbpf-tools and bcc",
		"set-arguments":           "probe/tool.yaml:33: set seconds: scale takes 2 arguments, not 1",
		"set-choose":              "probe/tool.yaml:33: set seconds: choose takes a value and then pairs, not 2 arguments",
		"set-column":              `probe/tool.yaml:33: set seconds: no column "us"; there are: comm, pid, ms`,
		"secret":                  `probe/tool.yaml:4: no field "argv"; there are: comm, pid, seconds`,
		"set-field":               `probe/tool.yaml:33: no field "millis"; there are: comm, pid, seconds`,
		"set-function":            `probe/tool.yaml:33: set seconds: no function "round"; there are: address, argv, choose, comm, device, direction, errno, exit_signal, exit_status, family, flags, number, offset, path, rwbs, scale, service_port, skip, sum, syscall, tcp_state`,
		"set-rest":                `probe/tool.yaml:33: set seconds: unexpected "/ 2" after "scale(ms, '1e-3')"`,
		"set-syntax":              `probe/tool.yaml:33: set seconds: scale(...): want , or ) at ""`,
		"source-empty":            "probe/tool.yaml:34: this source is empty",
		"sources-missing":         "probe/tool.yaml:1: sources is missing: name at least one",
		"syntax":                  "probe/tool.yaml:10: did not find expected ',' or ']'",
		"tab":                     "probe/tool.yaml:8: found a tab character that violates indentation",
		"two-documents":           "probe/tool.yaml: a definition is one YAML document: remove what follows the first",
		"type":                    "probe/tool.yaml:17: want a list of sources, not text `none`",
		"type-of-default":         "probe/tool.yaml:3: want true or false, not text `perhaps`",
		"unit":                    "probe/tool.yaml:10: unit: want the seconds in one unit of the histogram, such as 1e-6 for usecs",
		"unit-nan":                "probe/tool.yaml:14: unit: want the seconds in one unit of the histogram, such as 1e-6 for usecs",
		"value-not-given":         `probe/tool.yaml:28: libbpf-tools source does not give field "seconds": set it from comm, pid, ms, or to 'unknown'`,
		"value-string":            "probe/tool.yaml:16: value comm is a string: want an int or float field",
		"value-unknown":           `probe/tool.yaml:16: no field "millis"; there are: comm, pid, seconds`,
		"selftest-workload":       `probe/tool.yaml:18: workload "fork": want one of cache, cpu, disk, exec, ext4, open, retransmit, sched, tcp, xfs`,
		"selftest-expect-missing": `probe/tool.yaml:18: selftest has no expect: say what must be seen of the workload`,
		"selftest-expect-empty":   `probe/tool.yaml:20: this expectation is empty`,
		"selftest-metric":         `probe/tool.yaml:20: no metric "bpf_probe_gone_total" among metrics`,
		"selftest-label":          `probe/tool.yaml:20: bpf_probe_events_total has no label "pid"`,
		"selftest-name":           `probe/tool.yaml:20: label comm: workload exec gives no $address; it gives $comm`,
		"selftest-bounds-missing": `probe/tool.yaml:20: this expectation bounds nothing: want at_least or at_most`,
		"selftest-bound":          `probe/tool.yaml:20: at_least: "0.9 runs": want a number above 0, one of execs, failed, exits, or both, such as 0.9 execs`,
		"selftest-bound-zero":     `probe/tool.yaml:20: at_most: "0 execs": want a number above 0, one of execs, failed, exits, or both, such as 0.9 execs`,
		"selftest-when":           `probe/tool.yaml:20: when names option "fast", which is not among options`,
		"selftest-when-value":     `probe/tool.yaml:20: when: option slow: "often": want true or false`,
		"selftest-expect-type":    "probe/tool.yaml:19: want a list of expectations, not text `all`",
		"when":                    `probe/tool.yaml:19: when names option "fast", which is not among options`,
	}
	expectAllTried(t, invalid)
	for name, want := range invalid {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "invalid-"+name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			dir := scripts(t)
			dir["tool.yaml"] = &fstest.MapFile{Data: text}
			folder := "probe"
			if name == "name-end" {
				folder = "end"
			}
			_, err = parse(dir, folder, "probe/tool.yaml")
			if err == nil {
				t.Fatal("no error")
			}
			if got := err.Error(); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// expectAllTried checks that every bad definition in testdata is in the table,
// and so has its message checked.
func expectAllTried(t *testing.T, table map[string]string) {
	t.Helper()
	files, err := filepath.Glob("testdata/invalid-*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "invalid-"), ".yaml")
		if _, ok := table[name]; !ok {
			t.Errorf("%s has no message in the table", file)
		}
	}
}

func TestValidDefinitions(t *testing.T) {
	c, err := Load([]string{operatorDir(t, "testdata/valid")})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"probe", "latency", "execsnoop", "biolatency", "cachestat", "tcplife", "tcpretrans", "runqlat", "profile"} {
		if c.Tool(name) == nil {
			t.Errorf("no tool %s", name)
		}
	}
	if got, want := len(c.Tools()), len(builtins(t).Tools())+2; got != want {
		t.Errorf("%d tools, want %d", got, want)
	}
	probe, latency := c.Tool("probe"), c.Tool("latency")
	if !probe.HasEvents() || latency.HasEvents() {
		t.Errorf("HasEvents: probe %v, latency %v; want true, false", probe.HasEvents(), latency.HasEvents())
	}
	for i, want := range []struct {
		schema int
		sum    string
	}{{3, "exact"}, {3, "exact"}} {
		if s := probe.Sources[i]; s.Schema() != want.schema || s.Sum() != want.sum {
			t.Errorf("probe source %d: schema %d, sum %s", i, s.Schema(), s.Sum())
		}
	}
	if s := latency.Sources[0]; s.Schema() != 0 || s.Sum() != "estimated" {
		t.Errorf("latency: schema %d, sum %s; want 0, estimated", s.Schema(), s.Sum())
	}
	text, err := probe.Script(probe.Sources[0], nil)
	if err != nil || strings.Contains(text, "schema3(") || !strings.Contains(text, "$slot = $s3_exp * 8;") {
		t.Errorf("script is not expanded (%v):\n%s", err, text)
	}
}

// operatorDir copies a folder of tools to where only this user can write.
func operatorDir(t *testing.T, from string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tools")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(p, 0o755)
		}
		return os.Chmod(p, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLoadRefuses(t *testing.T) {
	const minimal = `name: NAME
help: A tool.
metrics: [{name: METRIC, help: Runs., type: counter}]
sources: [{backend: bcc, command: [x], format: columns, columns: pid:int}]
`
	define := func(name, metric string) string {
		return strings.NewReplacer("NAME", name, "METRIC", metric).Replace(minimal)
	}
	chmod := func(t *testing.T, mode os.FileMode, file ...string) {
		t.Helper()
		if err := os.Chmod(filepath.Join(file...), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		setup func(t *testing.T, dir string) []string // folders to load, dir by default
		want  string                                  // DIR stands for dir, "" for no error
	}{
		{"script writable by others", func(t *testing.T, dir string) []string {
			chmod(t, 0o646, dir, "probe/probe.bt")
			return nil
		}, "DIR/probe/probe.bt: is writable by others (mode 0646) and would run as root: chmod go-w DIR/probe/probe.bt"},
		{"definition writable by its group", func(t *testing.T, dir string) []string {
			chmod(t, 0o664, dir, "probe/tool.yaml")
			return nil
		}, "DIR/probe/tool.yaml: is writable by others (mode 0664) and would run as root: chmod go-w DIR/probe/tool.yaml"},
		{"tool folder writable", func(t *testing.T, dir string) []string {
			chmod(t, 0o777, dir, "probe")
			return nil
		}, "DIR/probe: is writable by others (mode 0777) and would run as root: chmod go-w DIR/probe"},
		{"folder of tools writable", func(t *testing.T, dir string) []string {
			chmod(t, 0o775, dir)
			return nil
		}, "DIR: is writable by others (mode 0775) and would run as root: chmod go-w DIR"},
		{"script of another user", func(t *testing.T, dir string) []string {
			if err := os.Chown(filepath.Join(dir, "probe/probe.bt"), 4711, -1); err != nil {
				t.Skipf("only root can give a file away: %v", err)
			}
			return nil
		}, "DIR/probe/probe.bt: belongs to user 4711 and would run as root: chown root DIR/probe/probe.bt"},
		{"script missing", func(t *testing.T, dir string) []string {
			if err := os.Remove(filepath.Join(dir, "probe/probe.bt")); err != nil {
				t.Fatal(err)
			}
			return nil
		}, "DIR/probe/tool.yaml:22: script probe.bt: no such file or directory"},
		{"the same tool in two folders", func(t *testing.T, dir string) []string {
			write(t, dir+"2/probe/tool.yaml", define("probe", "bpf_probe2_total"))
			return []string{dir, dir + "2"}
		}, `DIR2/probe/tool.yaml: tool "probe" is defined already in DIR/probe/tool.yaml: remove one of them`},
		{"replacement of a built-in", func(t *testing.T, dir string) []string {
			write(t, dir+"/execsnoop/tool.yaml", define("execsnoop", "bpf_execsnoop_execs_total"))
			return nil
		}, ""},
		{"a metric of two tools", func(t *testing.T, dir string) []string {
			write(t, dir+"/mine/tool.yaml", define("mine", "bpf_execsnoop_execs_total"))
			return nil
		}, `DIR/mine/tool.yaml: metric bpf_execsnoop_execs_total is tool "execsnoop"'s already: choose another name`},
		{"folder called otherwise", func(t *testing.T, dir string) []string {
			write(t, dir+"/mine/tool.yaml", define("yours", "bpf_mine_total"))
			return nil
		}, `DIR/mine/tool.yaml:1: name "yours": want "mine", as the folder is called`},
		{"no such folder", func(t *testing.T, dir string) []string {
			return []string{dir + "/gone"}
		}, "DIR/gone: no such file or directory"},
		{"a file instead of a folder", func(t *testing.T, dir string) []string {
			return []string{dir + "/probe/tool.yaml"}
		}, "DIR/probe/tool.yaml: not a directory"},
		{"folders without a definition", func(t *testing.T, dir string) []string {
			write(t, dir+"/README", "Tools of ours.\n")
			write(t, dir+"/lost+found/x", "")
			return nil
		}, ""},
		{"symbolic link to a tool's folder", func(t *testing.T, dir string) []string {
			write(t, dir+"2/mine/tool.yaml", define("mine", "bpf_mine_total"))
			if err := os.Symlink(dir+"2/mine", dir+"/mine"); err != nil {
				t.Fatal(err)
			}
			return nil
		}, ""},
		{"symbolic link to a folder that others write to", func(t *testing.T, dir string) []string {
			write(t, dir+"2/mine/tool.yaml", define("mine", "bpf_mine_total"))
			chmod(t, 0o777, dir+"2/mine")
			if err := os.Symlink(dir+"2/mine", dir+"/mine"); err != nil {
				t.Fatal(err)
			}
			return nil
		}, "DIR2/mine: is writable by others (mode 0777) and would run as root: chmod go-w DIR2/mine"},
		{"symbolic link to a script in a folder that others write to", func(t *testing.T, dir string) []string {
			script := filepath.Join(dir, "probe/probe.bt")
			write(t, dir+"2/other", "")
			if err := os.Rename(script, dir+"2/probe.bt"); err != nil {
				t.Fatal(err)
			}
			chmod(t, 0o777, dir+"2")
			if err := os.Symlink(dir+"2/probe.bt", script); err != nil {
				t.Fatal(err)
			}
			return nil
		}, "DIR2: is writable by others (mode 0777) and would run as root: chmod go-w DIR2"},
		{"symbolic link to a script that others write to", func(t *testing.T, dir string) []string {
			script := filepath.Join(dir, "probe/probe.bt")
			if err := os.Rename(script, dir+"2.bt"); err != nil {
				t.Fatal(err)
			}
			chmod(t, 0o666, dir+"2.bt")
			if err := os.Symlink(dir+"2.bt", script); err != nil {
				t.Fatal(err)
			}
			return nil
		}, "DIR2.bt: is writable by others (mode 0666) and would run as root: chmod go-w DIR2.bt"},
		{"huge file", func(t *testing.T, dir string) []string {
			write(t, dir+"/mine/tool.yaml", define("mine", "bpf_mine_total")+strings.Repeat("#\n", maxFile))
			return nil
		}, "DIR/mine/tool.yaml: has 2097314 bytes: want at most 1048576"},
		{"named pipe", func(t *testing.T, dir string) []string {
			write(t, dir+"/mine/x", "")
			if err := syscall.Mkfifo(dir+"/mine/tool.yaml", 0o600); err != nil {
				t.Fatal(err)
			}
			return nil
		}, "DIR/mine/tool.yaml: is not a regular file"},
		{"alias bomb", func(t *testing.T, dir string) []string {
			write(t, dir+"/mine/tool.yaml", aliasBomb())
			return nil
		}, "DIR/mine/tool.yaml: is no YAML: document contains excessive aliasing"},
		{"deep nesting", func(t *testing.T, dir string) []string {
			write(t, dir+"/mine/tool.yaml", "name: "+strings.Repeat("[", 100_000))
			return nil
		}, "DIR/mine/tool.yaml: is no YAML: exceeded max depth of 10000"},
		{"deep expression", func(t *testing.T, dir string) []string {
			deep := strings.Repeat("errno(", 100_000) + "pid" + strings.Repeat(")", 100_000)
			write(t, dir+"/mine/tool.yaml", define("mine", "bpf_mine_total")+"fields: {result: string}\n")
			text := strings.Replace(define("mine", "bpf_mine_total"), "pid:int}", "pid:int, set: {result: "+deep+"}}", 1)
			write(t, dir+"/mine/tool.yaml", "fields: {result: string}\n"+text)
			return nil
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := operatorDir(t, "testdata/valid")
			dirs := c.setup(t, dir)
			if dirs == nil {
				dirs = []string{dir}
			}
			begin := time.Now()
			_, err := Load(dirs)
			// A bomb would take for ever; a busy machine takes its time.
			if took := time.Since(begin); took > time.Minute {
				t.Errorf("took %s", took)
			}
			got := ""
			if err != nil {
				got = err.Error()
			}
			if want := strings.ReplaceAll(c.want, "DIR", dir); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// aliasBomb is fifty thousand sources with two thousand maps each.
func aliasBomb() string {
	var b strings.Builder
	b.WriteString("name: mine\nsources:\n  - maps: &maps\n")
	for i := range 2000 {
		fmt.Fprintf(&b, "      mine_%d: {scale: 2}\n", i)
	}
	b.WriteString(strings.Repeat("  - maps: *maps\n", 50_000))
	return b.String()
}

func TestReplacedToolIsTheOperators(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tools")
	write(t, dir+"/execsnoop/tool.yaml", `name: execsnoop
help: My own.
metrics: [{name: bpf_mine_total, help: Runs., type: counter}]
sources: [{backend: bcc, command: [x], format: columns, columns: pid:int}]
`)
	c, err := Load([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Tool("execsnoop")
	if d.Help != "My own." || d.Metric("bpf_execsnoop_execs_total") != nil || d.Metric("bpf_mine_total") == nil {
		t.Errorf("the built-in tool is still there: %+v", d)
	}
	if got, want := len(c.Tools()), len(builtins(t).Tools()); got != want {
		t.Errorf("%d tools, want %d", got, want)
	}
}
