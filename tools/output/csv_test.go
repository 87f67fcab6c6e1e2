package output

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestNewCSVRefuses(t *testing.T) {
	for spec, want := range map[string]string{
		"":              "no columns",
		"a:decimal":     `column "a:decimal": unknown type "decimal"`,
		"comm/16":       `column "comm/16": want a name and perhaps a type: CSV has no widths and no rest of the line`,
		"a args...":     `column "args...": want a name and perhaps a type: CSV has no widths and no rest of the line`,
		"l+p:hostport":  `column "l+p:hostport": want a name and perhaps a type: CSV has no widths and no rest of the line`,
		"a a:int":       `column "a:int": "a" is there twice`,
		"LATENCY_us":    `column "LATENCY_us": "LATENCY_us" is no name of a column`,
		columnsSpec(33): "more than 32 columns",
	} {
		if _, err := NewCSV(spec, nil); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", spec, err, want)
		}
	}
}

func columnsSpec(n int) string {
	var names []string
	for i := range n {
		names = append(names, "c"+strings.Repeat("x", i))
	}
	return strings.Join(names, " ")
}

func TestCSV(t *testing.T) {
	const header = `TASK,PID,"Read bytes",LATENCY_us`
	for _, tt := range []struct {
		line string
		want []string // nil for an error
	}{
		{`cat,12,4096,1.5`, []string{"1.5", "cat", "12"}},
		{`"a, ""b"" c",12,4096,1.5`, []string{"1.5", `a, "b" c`, "12"}},
		{`"",12,4096,1.5`, []string{"1.5", "", "12"}},
		{` cat , 12,x, 1.5 `, []string{"1.5", " cat ", "12"}},
		{"\xff\xfe,-3,,0", []string{"0", "\xff\xfe", "-3"}},
		{`cat,12,4096`, nil},
		{`cat,12,4096,1.5,6`, nil},
		{`cat,twelve,4096,1.5`, nil},
		{`cat,12,4096,`, nil},
		{`ca"t,12,4096,1.5`, nil},
		{`"cat,12,4096,1.5`, nil},
		{`"cat"x,12,4096,1.5`, nil},
		{"a\rb,12,1,1.5", []string{"1.5", "a\rb", "12"}},
		{"a\n,12,1,1.5", nil},
	} {
		c, err := NewCSV("latency_us:float task pid:int", []string{"Tracing..."})
		if err != nil {
			t.Fatal(err)
		}
		for _, skipped := range []string{"Tracing things", "", header, header} {
			if _, err := c.Decode([]byte(skipped), nil); err != ErrSkip {
				t.Errorf("%q: got %v, want it skipped", skipped, err)
			}
		}
		got, err := c.Decode([]byte(tt.line), nil)
		if !slices.Equal(got, tt.want) || (err != nil) != (tt.want == nil) || err != nil && !errors.Is(err, ErrLine) {
			t.Errorf("%q: got %q, %v; want %q", tt.line, got, err, tt.want)
		}
	}
}

// No row is taken before the header, which a later one cannot replace.
func TestCSVHeader(t *testing.T) {
	c, err := NewCSV("a b:int", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		line string
		want string
		err  error
	}{
		{"x,1", "", ErrLine},
		{"A,C", "", ErrLine},
		{"B,A,c", "", ErrSkip},
		{"1,x,2", "x 1", nil},
		{"A,B,c", "", ErrLine}, // "A" is no int
		{"2,B,c", "B 2", nil},
		{"B,A,c", "", ErrSkip},
	} {
		got, err := c.Decode([]byte(tt.line), nil)
		if !errors.Is(err, tt.err) || strings.Join(got, " ") != tt.want {
			t.Errorf("%q: got %q, %v; want %q, %v", tt.line, got, err, tt.want, tt.err)
		}
	}
}

func FuzzCSV(f *testing.F) {
	f.Add([]byte("TASK,PID\ncat,1\n\"a,\"\"b\",2\n"))
	f.Add([]byte("PID,x,TASK\n1,,\"\n\"\n1,2"))
	for _, name := range recordings(f, "*/libbpf/ext4slower-c-m0.out") {
		lines := readLines(f, name)
		f.Add([]byte(strings.Join([]string{string(lines[0]), string(lines[1]), string(lines[2])}, "\n")))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := NewCSV("task pid:int", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			row, err := c.Decode([]byte(line), nil)
			switch {
			case err == ErrSkip || errors.Is(err, ErrLine):
				if row != nil {
					t.Errorf("%q: %q with %v", line, row, err)
				}
			case err != nil:
				t.Errorf("%q: %v", line, err)
			case len(row) != 2 || !isInt([]byte(row[1])):
				t.Errorf("%q: %q", line, row)
			}
		}
	})
}
