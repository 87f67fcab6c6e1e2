package tools

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVerdictsAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "state")
	v := newVerdicts(dir)
	if v.knows("execsnoop/bpftrace/0", "abc") {
		t.Error("a verdict from nowhere")
	}
	if err := v.remember("execsnoop/bpftrace/0", record{Program: "/usr/bin/bpftrace", Version: "0.17.0", Digest: "abc"}); err != nil {
		t.Fatal(err)
	}
	again := newVerdicts(dir)
	for digest, want := range map[string]bool{"abc": true, "abd": false, "": false} {
		if got := again.knows("execsnoop/bpftrace/0", digest); got != want {
			t.Errorf("digest %q: %v", digest, got)
		}
	}
	if again.knows("execsnoop/bcc/4", "abc") {
		t.Error("the verdict is another source's")
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) != 1 {
		t.Errorf("files: %q", left)
	}
	for what, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, verdictFile): 0o600} {
		if info, err := os.Stat(what); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %04o", what, info.Mode(), err, want)
		}
	}
	memory := newVerdicts("")
	if err := memory.remember("a", record{Digest: "d"}); err != nil || !memory.knows("a", "d") {
		t.Errorf("without a file: %v", err)
	}
}

// A file that is damaged, of another kernel, or that others could have written,
// is as good as none; the next verdict replaces it.
func TestVerdictsOfNoUse(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, verdictFile)
	good := newVerdicts(dir)
	if err := good.remember("a", record{Digest: "d"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"not at all": nil,
		"cut":        func() error { return os.WriteFile(file, text[:len(text)/2], 0o600) },
		"empty":      func() error { return os.WriteFile(file, nil, 0o600) },
		"null":       func() error { return os.WriteFile(file, []byte("null"), 0o600) },
		"another kernel": func() error {
			return os.WriteFile(file, []byte(strings.Replace(string(text), good.kernel, "5.10 #1 x86_64", 1)), 0o600)
		},
		"another format": func() error {
			return os.WriteFile(file, []byte(strings.Replace(string(text), fmt.Sprintf(`"format": %d`, verdictFormat), fmt.Sprintf(`"format": %d`, verdictFormat+1), 1)), 0o600)
		},
		"writable by others": func() error { return os.Chmod(file, 0o666) },
		"a link":             func() error { return os.Symlink("/etc/passwd", file) },
		"a folder":           func() error { return os.Mkdir(file, 0o700) },
	} {
		_ = os.RemoveAll(file)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "a link" || name == "a folder" {
			_ = os.Remove(file)
		}
		if spoil != nil {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
		}
		if got := newVerdicts(dir).knows("a", "d"); got != (spoil == nil) {
			t.Errorf("%s: known: %v", name, got)
		}
	}
}

func TestDigest(t *testing.T) {
	d := builtins(t).Tool("execsnoop")
	program := filepath.Join(t.TempDir(), "program")
	write(t, program, "1")
	digest := func(options map[string]string, version string) string {
		return testDigest(d, d.Sources[0], options, program, version)
	}
	first := digest(nil, "1")
	if first == "" || first != digest(nil, "1") {
		t.Error("no digest, or another each time")
	}
	if digest(nil, "2") == first || digest(map[string]string{"failed": "true"}, "1") == first || testDigest(d, d.Sources[2], nil, program, "1") == first {
		t.Error("version, options or source are of no matter")
	}
	write(t, program, "22")
	if digest(nil, "1") == first {
		t.Error("the program is of no matter")
	}
}
