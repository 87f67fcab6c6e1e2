package tools

import (
	"regexp"
	"testing"

	"bpf_tools_exporter/tools/backend"
)

func TestDialect(t *testing.T) {
	const program = `printf("t %d %rx%rx\n", pid, buf(uptr($next - 160), 160), buf(uptr($next), 64));`
	for version, want := range map[[2]int]string{
		{0, 11}: `printf("t %d %r%r\n", pid, buf(($next - 160), 160), buf(($next), 64));`,
		{0, 12}: `printf("t %d %r%r\n", pid, buf(uptr($next - 160), 160), buf(uptr($next), 64));`,
		{0, 14}: `printf("t %d %r%r\n", pid, buf(uptr($next - 160), 160), buf(uptr($next), 64));`,
		{0, 15}: program,
		{0, 27}: program,
	} {
		if got := inDialect(program, backend.Version(version[:])); got != want {
			t.Errorf("%v: %s", version, got)
		}
	}
}

// bpftrace before 0.14 knows no arithmetic of pointers; docs/kernels.md shows
// that it takes the rest.
func TestScriptsAddNothingToPointers(t *testing.T) {
	catalog, err := Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	arithmetic, seen := regexp.MustCompile(`\*\(\$[\w>-]+ [+-] `), 0
	for _, d := range catalog.Tools() {
		for _, s := range d.Sources {
			if len(s.Scripts) == 0 {
				continue
			}
			script, err := d.Script(s, nil)
			if err != nil {
				t.Fatal(err)
			}
			seen++
			if found := arithmetic.FindString(script); found != "" {
				t.Errorf("%s: %s...", d.Name, found)
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d scripts", seen)
	}
}
