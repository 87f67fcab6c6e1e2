package output

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func mustColumns(t testing.TB, spec string, headers ...string) *Columns {
	t.Helper()
	c, err := NewColumns(spec, headers)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	execsnoopSpec  = "comm/16 pid:int ppid:int ret:int args..."
	tcplifeSpec    = "pid:int/7 comm/16 laddr:addr lport:int raddr:addr rport:int tx_kb:float rx_kb:float ms:float"
	tcpretransSpec = "time pid:int ip:int laddr+lport:hostport kind:oneof(R>,L>) raddr+rport:hostport state"
	cachestatSpec  = "hits:int misses:int dirties:int ratio:percent buffers:int cached:int"
)

func TestColumnsDecode(t *testing.T) {
	for _, tt := range []struct {
		spec, line string
		want       []string
	}{
		{execsnoopSpec, "true             312    292      0 /bin/true ", []string{"true", "312", "292", "0", "/bin/true "}},
		{execsnoopSpec, "we ird           302    292      0 /data/bin/we ird w ", []string{"we ird", "302", "292", "0", "/data/bin/we ird w "}},
		{execsnoopSpec, "tab\there         306    292     -2  a  b", []string{"tab\there", "306", "292", "-2", " a  b"}},
		{execsnoopSpec, "inv\xff\xfeutf         304    292      0 /data/inv\xff\xfe", []string{"inv\xff\xfeutf", "304", "292", "0", "/data/inv\xff\xfe"}},
		{execsnoopSpec, "                 304    292      0 x", []string{"", "304", "292", "0", "x"}},
		{execsnoopSpec, "PCOMM            304    292      0 PPID RET ARGS", []string{"PCOMM", "304", "292", "0", "PPID RET ARGS"}},
		{execsnoopSpec, "true             312    292      0 ", []string{"true", "312", "292", "0", ""}},
		{execsnoopSpec, "true             312    292      0", []string{"true", "312", "292", "0", ""}},
		{tcplifeSpec, "768     curl             127.0.0.1       35590 ::ffff:10.0.0.1 8080  0.00   195.51 0.95",
			[]string{"768", "curl", "127.0.0.1", "35590", "::ffff:10.0.0.1", "8080", "0.00", "195.51", "0.95"}},
		{tcplifeSpec, "768       odd            ::1             35590 ::1             8080  0.00   0.00   0.95",
			[]string{"768", "  odd", "::1", "35590", "::1", "8080", "0.00", "0.00", "0.95"}},
		{tcplifeSpec, "4194304                  ::1             35590 ::1             8080  0.00   0.00   0.95",
			[]string{"4194304", "", "::1", "35590", "::1", "8080", "0.00", "0.00", "0.95"}},
		{tcpretransSpec, "16:41:56 0       6  ::1:58358            R> ::1:9998             SYN_SENT",
			[]string{"16:41:56", "0", "6", "::1", "58358", "R>", "::1", "9998", "SYN_SENT"}},
		{cachestatSpec, "    1071        0       36  100.00%            0         87", []string{"1071", "0", "36", "100.00", "0", "87"}},
		{"comm/10c laddr:addr", "caféééééé  ::1", []string{"caféééééé", "::1"}},
		{"comm/10c laddr:addr", "caféééééé1 ::1", []string{"caféééééé1", "::1"}},
		{"_ n:int _", "a 5 c  ", []string{"5"}},
		{"n:int", "+18446744073709551615", []string{"+18446744073709551615"}},
		{"n:int", "-9223372036854775808", []string{"-9223372036854775808"}},
		{"a+p:hostport", "127.0.0.1:65535", []string{"127.0.0.1", "65535"}},
		{"all...", " as it\tis ", []string{" as it\tis "}},
	} {
		got, err := mustColumns(t, tt.spec).Decode([]byte(tt.line), []string{"kept"})
		if want := append([]string{"kept"}, tt.want...); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %q and error %v, want %q", tt.line, got, err, want)
		}
	}
}

func TestColumnsErrors(t *testing.T) {
	for _, tt := range []struct{ spec, line string }{
		{execsnoopSpec, "new"},
		{execsnoopSpec, "line         303    292      0 /data/bin/new"},
		{execsnoopSpec, "seventeen-letters 303    292      0 x"},
		{execsnoopSpec, "true             312    292   0x0 x"},
		{execsnoopSpec, "true             312    292"},
		{execsnoopSpec, "true             312    292      0\tx"},
		{execsnoopSpec, "true             312\t292      0 x"},
		{tcplifeSpec, " 768    curl             ::1             35590 ::1             8080  0.00   0.00   0.95"},
		{tcplifeSpec, "768  x  curl             ::1             35590 ::1             8080  0.00   0.00   0.95"},
		{tcplifeSpec, "768     curl             localhost       35590 ::1             8080  0.00   0.00   0.95"},
		{tcplifeSpec, "768     curl             fe80::1%eth0    35590 ::1             8080  0.00   0.00   0.95"},
		{tcplifeSpec, "768     curl             ::1             35590 ::1             8080  0.00   0.00   0.95 7"},
		{tcplifeSpec, "768     curl             ::1             35590 ::1             8080  0.00   nan    0.95"},
		{tcpretransSpec, " 16:41:56 0       6  ::1:58358            R> ::1:9998             SYN_SENT"},
		{tcpretransSpec, "16:41:56 0       6  ::1:58358            T> ::1:9998             SYN_SENT"},
		{tcpretransSpec, "16:41:56 0       6  ::1:65536            R> ::1:9998             SYN_SENT"},
		{tcpretransSpec, "16:41:56 0       6  58358                R> ::1:9998             SYN_SENT"},
		{tcpretransSpec, "16:41:56 0       6  [::1]:58358          R> ::1:9998             SYN_SENT"},
		{cachestatSpec, "    1071        0       36  100.00             0         87"},
		{cachestatSpec, "    1071        0       36        %            0         87"},
		{cachestatSpec, "    1071        0       36    -nan%            0         87"},
		{cachestatSpec, "    1071        0       36  100.00%            0         87\r"},
		{"n:int", "18446744073709551616"}, {"n:int", "-9223372036854775809"}, {"n:int", "-"}, {"n:int", "1_0"},
		{"n:float", "1."}, {"n:float", ".5"}, {"n:float", "1e5"}, {"n:float", "1.5.2"}, {"n:float", "-"},
		{"c/4", "abc"}, {"c/4c", "éé"}, {"c/4", "abcde"},
	} {
		got, err := mustColumns(t, tt.spec).Decode([]byte(tt.line), nil)
		if !errors.Is(err, ErrLine) || got != nil {
			t.Errorf("%q: got %q and error %v, want ErrLine", tt.line, got, err)
		}
	}
}

func TestColumnsSkip(t *testing.T) {
	c := mustColumns(t, execsnoopSpec, "PCOMM  PID PPID RET ARGS", "Tracing retransmits ... Hit Ctrl-C to end", "Unable to...")
	for _, line := range []string{
		"", " ", "\t ", "PCOMM            PID    PPID   RET ARGS", " PCOMM PID PPID RET ARGS ",
		"Tracing retransmits ... Hit Ctrl-C to end", "Unable to find kernel headers.", "Unable  to",
	} {
		if got, err := c.Decode([]byte(line), nil); !errors.Is(err, ErrSkip) || got != nil {
			t.Errorf("%q: got %q and error %v, want ErrSkip", line, got, err)
		}
	}
	for _, line := range []string{"PCOMM", "PCOMM PID PPID RET", "PCOMM PID PPID RET ARGS x", "PCOMMPID PPID RET ARGS", "Tracing retransmits"} {
		if _, err := c.Decode([]byte(line), nil); !errors.Is(err, ErrLine) {
			t.Errorf("%q: got error %v, want ErrLine", line, err)
		}
	}
}

func TestNewColumnsErrors(t *testing.T) {
	many := "a"
	for i := range maxColumns {
		many += fmt.Sprintf(" a%d", i)
	}
	for _, spec := range []string{
		"", "_", "pid:integer", "pid:", ":int", "Pid", "9p", "comm/0", "comm/-1", "comm/x", "comm/5000", "comm/", "comm/c", "pid:int/0", "pid:int/",
		"a:hostport", "a+:hostport", "+p:hostport", "a+b:int", "kind:oneof(", "kind:oneof()", "args... pid", "a a", "a b+a:hostport", "...", many,
	} {
		if c, err := NewColumns(spec, nil); err == nil {
			t.Errorf("%q: no error, names %q", spec, c.Names())
		}
	}
	for _, header := range []string{"", " ", "..."} {
		if _, err := NewColumns("a", []string{header}); err == nil {
			t.Errorf("header %q: no error", header)
		}
	}
}

func TestColumnsNames(t *testing.T) {
	want := []string{"time", "pid", "ip", "laddr", "lport", "kind", "raddr", "rport", "state"}
	if got := mustColumns(t, tcpretransSpec+" _").Names(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestColumnsAllocations(t *testing.T) {
	c := mustColumns(t, execsnoopSpec)
	line := []byte("true             312    292      0 /bin/true ")
	values := make([]string, 0, 8)
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := c.Decode(line, values[:0]); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 2 {
		t.Errorf("%v allocations for a row", allocs)
	}
}

func FuzzColumns(f *testing.F) {
	specs := []string{execsnoopSpec, tcplifeSpec, tcpretransSpec, cachestatSpec, "comm/10c _ n:int/5 rest..."}
	var decoders []*Columns
	for _, spec := range specs {
		decoders = append(decoders, mustColumns(f, spec, "PCOMM PID PPID RET ARGS", "Tracing..."))
	}
	for i, pattern := range []string{"*/*/execsnoop.out", "*/*/tcplife.out", "*/*/tcpretrans.out", "*/*/cachestat*.out"} {
		for _, name := range recordings(f, pattern) {
			lines := readLines(f, name)
			for _, line := range lines[:min(12, len(lines))] {
				f.Add(line, uint8(i))
			}
		}
	}
	f.Add([]byte("caféééééé1 x 12    rest"), uint8(4))
	f.Fuzz(func(t *testing.T, line []byte, i uint8) {
		c := decoders[int(i)%len(decoders)]
		values, err := c.Decode(line, nil)
		if err != nil {
			if values != nil || !errors.Is(err, ErrSkip) && !errors.Is(err, ErrLine) {
				t.Fatalf("values %q, error %v", values, err)
			}
			return
		}
		if len(values) != len(c.names) {
			t.Fatalf("%d values for %q", len(values), c.names)
		}
		rest := string(line)
		for i, v := range values {
			at := strings.Index(rest, v)
			if at < 0 {
				t.Fatalf("value %q of %s is not in its place", v, c.names[i])
			}
			rest = rest[at+len(v):]
		}
	})
}

func BenchmarkColumnsExecsnoop(b *testing.B) {
	c := mustColumns(b, execsnoopSpec, "PCOMM PID PPID RET ARGS", "COMM PID PPID RET ARGS")
	line := []byte("script.sh        300    292      0 /data/script.sh one two ")
	var values []string
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if values, err = c.Decode(line, values[:0]); err != nil {
			b.Fatal(err)
		}
	}
}
