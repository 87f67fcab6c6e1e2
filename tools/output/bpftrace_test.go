package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

type entry struct {
	key   string
	value Value
}

func entries(t testing.TB, m Message) []entry {
	t.Helper()
	var got []entry
	err := m.EachEntry(func(key []byte, v Value) error {
		got = append(got, entry{string(key), v})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestParseBPFtrace(t *testing.T) {
	const maxUint = "18446744073709551615"
	stats := Value{IsStats: true, Count: 2, Total: 6}
	for _, tt := range []struct {
		line    string
		kind    MessageKind
		name    string
		data    string
		count   uint64
		entries []entry
	}{
		{line: ``, kind: KindOther},
		{line: `Attaching 2 probes...`, kind: KindText, data: `Attaching 2 probes...`},
		{line: `Lost 12 events`, kind: KindText, data: `Lost 12 events`},
		{line: `{"type": "attached_probes", "data": {"probes": 5}}`, kind: KindAttachedProbes, count: 5},
		{line: `{"type": "attached_probes", "count": 1, "data": {"probes": 1}}`, kind: KindAttachedProbes, count: 1},
		{line: `{"type": "lost_events", "data": {"events": 7}}`, kind: KindLostEvents, count: 7},
		{line: `{"type": "lost_events", "count": 9, "data": {"events": 9}}`, kind: KindLostEvents, count: 9},
		{line: `{"type": "time", "data": "18\n"}`, kind: KindOther},
		{line: `{"type": "value", "data": [1,[2,3]]}`, kind: KindOther},
		{line: `{"type": "helper_error", "msg": "no", "helper": "map_delete_elem", "retcode": -2, "line": 47, "col": 2}`, kind: KindOther},
		{line: `{"type": "hist", "data": {"@h": [{"min": 4, "max": 7, "count": 1}]}}`, kind: KindHist},
		{line: `{"type": "printf", "data": "17:45 %d\t\"q\" b\\s\r\n"}`, kind: KindPrintf, data: "17:45 %d\t\"q\" b\\s\r\n"},
		{line: `{"type": "printf", "data": "caf\uffffffc3\uffffffa9\u0001"}`, kind: KindPrintf, data: "café\x01"},
		{line: `{"type": "printf", "data": "\uffffff41\u00e9\ud83d\ude00\ud83d."}`, kind: KindPrintf, data: "\uffffff41é😀\uFFFD."},
		{line: `{"type": "map", "data": {"@a": 5}}`, kind: KindMap, name: "@a", entries: []entry{{"", Value{Int: 5}}}},
		{line: `{"type": "map", "data": {"@a": -3}}`, kind: KindMap, name: "@a", entries: []entry{{"", Value{Int: 1<<64 - 3, Negative: true}}}},
		{line: `{"type": "map", "data": {"@a": -9223372036854775808}}`, kind: KindMap, name: "@a", entries: []entry{{"", Value{Int: 1 << 63, Negative: true}}}},
		{line: `{"type": "map", "data": {"@a": "` + maxUint + `"}}`, kind: KindMap, name: "@a", entries: []entry{{"", Value{Int: 1<<64 - 1}}}},
		{line: `{"type": "map", "data": {"@a": ` + maxUint + `}}`, kind: KindMap, name: "@a", entries: []entry{{"", Value{Int: 1<<64 - 1}}}},
		{line: `{"type": "map", "data": {"@a": {}}}`, kind: KindMap, name: "@a"},
		{line: `{"type": "map", "data": {"@m": {"1,2": 7, "8656530541398876515,30986": "12"}}}`, kind: KindMap, name: "@m",
			entries: []entry{{"1,2", Value{Int: 7}}, {"8656530541398876515,30986", Value{Int: 12}}}},
		{line: `{"type": "map", "data": {"@m": {"caf\\uffffffc3\\uffffffa9": 1, "\\uffffff41\\uffffffzz\\uffffff": 2}}}`, kind: KindMap, name: "@m", // 0.23
			entries: []entry{{"café", Value{Int: 1}}, {`\uffffff41\uffffffzz\uffffff`, Value{Int: 2}}}},
		{line: `{"type": "map", "data": {"@m": {"caf\uffffffc3\uffffffa9": 1, "a\"b\\": 2, "": 3}}}`, kind: KindMap, name: "@m",
			entries: []entry{{"café", Value{Int: 1}}, {`a"b\`, Value{Int: 2}}, {"", Value{Int: 3}}}},
		{line: `{"type": "stats", "data": {"@s": {"count": 2, "average": 3, "total": 6}}}`, kind: KindStats, name: "@s", entries: []entry{{"", stats}}},
		{line: `{"type": "stats", "data": {"@s": {"1": {"count": 2, "average": 3, "total": "6"}, "2": {"count": 1, "average": -4, "total": -4}}}}`,
			kind: KindStats, name: "@s", entries: []entry{{"1", stats}, {"2", Value{IsStats: true, Count: 1, Total: 1<<64 - 4, Negative: true}}}},
		{line: `{"type": "stats", "data": {"@avg": {"count": 7}}}`, kind: KindStats, name: "@avg", entries: []entry{{"count", Value{Int: 7}}}},
	} {
		m, err := ParseBPFtrace([]byte(tt.line))
		if err != nil {
			t.Errorf("%s: %v", tt.line, err)
			continue
		}
		if m.Kind != tt.kind || string(m.Name) != tt.name || string(m.Data) != tt.data || m.Count != tt.count {
			t.Errorf("%s: got kind %d, name %q, data %q, count %d", tt.line, m.Kind, m.Name, m.Data, m.Count)
		}
		if got := entries(t, m); fmt.Sprint(got) != fmt.Sprint(tt.entries) {
			t.Errorf("%s: got %v, want %v", tt.line, got, tt.entries)
		}
	}
}

func TestParseBPFtraceErrors(t *testing.T) {
	for _, line := range []string{
		`{`, `{}`, `{"type"}`, `{"type": 5}`, `{"data": 5, "type": "map"}`, `{"type": "map"}`,
		`{"type": "map", "data": {"@c": {"1": 1d}}}`,
		`{"type": "map", "data": {"@c": {"1": 11}}} `[:40],
		`{"type": "map", "data": {"@c": {"1": 11}}`,
		`{"type": "map", "data": {"@c": {"1": 11}}}x`,
		`{"type": "map", "data": {"@c": {"1": 11}}}` + "\x00",
		`{"type": "map", "data": {"@c": {"1": 11,}}}`,
		`{"type": "map", "data": {"@c": {"1" 11}}}`,
		`{"type": "map", "data": {"@c": {1: 11}}}`,
		`{"type": "map", "data": {"@c": {"1": 1.5}}}`,
		`{"type": "map", "data": {"@c": {"1": 1e3}}}`,
		`{"type": "map", "data": {"@c": {"1": 01}}}`,
		`{"type": "map", "data": {"@c": {"1": +1}}}`,
		`{"type": "map", "data": {"@c": {"1": -}}}`,
		`{"type": "map", "data": {"@c": {"1": 18446744073709551616}}}`,
		`{"type": "map", "data": {"@c": {"1": -9223372036854775809}}}`,
		`{"type": "map", "data": {"@c": {"1": "1 "}}}`,
		`{"type": "map", "data": {"@c": {"1": "abc"}}}`,
		`{"type": "map", "data": {"@c": {"1": "1}}}`,
		`{"type": "map", "data": {"@c": [1,2]}}`,
		`{"type": "map", "data": {"@c": {"1": {"count": 2, "average": 3, "total": 6}}}}`,
		`{"type": "map", "data": {"@c": {"1": 1}, "@d": {"1": 1}}}`,
		`{"type": "map", "data": {"@c": {"a` + "\x01" + `": 1}}}`,
		`{"type": "map", "data": {"@c": {"\x41": 1}}}`,
		`{"type": "map", "data": {"@c": {"\u12": 1}}}`,
		`{"type": "stats", "data": {"@s": {"1": {"count": -2, "average": 3, "total": 6}}}}`,
		`{"type": "stats", "data": {"@s": {"1": {"count": 2, "average": 3}}}}`,
		`{"type": "hist", "data": {"@h": [{"min": 4, "max": 7, "count": 1d}]}}`,
		`{"type": "printf", "data": "cut`,
		`{"type": "printf", "data": 5}`,
		`{"type": "lost_events", "data": {"events": -7}}`,
		`{"type": "lost_events", "count": x, "data": {"events": 7}}`,
		`{"type": "attached_probes", "data": {"events": 7}}`,
		`{"type": "time", "data": "18}`,
	} {
		m, err := ParseBPFtrace([]byte(line))
		if !errors.Is(err, ErrLine) {
			t.Errorf("%s: got %+v and error %v, want ErrLine", line, m, err)
		}
	}
}

func TestErrorQuotesShortly(t *testing.T) {
	_, err := ParseBPFtrace([]byte(`{"type": "` + strings.Repeat("x", 1<<17)))
	if err == nil || len(err.Error()) > 2*quotedBytes+100 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

func TestEachEntryStops(t *testing.T) {
	m, err := ParseBPFtrace([]byte(`{"type": "map", "data": {"@m": {"1": 1, "2": 2, "3": 3}}}`))
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	calls := 0
	err = m.EachEntry(func([]byte, Value) error {
		if calls++; calls == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || calls != 2 {
		t.Errorf("got error %v after %d calls", err, calls)
	}
}

func TestEachEntryDoesNotAllocate(t *testing.T) {
	line := mapLine(100)
	f := func([]byte, Value) error { return nil }
	allocs := testing.AllocsPerRun(10, func() {
		m, err := ParseBPFtrace(line)
		if err != nil || m.EachEntry(f) != nil {
			t.Fatal(err)
		}
	})
	if allocs > 4 {
		t.Errorf("%v allocations for 100 entries", allocs)
	}
}

func TestUnescapeBuf(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{``, ``}, {`plain`, `plain`}, {`\x00`, "\x00"}, {`ab\x0a\x01c\d`, "ab\n\x01c\\d"}, {`\xc3\xa9 `, "é "},
		{`\x4`, `\x4`}, {`\x`, `\x`}, {`\`, `\`}, {`\xAB`, `\xAB`}, {`\xg0`, `\xg0`}, {`\\x00`, "\\\x00"},
		{`\x61\x5c\x78\x30\x61`, `a\x0a`},
	} {
		if got := string(UnescapeBuf([]byte(tt.in))); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

// decodeJSON reads the entries of a map message with encoding/json; ok is false unless it is one of integers.
func decodeJSON(line []byte) (name string, got []entry, ok bool) {
	var m struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	if json.Unmarshal(line, &m) != nil || len(m.Data) != 1 {
		return "", nil, false
	}
	var body json.RawMessage
	for name, body = range m.Data {
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	token, err := d.Token()
	if err != nil {
		return "", nil, false
	}
	if token != json.Delim('{') {
		v, ok := jsonValue(token)
		return name, []entry{{"", v}}, ok
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return "", nil, false
		}
		value, err := d.Token()
		if err != nil {
			return "", nil, false
		}
		v, ok := jsonValue(value)
		if !ok {
			return "", nil, false
		}
		got = append(got, entry{key.(string), v})
	}
	return name, got, true
}

func jsonValue(token json.Token) (Value, bool) {
	s := fmt.Sprint(token)
	switch token.(type) {
	case json.Number:
	case string:
		if len(s) > 1 && (s[0] == '0' || strings.HasPrefix(s, "-0") && s != "-0") || strings.HasPrefix(s, "+") {
			return Value{}, false
		}
	default:
		return Value{}, false
	}
	if u, err := strconv.ParseUint(s, 10, 64); err == nil {
		return Value{Int: u}, true
	}
	i, err := strconv.ParseInt(s, 10, 64)
	return Value{Int: uint64(i), Negative: i < 0}, err == nil
}

// FuzzBPFtrace compares with encoding/json: a map is taken by both or by neither, with the same entries.
func FuzzBPFtrace(f *testing.F) {
	for _, name := range recordings(f, "*/bpftrace/*.json.out") {
		for i, line := range readLines(f, name) {
			if i < 20 {
				f.Add(line)
			}
		}
	}
	f.Add([]byte(`{"type": "map", "data": {"@m": {"caf\uffffffc3": 1, "a\"b\\": -2, "": "3"}}}`))
	f.Add([]byte(`{"type": "map", "data": {"@a": 5}}`))
	f.Add([]byte(`{"type": "map", "data": {"@a": {"1": 1d}}}`))
	f.Add([]byte(`{"type": "stats", "data": {"@s": {"1": {"count": 2, "average": 3, "total": "6"}, "2": 7}}}`))
	f.Add([]byte(`{"type": "stats", "data": {"@s": {"count": 2, "average": 3, "total": 6}}}`))
	f.Add([]byte(`{"type": "lost_events", "count": 9, "data": {"events": 9}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := ParseBPFtrace(line)
		if err != nil && !errors.Is(err, ErrLine) {
			t.Fatalf("error %v does not wrap ErrLine", err)
		}
		got := entries(t, m)
		if err == nil && len(line) > 0 && line[0] == '{' && !json.Valid(line) {
			t.Fatalf("took what is no JSON")
		}
		// encoding/json replaces what is not UTF-8 and knows nothing of bpftrace's \uffffffc3.
		if !utf8.Valid(line) || bytes.Contains(line, []byte(`\u`)) {
			return
		}
		if err == nil && m.Kind == KindMap {
			name, want, ok := decodeJSON(line)
			if !ok || name != string(m.Name) || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("got %s %v, encoding/json %s %v", m.Name, got, name, want)
			}
		}
		if err != nil && bytes.HasPrefix(line, []byte(`{"type": "map", "data": {`)) && json.Valid(line) &&
			bytes.Count(line, []byte(`"data"`)) == 1 && bytes.Count(line, []byte(`"type"`)) == 1 {
			if name, want, ok := decodeJSON(line); ok && topLevelKeys(line) == 2 && dataKeys(line) == 1 {
				t.Fatalf("%v, but encoding/json has %s %v", err, name, want)
			}
		}
	})
}

// topLevelKeys counts keys as they stand: a Go map would merge doubles.
func topLevelKeys(line []byte) (n int) {
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil {
		return 0
	}
	for d.More() {
		if _, err := d.Token(); err != nil {
			return 0
		}
		var skipped json.RawMessage
		if d.Decode(&skipped) != nil {
			return 0
		}
		n++
	}
	return n
}

func dataKeys(line []byte) int {
	var m struct {
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(line, &m) != nil {
		return 0
	}
	return topLevelKeys(m.Data)
}

func FuzzUnescapeBuf(f *testing.F) {
	f.Add([]byte(`ab\x0a\x01c\d`), true)
	f.Add([]byte("caf\xc3\xa9"), false)
	f.Fuzz(func(t *testing.T, data []byte, keepASCII bool) {
		UnescapeBuf(data)
		if keepASCII && bytes.IndexByte(data, '\\') >= 0 {
			return // %r is ambiguous then
		}
		var printed []byte
		for _, c := range data {
			if keepASCII && c >= ' ' && c <= '~' {
				printed = append(printed, c)
			} else {
				printed = fmt.Appendf(printed, `\x%02x`, c)
			}
		}
		if got := UnescapeBuf(printed); !bytes.Equal(got, data) {
			t.Errorf("%s: got %q, want %q", printed, got, data)
		}
	})
}

func mapLine(entries int) []byte {
	line := []byte(`{"type": "map", "data": {"@execs": {`)
	for i := range entries {
		if i > 0 {
			line = append(line, ", "...)
		}
		line = fmt.Appendf(line, `"%d,%d": %d`, 8656530541398876515-i, 30986+i, i)
	}
	return append(line, "}}}"...)
}

func BenchmarkBPFtraceMap(b *testing.B) {
	line := mapLine(1000)
	var sum uint64
	f := func(_ []byte, v Value) error {
		sum += v.Int
		return nil
	}
	b.ReportAllocs()
	for b.Loop() {
		m, err := ParseBPFtrace(line)
		if err != nil || m.EachEntry(f) != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/entry")
}
