package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Bad input is one line on stderr that says what is wrong and what would be
// right, and exit status 1, before anything is started.
func TestLiveBadInput(t *testing.T) {
	if os.Getuid() != 0 {
		cannotRun(t, "needs root: definitions must be owned by it")
	}
	script := "tracepoint:sched:sched_process_exec { @zz_broken_n = count(); }\n"
	definition := func(old, new string) []string {
		return []string{"--tools.directory=" + writeTool(t, strings.Replace(brokenTool, old, new, 1), script)}
	}
	writable := writeTool(t, brokenTool, script)
	if err := os.Chmod(filepath.Join(writable, "zz_broken", "zz_broken.bt"), 0o666); err != nil {
		t.Fatal(err)
	}
	webConfig := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(webConfig, []byte("no_such_key: 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"unknown flag", []string{"--no-such-flag"}, []string{"--no-such-flag"}},
		{"unknown tool", []string{"--collector.nosuchtool"}, []string{"--collector.nosuchtool"}},
		{"unknown option", []string{"--collector.execsnoop.nosuch"}, []string{"--collector.execsnoop.nosuch"}},
		{"argument", []string{"execsnoop"}, []string{"execsnoop"}},
		{"unknown backend", []string{"--tools.backends=bpftrace,ftrace"}, []string{"--tools.backends", `"ftrace"`, "libbpf-tools"}},
		{"backend twice", []string{"--tools.backends=bcc,bcc"}, []string{"--tools.backends", "bcc", "twice"}},
		{"unknown backend of a tool", []string{"--tools.execsnoop.backend=ftrace"}, []string{"ftrace", "libbpf-tools"}},
		{"no series", []string{"--tools.max-series=0"}, []string{"--tools.max-series", "1 to"}},
		{"no number", []string{"--tools.cpu-limit=much"}, []string{"much"}},
		{"no folder", []string{"--tools.directory=/nonexistent"}, []string{"/nonexistent"}},
		{"event log in no folder", []string{"--events.log=/nonexistent/events.log"}, []string{"--events.log", "/nonexistent", "no such file"}},
		{"arguments for no log", []string{"--events.log-args"}, []string{"--events.log-args", "--events.log=FILE"}},
		{"no rate", []string{"--events.log=stdout", "--events.log-rate=0"}, []string{"--events.log-rate", "1 to 10000"}},
		{"bad path", []string{"--web.telemetry-path=metrics"}, []string{"--web.telemetry-path", "metrics", "/"}},
		{"bad web config", []string{"--web.config.file=" + webConfig}, []string{"--web.config.file", "no_such_key"}},
		{"log level", []string{"--log.level=loud"}, []string{"loud", "debug"}},
		{"wrong field", definition("fields: {n: int}", "fields: {n: integer}"), []string{"zz_broken/tool.yaml:4", "integer", "int or float"}},
		{"wrong key", definition("default: true", "defaults: true"), []string{"zz_broken/tool.yaml:3", "defaults"}},
		{"wrong name", definition("name: zz_broken", "name: zz_other"), []string{"zz_broken/tool.yaml:1", "zz_other", "zz_broken"}},
		{"missing script", definition("[zz_broken.bt]", "[missing.bt]"), []string{"zz_broken/tool.yaml:9", "missing.bt"}},
		{"metric type", definition("type: counter", "type: gauge"), []string{"zz_broken/tool.yaml:6", "gauge", "counter or histogram"}},
		{"no YAML", definition("help: ", "help: ["), []string{"zz_broken/tool.yaml"}},
		{"writable by others", []string{"--tools.directory=" + writable}, []string{"zz_broken.bt", "writable"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := exec.Command(buildExporter(t), append(c.args, "--web.listen-address="+freeAddress(t))...)
			cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
			kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
			_ = cmd.Run()
			if cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("%s, want exit status 1", cmd.ProcessState)
			}
			text := stderr.String()
			if stdout.Len() > 0 || strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
				t.Errorf("stdout %q, stderr %q: want one line on stderr only", &stdout, text)
			}
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("stderr %q does not say %q", text, want)
				}
			}
			t.Logf("%s", text)
		})
	}
}
