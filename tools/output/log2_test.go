package output

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const bar = "|****************************************|"

// script feeds a Log2 and returns what it emitted. The lines "IDLE" and "FLUSH" stand for those methods.
func script(t *testing.T, lines ...string) (hists []Histogram, errs int) {
	t.Helper()
	l := NewLog2(func(h Histogram) { hists = append(hists, h) })
	for _, line := range lines {
		var err error
		switch line {
		case "IDLE":
			l.Idle()
		case "FLUSH":
			err = l.Flush()
		default:
			err = l.Line([]byte(line))
		}
		if err != nil {
			errs++
			if !errors.Is(err, ErrLine) {
				t.Errorf("%q: error %v does not wrap ErrLine", line, err)
			}
		}
	}
	return hists, errs
}

const header1 = "     usecs               : count    distribution"

var (
	slot0 = "         0 -> 1          : 3        " + bar
	slot1 = "         2 -> 3          : 5        " + bar
	slot2 = "         4 -> 7          : 0        " + bar
	slot3 = "         8 -> 15         : 7        " + bar
)

func hist(section []KV, slots ...Slot) Histogram { return Histogram{section, "usecs", slots} }

func TestLog2(t *testing.T) {
	s0, s1, s2, s3 := Slot{0, 1, 3}, Slot{2, 3, 5}, Slot{4, 7, 0}, Slot{8, 15, 7}
	disk := []KV{{"disk", "vda"}}
	for _, tt := range []struct {
		name  string
		lines []string
		want  []Histogram
		errs  int
	}{
		{"ended by a blank line", []string{"Tracing block device I/O... Hit Ctrl-C to end.", "", "", header1, slot0, slot1, ""}, []Histogram{hist(nil, s0, s1)}, 0},
		{"not ended", []string{header1, slot0, slot1}, nil, 0},
		{"ended by flush", []string{header1, slot0, slot1, "FLUSH", "FLUSH"}, []Histogram{hist(nil, s0, s1)}, 0},
		{"ended by idle", []string{header1, slot0, slot1, "IDLE", "IDLE", ""}, []Histogram{hist(nil, s0, s1)}, 0},
		{"idle in the middle", []string{header1, slot0, slot1, "IDLE", slot2, "IDLE", slot3, ""}, []Histogram{hist(nil, s0, s1), hist(nil, s2, s3)}, 0},
		{"idle before a zero", []string{header1, slot0, slot1, slot2, "IDLE", slot3, ""}, []Histogram{hist(nil, s0, s1, s2, s3)}, 0},
		{"ended by a timestamp", []string{"17:36:20", header1, slot0, "17:36:21", header1, slot0, "FLUSH"}, []Histogram{hist(nil, s0), hist(nil, s0)}, 0},
		{"ended by an average", []string{header1, slot0, "avg = 192 usecs, total: 20583 usecs, count: 107", ""}, []Histogram{hist(nil, s0)}, 0},
		{"per disk", []string{"disk = vda\t", header1, slot0, "", "disk = b'vda'", header1, slot1, ""}, []Histogram{hist(disk, s0), hist(disk, s1)}, 0},
		{"per disk and flag", []string{"disk = vda\tflags = Sync-Write", header1, slot0, ""}, []Histogram{hist([]KV{{"disk", "vda"}, {"flags", "Sync-Write"}}, s0)}, 0},
		{"flags without blank lines", []string{"flags = Read", header1, slot0, "flags = Sync-Write", header1, slot1, ""},
			[]Histogram{hist([]KV{{"flags", "Read"}}, s0), hist([]KV{{"flags", "Sync-Write"}}, s1)}, 0},
		{"per pid", []string{"pid = 12 a = b\tc|", header1, slot0, ""}, []Histogram{hist([]KV{{"pid", "12 a = b\tc|"}}, s0)}, 0},
		{"wide", []string{"               nsecs                         : count     distribution",
			" 9223372036854775808 -> 18446744073709551615 : 4294967295 |********************|", ""},
			[]Histogram{{nil, "nsecs", []Slot{{1 << 63, 1<<64 - 1, 4294967295}}}}, 0},
		{"leading zeros stripped", []string{header1, slot1, ""}, []Histogram{hist(nil, s1)}, 0},
		{"cut short", []string{header1, slot0, slot2, slot3, ""}, nil, 1},
		{"cut after the header", []string{header1, ""}, nil, 1},
		{"cut after a zero", []string{header1, slot0, slot1, slot2, "FLUSH"}, nil, 1},
		{"cut after idle", []string{header1, slot0, slot1, "IDLE", slot2, "FLUSH"}, []Histogram{hist(nil, s0, s1)}, 1},
		{"hole", []string{header1, slot0, slot1, slot3, "", header1, slot0, ""}, []Histogram{hist(nil, s0)}, 1},
		{"repeated slot", []string{header1, slot0, slot0, slot1, ""}, nil, 1},
		{"slot without a header", []string{slot0, slot1, "", header1, slot0, ""}, []Histogram{hist(nil, s0)}, 1},
		{"garbage within", []string{header1, slot0, "oops", slot1, "", header1, slot0, ""}, []Histogram{hist(nil, s0)}, 1},
		{"garbage before", []string{"oops", " oops", "", header1, slot0, ""}, []Histogram{hist(nil, s0)}, 2},
		{"garbage after a section", []string{"pid = 12 a", "b", header1, slot0, "", "pid = 13 c", header1, slot1, ""}, []Histogram{hist([]KV{{"pid", "13 c"}}, s1)}, 1},
		{"blank in a section", []string{"pid = 12 a", "", header1, slot0, "", "pid = 13 c", header1, slot1, ""}, []Histogram{hist([]KV{{"pid", "13 c"}}, s1)}, 1},
		{"section in a section", []string{"pid = 12 ", "pid = 1 x", header1, slot0, "", "pid = 13 c", header1, slot1, ""}, []Histogram{hist([]KV{{"pid", "13 c"}}, s1)}, 1},
		{"blanks and a section in a section", []string{"pid = 12 ", "", "", "pid = 1 x", header1, slot0, ""}, nil, 1},
		{"time in a section", []string{"pid = 12 ", "12:00:00", header1, slot0, "", "pid = 13 c", header1, slot1, ""}, []Histogram{hist([]KV{{"pid", "13 c"}}, s1)}, 1},
		{"section lost", []string{"pid = 13 c", header1, slot1, "", header1, slot0, ""}, []Histogram{hist([]KV{{"pid", "13 c"}}, s1)}, 1},
		{"section without histogram at the end", []string{"pid = 13 c", "FLUSH", "pid = 13 c", header1, slot1, "FLUSH"}, []Histogram{hist([]KV{{"pid", "13 c"}}, s1)}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, errs := script(t, tt.lines...)
			if fmt.Sprint(got) != fmt.Sprint(tt.want) || errs != tt.errs {
				t.Errorf("got %v and %d errors, want %v and %d", got, errs, tt.want, tt.errs)
			}
		})
	}
}

func TestLog2BadSlots(t *testing.T) {
	for _, slot := range []string{
		"         0 -> 2          : 3        " + bar,
		"         1 -> 1          : 3        " + bar,
		"         1 -> 3          : 3        " + bar,
		"         3 -> 5          : 3        " + bar,
		"         4 -> 8          : 3        " + bar,
		"         2 -> 3          : -3       " + bar,
		"         2 -> 3          : 0x3      " + bar,
		"         2 -> 3          : 3.5      " + bar,
		"         2 -> 3          :          " + bar,
		"         2 => 3          : 3        " + bar,
		"         2 -> 3          : 3        |***|",
		"         2 -> 3          : 3        |" + strings.Repeat("#", 40) + "|",
		"         2 -> 3          : 3",
		"         2 -> 3          : 18446744073709551616 " + bar,
	} {
		got, errs := script(t, header1, slot, slot3, "", header1, slot0, "")
		if len(got) != 1 || !slices.Equal(got[0].Slots, []Slot{{0, 1, 3}}) || errs == 0 {
			t.Errorf("%q: got %v and %d errors", slot, got, errs)
		}
	}
}

func TestLog2Dict(t *testing.T) {
	const data = "'data': [{'interval-start': 0, 'interval-end': 1, 'count': 0}, {'interval-start': 2, 'interval-end': 3, 'count': 89}]"
	want := []Slot{{0, 1, 0}, {2, 3, 89}}
	for _, tt := range []struct {
		line string
		want []Histogram
		errs int
	}{
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + data + "}", []Histogram{hist(nil, want...)}, 0},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + data + ", 'disk': 'vda'}", []Histogram{hist([]KV{{"disk", "vda"}}, want...)}, 0},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + data + ", 'disk': b'vda', 'flags': 'Read'}",
			[]Histogram{hist([]KV{{"disk", "vda"}, {"flags", "Read"}}, want...)}, 0},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', 'data': []}", nil, 0},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + data, nil, 1},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + data + ", 'disk': 'a\\'b'}", nil, 1},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + data + ", 'disk': }", nil, 1},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + data + "} x", nil, 1},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + strings.Replace(data, "}, {", "} {", 1) + "}", nil, 1},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + strings.Replace(data, "'interval-end': 3", "'interval-end': 4", 1) + "}", nil, 1},
		{"{'ts': '2026-11-22 17:36:20', 'val_type': 'usecs', " + strings.Replace(data, "89", "-89", 1) + "}", nil, 1},
		{"{}", nil, 1},
	} {
		got, errs := script(t, "", tt.line, "FLUSH")
		if fmt.Sprint(got) != fmt.Sprint(tt.want) || errs != tt.errs {
			t.Errorf("%s: got %v and %d errors", tt.line, got, errs)
		}
	}
}

// FuzzLog2 feeds whole outputs: what is emitted is sound, and each count was printed.
func FuzzLog2(f *testing.F) {
	for _, name := range recordings(f, "debian1[23]-linux*/*/biolatency-*.out") {
		lines := readLines(f, name)
		var some []byte
		for _, line := range lines[:min(40, len(lines))] {
			some = append(append(some, line...), '\n')
		}
		f.Add(some, uint8(7))
	}
	f.Add([]byte("pid = 12 a\n\n"+header1+"\n"+slot0+"\n"+slot1+"\n"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, idle uint8) {
		l := NewLog2(func(h Histogram) {
			if len(h.Slots) == 0 || len(h.Slots) > maxSlots || h.Unit == "" && !strings.Contains(string(data), "'val_type': ''") {
				t.Fatalf("emitted %+v", h)
			}
			for i, s := range h.Slots {
				if !s.valid() || i > 0 && s.Low != h.Slots[i-1].High+1 {
					t.Fatalf("slot %d of %+v", i, h)
				}
				if !strings.Contains(string(data), fmt.Sprint(s.Count)) && !strings.Contains(string(data), "0"+fmt.Sprint(s.Count)) {
					t.Fatalf("count %d was not printed", s.Count)
				}
			}
		})
		for i, line := range strings.Split(string(data), "\n") {
			if err := l.Line([]byte(line)); err != nil && !errors.Is(err, ErrLine) {
				t.Fatal(err)
			}
			if i%(int(idle)+1) == int(idle) {
				l.Idle()
			}
		}
		if err := l.Flush(); err != nil && !errors.Is(err, ErrLine) {
			t.Fatal(err)
		}
	})
}

func BenchmarkLog2(b *testing.B) {
	lines := readLines(b, "testdata/recordings/debian12-linux6.1/libbpf/biolatency-1-5.out")
	var counts uint64
	l := NewLog2(func(h Histogram) { counts += h.Slots[len(h.Slots)-1].Count })
	b.ReportAllocs()
	for b.Loop() {
		for _, line := range lines {
			if err := l.Line(line); err != nil {
				b.Fatal(err)
			}
		}
		if err := l.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}
