package backend

import (
	"errors"
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
	before := Dirs
	Dirs = []string{dir}
	t.Cleanup(func() { Dirs = before })
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
			if c.backend == BCC {
				if _, err := os.Stat("/usr/share/bcc/tools/execsnoop"); err == nil && c.want == "" {
					t.Skip("bcc is installed where no test can hide it")
				}
			}
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
	Dirs = []string{"/a", "/b"}
	for backend, want := range map[string][]string{
		BPFtrace: {"/a/bpftrace", "/b/bpftrace"},
		Libbpf:   {"/a/x-libbpf", "/b/x-libbpf", "/a/bpf-x", "/b/bpf-x", "/a/x", "/b/x"},
		BCC:      {"/usr/share/bcc/tools/x", "/usr/share/bcc/tools/bpf-x", "/a/x-bpfcc", "/b/x-bpfcc"},
		"other":  nil,
	} {
		if got := candidates(backend, "x"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", backend, got, want)
		}
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
