package output

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const oomPattern = `\S+ Triggered by PID (?P<by>\d+) \("(?P<by_comm>.{0,15})"\), OOM kill of PID (?P<pid>\d+) \("(?P<comm>.{0,15})"\), \d+ pages(, loadavg: .*)?`

func TestPattern(t *testing.T) {
	p, err := NewPattern(oomPattern, []string{"Tracing OOM kills..."})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		line string
		want []string
		err  error
	}{
		{"Tracing OOM kills... Ctrl-C to stop.", nil, ErrSkip},
		{"", nil, ErrSkip},
		{`17:51:41 Triggered by PID 595 ("python3"), OOM kill of PID 596 ("cat"), 7680 pages, loadavg: 0.72 2/69 595`, []string{"595", "python3", "596", "cat"}, nil},
		{`17:51:41 Triggered by PID 595 ("python3"), OOM kill of PID 596 ("cat"), 7680 pages`, []string{"595", "python3", "596", "cat"}, nil},
		{"17:51:41 Triggered by PID 595 (\"a\"), OOM k\"), OOM kill of PID 596 (\"\xff\xfe\"), 7680 pages", []string{"595", `a"), OOM k`, "596", "\xff\xfe"}, nil},
		{"17:51:41 Triggered by PID 595 (\"new\nline\"), OOM kill of PID 596 (\"cat\"), 7680 pages", []string{"595", "new\nline", "596", "cat"}, nil},
		{`17:51:41 Triggered by PID 595 ("sixteen bytes too"), OOM kill of PID 596 ("cat"), 7680 pages`, nil, ErrLine},
		{`x 17:51:41 Triggered by PID 595 ("a"), OOM kill of PID 596 ("cat"), 7680 pages`, nil, ErrLine},
		{`line"), OOM kill of PID 596 ("cat"), 7680 pages`, nil, ErrLine},
	} {
		got, err := p.Decode([]byte(tt.line), nil)
		if !slices.Equal(got, tt.want) || !errors.Is(err, tt.err) {
			t.Errorf("%q: got %q, %v; want %q, %v", tt.line, got, err, tt.want, tt.err)
		}
	}
	optional, err := NewPattern(`(?P<a>x)?(?P<b>y)`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := optional.Decode([]byte("y"), nil); err != nil || !slices.Equal(got, []string{"", "y"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if got := optional.Names(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("names %q", got)
	}
	for expression, want := range map[string]string{
		`(?P<a>x)(?P<a>y)`: `"a" is there twice`,
		`(?P<A>x)`:         `"A" is no name of a column`,
		`(x)`:              "no named groups, such as (?P<pid>[0-9]+)",
		`(?P<a>x`:          "missing closing",
	} {
		if _, err := NewPattern(expression, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", expression, err, want)
		}
	}
}

func FuzzPattern(f *testing.F) {
	p, err := NewPattern(oomPattern, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`17:51:41 Triggered by PID 595 ("python3"), OOM kill of PID 596 ("cat"), 7680 pages`))
	f.Fuzz(func(t *testing.T, line []byte) {
		row, err := p.Decode(line, nil)
		if err != nil {
			return
		}
		if len(row) != 4 || utf8.RuneCountInString(row[3]) > 15 {
			t.Errorf("%q: %q", line, row)
		}
	})
}
