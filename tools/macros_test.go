package tools

import (
	"regexp"
	"strings"
	"testing"
)

// linear64 finds the bucket that linearIndex does.
func TestLinear64(t *testing.T) {
	program := expandMacros("$slot = linear64($ns);")
	tokens, err := tokenize(program)
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(0); n < 1<<37; n += 1 + n/50 {
		for _, n := range []uint64{n, n - n%64, n | 63} {
			slot, err := run(tokens, n)
			if err != nil {
				t.Fatal(err)
			}
			doublings, index := linearIndex(float64(n)*16, 16)
			if slot/LinearBuckets != doublings || slot%LinearBuckets != index || slot > maxLinearSlot {
				t.Fatalf("%d: slot %d is %d, %d; want %d, %d", n, slot, slot/LinearBuckets, slot%LinearBuckets, doublings, index)
			}
		}
	}
}

func TestLinearIndex(t *testing.T) {
	for _, c := range []struct {
		value, width     float64
		doublings, index int
	}{
		{0, 16, 0, 0},
		{15.9, 16, 0, 0},
		{16, 16, 0, 1},
		{1023, 16, 0, 63},
		{1024, 16, 1, 32},
		{2047, 16, 1, 63},
		{2048, 16, 2, 32},
		{1e300, 1, MaxDoublings, LinearBuckets - 1},
	} {
		if doublings, index := linearIndex(c.value, c.width); doublings != c.doublings || index != c.index {
			t.Errorf("%g of %g: %d, %d; want %d, %d", c.value, c.width, doublings, index, c.doublings, c.index)
		}
	}
}

func TestDropOptional(t *testing.T) {
	const script = `// tracepoint:a:gone, // optional
tracepoint:a:gone, // optional
tracepoint:a:there, // optional
tracepoint:a:needed
{
  if (1) { @x = count(); }
}

tracepoint:a:gone // optional
{
  @y = count();
}

tracepoint:a:there // optional
{
  @z = count();
}
`
	got := dropOptional(script, func(name string) bool { return name != "a:gone" })
	want := `// tracepoint:a:gone, // optional
tracepoint:a:there, // optional
tracepoint:a:needed
{
  if (1) { @x = count(); }
}


tracepoint:a:there // optional
{
  @z = count();
}
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if all := dropOptional(script, func(string) bool { return true }); all != script {
		t.Errorf("got\n%s", all)
	}
}

// Every macro of a built-in script is replaced, parameters and all.
func TestMacrosAreReplaced(t *testing.T) {
	left := regexp.MustCompile(`schema3\(|linear64\(|operation\(|file_operations|block_requests|TOOL|MAGIC|BEGUN|ENDED`)
	for _, d := range builtins(t).Tools() {
		for _, s := range d.Sources {
			text, err := d.Script(s, nil)
			if err != nil {
				t.Errorf("%s: %v", d.Name, err)
			}
			for n, line := range strings.Split(text, "\n") {
				code, _, _ := strings.Cut(line, "//")
				if left.MatchString(code) || strings.Contains(code, "option(") {
					t.Errorf("%s: line %d: %s", d.Name, n+1, line)
				}
			}
		}
	}
	for _, line := range []string{"no_such_macro(a)", "block_requests(one)", "block_requests()"} {
		if got := expandMacros(line); got != line {
			t.Errorf("%s became %q", line, got)
		}
	}
}
