package process

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReclaimFilePages(t *testing.T) {
	var out collector
	// The test binary is a file of some MiB that no other process maps, once it is copied.
	spec := helper(t, "second")
	spec.Path = duplicate(t, spec.Path)
	spec.Stdout = out.add
	p := start(t, spec)
	out.await(t, 1)
	before := residentFile(t, p)
	if err := p.ReclaimFilePages(); errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		t.Skip("process_madvise does not serve here:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	if after := residentFile(t, p); after > before/2 {
		t.Errorf("%d KiB of files in memory, %d before", after, before)
	}
	if !alive(p.Pid()) {
		t.Error("the child did not survive")
	}
	stop(t, p)
	if err := p.ReclaimFilePages(); !errors.Is(err, errEnded) {
		t.Errorf("after its end: %v", err)
	}
}

func duplicate(t *testing.T, path string) string {
	t.Helper()
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	name := t.TempDir() + "/program"
	if err := os.WriteFile(name, program, 0o755); err != nil {
		t.Fatal(err)
	}
	// Dirty pages cannot be dropped.
	unix.Sync()
	return name
}

// residentFile returns RssFile of /proc/PID/status in KiB.
func residentFile(t *testing.T, p *Process) int {
	t.Helper()
	_, text, _ := strings.Cut(proc(t, p, "status"), "RssFile:")
	return atoi(t, strings.Fields(text)[0])
}

func TestParseMaps(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []mapping
		fails    string
	}{
		{name: "nothing"},
		{
			name: "kinds",
			in: "1000-3000 r--p 00000000 fe:00 123      /usr/lib/libLLVM.so\n" +
				"3000-4000 r-xp 00002000 fe:00 123      /usr/lib/a name (deleted)\n" +
				"4000-5000 rw-p 00003000 fe:00 123      /usr/lib/libLLVM.so\n" +
				"5000-6000 rw-p 00000000 00:00 0 \n" +
				"6000-7000 r-xp 00000000 00:00 0        [vdso]\n" +
				"7000-8000 r--s 00000000 00:0e 99       anon_inode:bpf-map\n",
			want: []mapping{{0x1000, 0x2000}, {0x3000, 0x1000}},
		},
		{name: "few fields", in: "1000-2000 r--p\n", fails: `maps: line "1000-2000 r--p": too few fields`},
		{name: "empty range", in: "2000-2000 r--p 0 0:0 1 /a\n", fails: `maps: range "2000-2000": empty`},
		{name: "no range", in: "2000 r--p 0 0:0 1 /a\n", fails: `maps: range "2000": strconv.ParseUint: parsing "": invalid syntax`},
		{name: "no number", in: "x-2000 r--p 0 0:0 1 /a\n", fails: `maps: range "x-2000": strconv.ParseUint: parsing "x": invalid syntax`},
	} {
		got, err := parseMaps(strings.NewReader(c.in))
		if !slices.Equal(got, c.want) || (err == nil) != (c.fails == "") || err != nil && err.Error() != c.fails {
			t.Errorf("%s: %x, %v, want %x, %s", c.name, got, err, c.want, c.fails)
		}
	}
}
