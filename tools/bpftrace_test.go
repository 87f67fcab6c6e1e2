package tools

import (
	"regexp"
	"testing"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/output"
)

func TestDialect(t *testing.T) {
	const program = `printf("t %d %rx%rx\n", pid, buf(uptr($next - 160), 160), buf(uptr($next), 64));`
	const plain = `printf("t %d \n", pid);`
	for version, want := range map[[2]int]string{{0, 11}: plain, {0, 14}: plain, {0, 15}: program, {0, 27}: program} {
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

// What a bpftrace without %rx prints is a row as well.
func TestRowsWithoutMemory(t *testing.T) {
	catalog, err := Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	for tool, row := range map[string]string{"execsnoop": "1 2 0 3 4 ", "opensnoop": "1 3 4 0 0 ", "ext4slower": "1 3 4 2 16 5 "} {
		rows, err := output.NewColumns(catalog.Tool(tool).Sources[0].Rows, nil)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Decode([]byte(row), nil)
		if err != nil || len(columns) != len(rows.Names()) || columns[len(columns)-1] != "" {
			t.Errorf("%s: %q, %v", tool, columns, err)
		}
	}
}
