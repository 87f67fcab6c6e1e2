package process

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadLines(t *testing.T) {
	long := strings.Repeat("0123456789", 10)
	for _, c := range []struct {
		name, in string
		limit    int
		want     []string
	}{
		{"nothing", "", 10, nil},
		{"newline", "\n", 10, []string{""}},
		{"lines", "a\nbc\n", 10, []string{"a", "bc"}},
		{"no last newline", "a\nbc", 10, []string{"a", "bc"}},
		{"carriage return stays", "a\r\n", 10, []string{"a\r"}},
		{"at the limit", "0123456789\nb\n", 10, []string{"0123456789", "b"}},
		{"one over", "0123456789x\nb\n", 10, []string{"0123456789[cut]", "b"}},
		{"far over", long + "\nb\n", 10, []string{"0123456789[cut]", "b"}},
		{"at the limit of a larger buffer", long[:40] + "\nb\n", 40, []string{long[:40], "b"}},
		{"one over a larger buffer", long[:41] + "\nb\n", 40, []string{long[:40] + "[cut]", "b"}},
		{"many buffers over", long + "\nb\n", 20, []string{long[:20] + "[cut]", "b"}},
		{"over at the end", "a\n" + long, 20, []string{"a", long[:20] + "[cut]"}},
		{"over twice", long + "\n" + long + "\n", 20, []string{long[:20] + "[cut]", long[:20] + "[cut]"}},
		{"limit 1", "ab\nc\n\n", 1, []string{"a[cut]", "c", ""}},
		{"bytes", "\x00\xff\n\xc3\n", 10, []string{"\x00\xff", "\xc3"}},
	} {
		for reading, r := range map[string]io.Reader{
			"at once":        strings.NewReader(c.in),
			"byte by byte":   iotest.OneByteReader(strings.NewReader(c.in)),
			"end with data":  iotest.DataErrReader(strings.NewReader(c.in)),
			"half at a time": iotest.HalfReader(strings.NewReader(c.in)),
		} {
			var got collector
			if err := readLines(r, c.limit, got.add); err != nil || !slices.Equal(got.all(), c.want) {
				t.Errorf("%s, %s: %q, %v, want %q", c.name, reading, got.all(), err, c.want)
			}
		}
	}
}

func TestReadLinesError(t *testing.T) {
	broken := errors.New("broken")
	for _, in := range []string{"", "a\n", "a\nb", "a\n" + strings.Repeat("x", 50)} {
		var got collector
		r := io.MultiReader(strings.NewReader(in), iotest.ErrReader(broken))
		if err := readLines(r, 20, got.add); !errors.Is(err, broken) {
			t.Errorf("%q: error %v", in, err)
		}
		if lines := len(strings.FieldsFunc(in, func(r rune) bool { return r == '\n' })); len(got.all()) != lines {
			t.Errorf("%q: %q", in, got.all())
		}
	}
}
