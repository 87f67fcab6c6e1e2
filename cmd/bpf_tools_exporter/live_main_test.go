package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// The live tests run the exporter as a user does and look at its metrics while
// workloads of known size run on this machine's kernel. Counters are those of
// the whole machine: each test names its workload's programs uniquely and looks
// at their series alone.

// helperEnv names the workload that a copy of the test binary runs instead of
// the tests: its comm is then the workload's own.
const helperEnv = "BPF_TOOLS_EXPORTER_TEST_HELPER"

// helpers are the workloads, by name. Each reads what it needs from its
// arguments and writes what it did to stdout.
var helpers = map[string]func(args []string) error{
	"execs":           execsHelper,
	"failing-execs":   failingExecsHelper,
	"tcp-server":      tcpServerHelper,
	"tcp-client":      tcpClientHelper,
	"tcp-paced":       tcpPacedHelper,
	"retransmits":     retransmitsHelper,
	"read-files":      readFilesHelper,
	"wait-for-stdin":  waitHelper,
	"opens":           opensHelper,
	"file-operations": fileOperationsHelper,
	"exit":            exitHelper,
	"wait-loudly":     waitLoudlyHelper,
	"system-calls":    systemCallsHelper,
	"signals":         signalsHelper,
	"eat-memory":      eatMemoryHelper,
	"lossy-sessions":  lossySessionsHelper,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// built is the exporter's binary, made once.
var built struct {
	sync.Once
	dir, path string
	err       error
}

// buildExporter returns the path of a binary as "make build" makes it.
func buildExporter(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "bpf_tools_exporter-live-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "bpf_tools_exporter")
		build := exec.Command(filepath.Join(runtime.GOROOT(), "bin", "go"), "build", "-o", built.path, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out bytes.Buffer
		build.Stdout, build.Stderr = &out, &out
		if err := build.Run(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out.Bytes())
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// needLive skips a test on machines where the exporter cannot serve, and says
// why. In CI that is a failure: there it must be able to.
func needLive(t *testing.T, programs ...string) {
	t.Helper()
	var why string
	if os.Getuid() != 0 {
		why = "needs root"
	} else if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		why = "needs a kernel with BTF"
	}
	for _, program := range append([]string{"/usr/bin/bpftrace"}, programs...) {
		if _, err := exec.LookPath(program); err != nil && why == "" {
			why = fmt.Sprintf("needs %s (make deps)", program)
		}
	}
	if testing.Short() {
		t.Skip("live tests take minutes: not with -short")
	}
	if why != "" {
		cannotRun(t, why)
	}
}

// cannotRun skips a test with the reason, and fails it under CI, which has all
// that tests need.
func cannotRun(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
