package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

// The tool of CONFIGURATION.md, as a reader writes it: two files, no Go.
func TestLiveToolOfOnesOwn(t *testing.T) {
	needLive(t)
	text, err := os.ReadFile("../../CONFIGURATION.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "killsnoop")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("`killsnoop/([a-z.]+)`[^`\n]*:\n\n```[a-z]*\n((?s:.*?))```").FindAllSubmatch(text, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d files of killsnoop in CONFIGURATION.md, want 2", len(blocks))
	}
	for _, block := range blocks {
		if err := os.WriteFile(filepath.Join(dir, string(block[1])), block[2], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := startExporter(t, "--tools.directory="+filepath.Dir(dir), "--collector.disable-defaults", "--collector.killsnoop")
	const metric, n = "bpf_killsnoop_signals_total", 25
	name := uniqueName("kills")
	runHelper(t, uniqueName("program"), "signals", name)
	e.expectCounts(t,
		count{metric, labels{"comm": name, "signal": "10"}, n},
		count{metric, labels{"comm": name, "signal": "28"}, 2 * n},
	)
}

// signalsHelper sends signals to itself, which it ignores, under a comm of its
// own: 25 of one kind and 50 of another.
func signalsHelper(args []string) error {
	signal.Ignore(unix.SIGUSR1, unix.SIGWINCH)
	if err := takeComm(args[0]); err != nil {
		return err
	}
	for i := range 75 {
		which := unix.SIGWINCH
		if i%3 == 0 {
			which = unix.SIGUSR1
		}
		if err := unix.Tgkill(unix.Getpid(), unix.Gettid(), which); err != nil {
			return err
		}
	}
	return nil
}
