package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// programs makes a folder of programs the only one to look in.
func programs(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dirs, tools := Dirs, toolDirs
	Dirs, toolDirs = []string{dir}, nil
	t.Cleanup(func() { Dirs, toolDirs = dirs, tools })
	return dir
}

const (
	elf      = "\x7fELF\x02\x01\x01"
	libbpf   = elf + "...bpf_object__open_skeleton..."
	linked   = elf + "...bpf_object__open...libbcc.so.0..."
	python   = "#!/usr/bin/python3\n# a tool\nfrom bcc import BPF\n"
	shell    = "#!/bin/bash\n# execsnoop - trace process exec()\n"
	bpftrace = elf + "...bpftrace..."
)

func TestFind(t *testing.T) {
	for _, c := range []struct {
		name    string
		backend string
		files   map[string]string
		want    string // the file, or "" for none
		misfit  string // the file that the error names
	}{
		{"Debian 13's libbpf-tools", Libbpf, map[string]string{"execsnoop-libbpf": libbpf}, "execsnoop-libbpf", ""},
		{"APP_PREFIX", Libbpf, map[string]string{"bpf-execsnoop": libbpf}, "bpf-execsnoop", ""},
		{"Debian 12's libbpf-tools", Libbpf, map[string]string{"execsnoop": libbpf}, "execsnoop", ""},
		{"the surest name first", Libbpf, map[string]string{"execsnoop": libbpf, "execsnoop-libbpf": libbpf}, "execsnoop-libbpf", ""},
		{"perf-tools has a shell script of that name", Libbpf, map[string]string{"execsnoop": shell}, "", "execsnoop"},
		{"a misfit before the right one", Libbpf, map[string]string{"execsnoop-libbpf": shell, "execsnoop": libbpf}, "execsnoop", ""},
		{"an ELF program without libbpf", Libbpf, map[string]string{"execsnoop": elf + "..."}, "", "execsnoop"},
		{"an ELF program with libbcc", Libbpf, map[string]string{"execsnoop": linked}, "", "execsnoop"},
		{"a Python script", Libbpf, map[string]string{"execsnoop": python}, "", "execsnoop"},
		{"an empty file", Libbpf, map[string]string{"execsnoop": ""}, "", "execsnoop"},
		{"Debian's bcc", BCC, map[string]string{"execsnoop-bpfcc": python}, "execsnoop-bpfcc", ""},
		{"bcc's plain name", BCC, map[string]string{"execsnoop": python}, "execsnoop", ""},
		{"bcc's plain name, libbpf's content", BCC, map[string]string{"execsnoop": libbpf}, "", "execsnoop"},
		{"bcc's plain name, perf-tools' content", BCC, map[string]string{"execsnoop": shell}, "", "execsnoop"},
		{"bcc imported otherwise", BCC, map[string]string{"execsnoop-bpfcc": "#!/usr/bin/env python3\nimport bcc\n"}, "execsnoop-bpfcc", ""},
		{"bcc's name, another Python script", BCC, map[string]string{"execsnoop-bpfcc": "#!/usr/bin/python3\nimport os\n"}, "", "execsnoop-bpfcc"},
		{"bcc's name, a shell script", BCC, map[string]string{"execsnoop-bpfcc": "#!/bin/sh\n# from bcc import BPF\n"}, "", "execsnoop-bpfcc"},
		{"bcc's name, libbpf's content", BCC, map[string]string{"execsnoop-bpfcc": libbpf}, "", "execsnoop-bpfcc"},
		{"bpftrace", BPFtrace, map[string]string{"bpftrace": bpftrace}, "bpftrace", ""},
		{"a wrapper of bpftrace", BPFtrace, map[string]string{"bpftrace": "#!/bin/sh\nexec /opt/bpftrace \"$@\"\n"}, "bpftrace", ""},
		{"bpftrace of something else", BPFtrace, map[string]string{"bpftrace": "x"}, "", "bpftrace"},
		{"nothing", Libbpf, nil, "", ""},
		{"another tool", Libbpf, map[string]string{"opensnoop": libbpf}, "", ""},
		{"no such backend", "perf-tools", map[string]string{"execsnoop": shell}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := programs(t, c.files)
			got, err := Find(c.backend, "execsnoop")
			if c.want != "" {
				if want := filepath.Join(dir, c.want); got != want || err != nil {
					t.Errorf("got %q (%v), want %q", got, err, want)
				}
				return
			}
			want := "not installed"
			if c.misfit != "" {
				want += " (" + filepath.Join(dir, c.misfit) + " is another program)"
			}
			if got != "" || !errors.Is(err, ErrNotInstalled) || err.Error() != want {
				t.Errorf("got %q, %v; want %s", got, err, want)
			}
		})
	}
}

func TestFindTakesProgramsOnly(t *testing.T) {
	dir := programs(t, nil)
	if err := os.Mkdir(filepath.Join(dir, "execsnoop-libbpf"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bpf-execsnoop"), []byte(libbpf), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nonexistent", filepath.Join(dir, "execsnoop")); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(Libbpf, "execsnoop"); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("got %q, %v; want ErrNotInstalled", got, err)
	}
}

// The text need not be in the first block of a file, nor in one block.
func TestContains(t *testing.T) {
	const chunk, text = 64 << 10, "bpf_object__"
	for _, at := range []int{0, 1, chunk - 5, chunk, 3*chunk - len(text), 3*chunk - 1} {
		content := make([]byte, 4*chunk)
		copy(content, elf)
		if at > 0 {
			copy(content[at+8:], text)
		} else {
			content = append(content, text...)
		}
		programs(t, map[string]string{"execsnoop": string(content)})
		if _, err := Find(Libbpf, "execsnoop"); err != nil {
			t.Errorf("at %d: %v", at, err)
		}
	}
}

func TestCandidates(t *testing.T) {
	programs(t, nil)
	Dirs, toolDirs = []string{"/a", "/b"}, map[string][]string{BCC: {"/t"}}
	for backend, want := range map[string][]string{
		BPFtrace: {"/a/bpftrace", "/b/bpftrace"},
		Libbpf:   {"/a/x-libbpf", "/b/x-libbpf", "/a/bpf-x", "/b/bpf-x", "/a/x", "/b/x"},
		BCC:      {"/t/x-bpfcc", "/t/x", "/t/bpf-x", "/a/x-bpfcc", "/b/x-bpfcc", "/a/x", "/b/x", "/a/bpf-x", "/b/bpf-x"},
		"other":  nil,
	} {
		if got := candidates(backend, "x"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", backend, got, want)
		}
	}
}

// What others can write to does not run as root; the next program that fits does.
func TestFindTrusted(t *testing.T) {
	dir := programs(t, map[string]string{"execsnoop-libbpf": libbpf})
	program := filepath.Join(dir, "execsnoop-libbpf")
	chmod := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what string
		make func()
		want string
	}{
		{"as it should be", func() {}, ""},
		{"file", func() { chmod(program, 0o775) }, program + ": is writable by others (mode 0775) and would run as root: chmod go-w " + program},
		{"folder", func() { chmod(program, 0o755); chmod(dir, 0o777) }, dir + ": is writable by others (mode 0777) and would run as root: chmod go-w " + dir},
	} {
		c.make()
		_, err := Find(Libbpf, "execsnoop")
		if got := fmt.Sprint(err); got != c.want && !(c.want == "" && err == nil) {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
	chmod(dir, 0o755)
	chmod(program, 0o777)
	other := filepath.Join(dir, "execsnoop")
	if err := os.WriteFile(other, []byte(libbpf), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(Libbpf, "execsnoop"); got != other {
		t.Errorf("got %q, %v; want %s", got, err, other)
	}
	if os.Geteuid() == 0 {
		chmod(program, 0o755)
		if err := errors.Join(os.Remove(other), os.Chown(program, 12345, 0)); err != nil {
			t.Fatal(err)
		}
		want := program + ": belongs to user 12345 and would run as root: chown root " + program
		if _, err := Find(Libbpf, "execsnoop"); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestPackageVersion(t *testing.T) {
	dir := programs(t, map[string]string{
		"dpkg-query": `#!/bin/sh
case "$1 $2 $4" in
"--search /sbin/old ") echo "old-tools: /sbin/old" ;;
"--search /usr/bin/bpftrace ") echo "diversion by other from: /usr/bin/bpftrace"; echo "bpftrace:amd64, other: /usr/bin/bpftrace" ;;
"--show --showformat bpftrace:amd64") printf 0.17.0-1 ;;
"--show --showformat old-tools") printf 0.1 ;;
*) echo "dpkg-query: no path found matching pattern" >&2; exit 1 ;;
esac
`,
		"rpm":    "#!/bin/sh\n[ \"$4\" = /usr/bin/bpftrace ] && echo 0.21.2-1.fc41 && echo 0.21.2-1.fc41 && exit\necho file $4 is not owned by any package; exit 1\n",
		"apk":    "#!/bin/sh\n[ \"$3\" = /usr/bin/bpftrace ] && echo $3 is owned by bpftrace-tools-0.21.2-r1 && exit\necho ERROR: $3: Could not find owner package; exit 1\n",
		"pacman": "#!/bin/sh\n[ \"$2\" = /usr/bin/bpftrace ] && echo $2 is owned by bpftrace 0.21.2-1 && exit\necho error: No package owns $2 >&2; exit 1\n",
	})
	managers := packageManagers
	t.Cleanup(func() { packageManagers = managers })
	for i, want := range []string{"0.17.0-1", "0.21.2-1.fc41", "0.21.2-r1", "0.21.2-1"} {
		m := managers[i]
		m.path = filepath.Join(dir, filepath.Base(m.path))
		packageManagers = append(managers[:0:0], m)
		if got := PackageVersion("/usr/bin/bpftrace"); got != want {
			t.Errorf("%s: got %q, want %q", m.path, got, want)
		}
		if got := PackageVersion("/opt/bpftrace"); got != "" {
			t.Errorf("%s: got %q for a file of no package", m.path, got)
		}
	}
	packageManagers = append(managers[:0:0], managers[0])
	packageManagers[0].path = filepath.Join(dir, "dpkg-query")
	if got := PackageVersion("/usr/sbin/old"); got != "0.1" {
		t.Errorf("from before the merge of /usr: got %q, want 0.1", got)
	}
}

func TestProgramVersion(t *testing.T) {
	dir := programs(t, map[string]string{
		"libbpf": "#!/bin/sh\necho execsnoop 0.1\n",
		"bpf":    "#!/bin/sh\necho bpftrace v0.23.2-1\n",
		"none":   "#!/bin/sh\necho execsnoop\n",
		"usage":  "#!/bin/sh\necho usage 1.2; exit 1\n",
	})
	for name, want := range map[string]string{"libbpf": "0.1", "bpf": "0.23.2-1", "none": "", "usage": "", "gone": ""} {
		if got := ProgramVersion(Libbpf, filepath.Join(dir, name)); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := ProgramVersion(BCC, filepath.Join(dir, "libbpf")); got != "" {
		t.Errorf("bcc: got %q", got)
	}
}

func TestIdentify(t *testing.T) {
	dir := programs(t, map[string]string{"a": "1", "b": "1"})
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	before := Identify(a)
	if before != Identify(a) || before == (Identity{}) || before == Identify(b) {
		t.Errorf("a is %+v, b is %+v", before, Identify(b))
	}
	// As dpkg does it.
	if err := os.Rename(b, a); err != nil {
		t.Fatal(err)
	}
	if Identify(a) == before || Identify(b) != (Identity{}) {
		t.Errorf("a is %+v as before, or b is there", before)
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]string{
		"6.18.44-cloud-amd64":         "6.18.44",
		"5.10":                        "5.10",
		"7":                           "7",
		"v0.17.0":                     "0.17.0",
		"0.23.2-1+b1":                 "0.23.2",
		"6.1.0-18-amd64":              "6.1.0",
		"5.15.0-1051.aws":             "5.15.0",
		"6.":                          "6",
		"6.x":                         "6",
		"0.0.0":                       "0.0.0",
		"":                            "error: \"\" is no version: want numbers such as 5.16",
		"linux":                       "error: \"linux\" is no version: want numbers such as 5.16",
		".5":                          "error: \".5\" is no version: want numbers such as 5.16",
		"-1":                          "error: \"-1\" is no version: want numbers such as 5.16",
		"99999999999999999999.1":      "error: \"99999999999999999999.1\" is no version: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
		"bpftrace v0.17.0":            "error: \"bpftrace v0.17.0\" is no version: want numbers such as 5.16",
		"6.18.44\nwith another\nline": "6.18.44",
	} {
		v, err := ParseVersion(text)
		got := v.String()
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestLess(t *testing.T) {
	for _, c := range []struct {
		v, w Version
		want bool
	}{
		{Version{5, 9}, Version{5, 10}, true},
		{Version{5, 10}, Version{5, 9}, false},
		{Version{5, 10}, Version{5, 10}, false},
		{Version{5}, Version{5, 0, 0}, false},
		{Version{5, 0, 0}, Version{5}, false},
		{Version{5}, Version{5, 0, 1}, true},
		{Version{5, 16, 3}, Version{5, 16}, false},
		{Version{4, 99}, Version{5}, true},
		{nil, Version{1}, true},
		{Version{1}, nil, false},
		{nil, nil, false},
		{nil, Version{0}, false},
	} {
		if got := c.v.Less(c.w); got != c.want {
			t.Errorf("%v.Less(%v) = %v", c.v, c.w, got)
		}
	}
}

func TestBPFtraceVersion(t *testing.T) {
	dir := programs(t, map[string]string{
		"old":    "#!/bin/sh\necho bpftrace v0.17.0\n",
		"debian": "#!/bin/sh\necho 'bpftrace v0.23.2-1'\necho more\n",
		"silent": "#!/bin/sh\n",
		"failed": "#!/bin/sh\necho bpftrace v0.17.0\nexit 1\n",
		"words":  "#!/bin/sh\necho unknown version\n",
	})
	for name, want := range map[string]string{"old": "0.17.0", "debian": "0.23.2", "silent": "", "failed": "", "words": "", "gone": ""} {
		v, err := BPFtraceVersion(filepath.Join(dir, name))
		if v.String() != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s (%v), want %q", name, v, err, want)
		}
	}
}

func TestKernel(t *testing.T) {
	release, err := KernelRelease()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := ParseVersion(release); err != nil || v.Less(Version{3}) {
		t.Errorf("this kernel is %s: %v, %v", release, v, err)
	}
	for _, name := range []string{"", "sched", "sched:no_such_event", "../../etc:passwd", "no_such:category"} {
		if HasTracepoint(name) {
			t.Errorf("there is a tracepoint %q", name)
		}
	}
}
