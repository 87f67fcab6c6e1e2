package tools

import (
	"os"
	"strings"
	"testing"
	"time"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/process"
)

// needBPFtrace is where bpftrace is. A test that cannot run it is skipped with
// the reason, and fails under CI=true.
func needBPFtrace(t *testing.T) string {
	t.Helper()
	path, err := backend.Find(backend.BPFtrace, "")
	switch {
	case os.Geteuid() != 0:
		unable(t, "not root")
	case err != nil:
		unable(t, "bpftrace is "+err.Error())
	case !backend.HasTracepoint("sched:sched_process_exec"):
		unable(t, "tracefs is not mounted")
	}
	return path
}

func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// runProgram returns the stdout of a program that has a minute to end.
func runProgram(t *testing.T, path string, args ...string) string {
	t.Helper()
	var out, errors strings.Builder
	p, err := process.Start(process.Spec{
		Path: path, Args: args, Env: process.DefaultEnv(),
		Stdout: func(line []byte, _ bool) { out.Write(append(line, '\n')) },
		Stderr: func(line []byte, _ bool) { errors.Write(append(line, '\n')) },
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(time.Minute):
		p.Kill()
		t.Errorf("%s does not end", path)
	}
	if exit := p.Exit(); exit.Code != 0 {
		t.Errorf("%s: %s\n%s", path, exit, errors.String())
	}
	return out.String()
}
