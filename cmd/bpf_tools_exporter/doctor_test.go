package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-kit/log"

	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/backend"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s", file, got)
	}
}

// What the doctor makes of an examination, in both formats.
func TestDiagnosis(t *testing.T) {
	f, err := parseFlags([]string{"--collector.opensnoop", "--tools.backends=libbpf-tools,bpftrace", "doctor"})
	if err != nil {
		t.Fatal(err)
	}
	if f.command != "doctor" || f.doctorOutput != "text" {
		t.Errorf("command %q, output %q", f.command, f.doctorOutput)
	}
	// The first source of each backend of some tools: the catalogue will grow.
	some := []string{"biolatency", "cachestat", "oomkill", "opensnoop", "tcpretrans"}
	var examined []*tools.Examined
	for _, name := range some {
		d := f.catalog.Tool(name)
		seen := make(map[string]bool)
		for _, s := range d.Sources {
			if seen[s.Backend] {
				continue
			}
			seen[s.Backend] = true
			e := &tools.Examined{Tool: d, Source: s, Path: "/usr/bin/bpftrace", Version: "0.17.0", Outcome: tools.Works,
				SelfTest: tools.Verdict{Result: tools.Passed, Reason: "ran 9 programs; saw just that"}}
			switch s.Backend {
			case backend.Libbpf:
				e.Path, e.Version = "/usr/sbin/"+d.Name, "0.26.0+ds-1"
			case backend.BCC:
				*e = tools.Examined{Tool: d, Source: s, Outcome: tools.NotInstalled, Reason: "not installed"}
			}
			switch {
			case d.Name == "cachestat" && s.Backend == backend.Libbpf:
				e.Outcome, e.Reason = tools.Fails, "self-test: wrote 1280 pages, read them once cold and three times warm; saw 0 hits, want at least 3072"
				e.SelfTest = tools.Verdict{Result: tools.Failed, Reason: strings.TrimPrefix(e.Reason, "self-test: ")}
			case d.Name == "tcpretrans":
				e.Outcome, e.Reason, e.SelfTest = tools.Fails, "exit status 1: ERROR: no <tracepoint>", tools.Verdict{}
			case d.Name == "oomkill" && s.Backend == backend.BPFtrace:
				e.SelfTest = tools.Verdict{Result: tools.Skipped, Reason: "the definition has no selftest"}
			}
			examined = append(examined, e)
		}
	}
	manager := tools.NewManager(f.managerConfig(nothing{}, nil, log.NewNopLogger()))
	d := newDiagnosis(f, backend.Host{System: "Debian GNU/Linux 12 (bookworm)", Kernel: "6.1.0-18-amd64", Machine: "x86_64", BTF: true, Lockdown: "integrity", Root: true,
		Missing: []string{"CAP_BPF"}}, manager, examined)
	d.Tools = slices.DeleteFunc(d.Tools, func(t toolDiagnosis) bool { return !slices.Contains(some, t.Name) })
	d.OK = true
	for _, t := range d.Tools {
		d.OK = d.OK && (t.Serves != "" || !t.Enabled)
	}
	d.Install = "apt-get install bpfcc-tools" // as on Debian
	for i := range d.Tools {
		if d.Tools[i].Install != "" {
			d.Tools[i].Install = d.Install
		}
	}
	if d.OK || strings.Join(d.without(), " ") != "tcpretrans" {
		t.Errorf("ok %v, without a source: %q", d.OK, d.without())
	}
	for _, tool := range d.Tools {
		want := "libbpf-tools"
		if tool.Name == "cachestat" {
			want = "bpftrace"
		}
		if tool.Name != "tcpretrans" && tool.Serves != want {
			t.Errorf("%s is served by %q, want %s", tool.Name, tool.Serves, want)
		}
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "doctor.json", append(text, '\n'))
	var out bytes.Buffer
	if err := d.print(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "doctor.txt", out.Bytes())
}

func TestDoctorFlags(t *testing.T) {
	for _, c := range []struct {
		args    []string
		command string
		err     string
	}{
		{nil, "", ""},
		{[]string{"doctor", "--output=json"}, "doctor", ""},
		{[]string{"--collector.disable-defaults", "doctor"}, "doctor", ""},
		{[]string{"doctor", "--output=xml"}, "", "xml"},
		{[]string{"docter"}, "", "docter"},
		{[]string{"--output=json"}, "", "output"},
	} {
		f, err := parseFlags(c.args)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil || f.command != c.command {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}

// volatile are parts of the JSON that differ from host to host.
var volatile = map[string]bool{"version": true, "path": true, "reason": true, "system": true, "kernel": true, "machine": true, "headers": true, "lockdown": true,
	"tracefs": true, "install": true, "missing_capabilities": true}

// steady replaces what differs from host to host: all that the text tools do,
// too, which is for their packages and this kernel to say.
func steady(value any) any {
	switch value := value.(type) {
	case []any:
		for i := range value {
			value[i] = steady(value[i])
		}
	case map[string]any:
		text := value["backend"] == backend.Libbpf || value["backend"] == backend.BCC
		for key := range value {
			if volatile[key] || text && key != "backend" {
				value[key] = "..."
			} else {
				value[key] = steady(value[key])
			}
		}
		if _, ok := value["tools"].(float64); ok {
			value["tools"] = "..."
		}
		if list, ok := value["tools"].([]any); ok { // two will do: the catalogue grows
			value["tools"] = slices.DeleteFunc(list, func(tool any) bool {
				name := tool.(map[string]any)["name"]
				return name != "execsnoop" && name != "tcpretrans"
			})
		}
	}
	return value
}

// The doctor tries everything on this machine, and nothing is left of it.
func TestLiveDoctor(t *testing.T) {
	needLive(t)
	dir := t.TempDir()
	cmd := exec.Command(buildExporter(t), "doctor", "--output=json", "--tools.state-directory="+filepath.Join(dir, "state"))
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, &stderr)
	}
	var d diagnosis
	if err := json.Unmarshal(stdout.Bytes(), &d); err != nil {
		t.Fatalf("%v\n%s", err, &stdout)
	}
	for _, tool := range d.Tools {
		for _, s := range tool.Sources {
			t.Logf("%s, %s: %s %s %s", tool.Name, s.Backend, s.Outcome, s.Reason, s.SelfTest.Reason)
			if s.Outcome == tools.Works && s.SelfTest.Result != tools.Passed && s.SelfTest.Result != tools.Skipped {
				t.Errorf("%s: %s works, but has not proven it: %s %s", tool.Name, s.Backend, s.SelfTest.Result, s.SelfTest.Reason)
			}
			if s.Outcome != tools.Works && s.Reason == "" {
				t.Errorf("%s: %s does not work, and nothing says why", tool.Name, s.Backend)
			}
		}
	}
	var all any
	if err := json.Unmarshal(stdout.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(steady(all), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "doctor-live.json", append(text, '\n'))
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Errorf("files are left: %q", left)
	}
}
