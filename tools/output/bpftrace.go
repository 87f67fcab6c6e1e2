package output

import (
	"bytes"
	"encoding/json"
	"unicode/utf16"
	"unicode/utf8"
)

// MessageKind says what a line of bpftrace's JSON output is.
type MessageKind int

const (
	// KindOther is a message without meaning here (time, join, value, helper_error, ...) and the empty line that
	// bpftrace prints when it ends.
	KindOther MessageKind = iota
	// KindText is a line that is not JSON. Up to 0.23, bpftrace mixes such lines in ("Attaching 2 probes...").
	KindText
	// KindMap is the state of a map of integers; see [Message.EachEntry].
	KindMap
	// KindStats is the state of a map of stats() or avg(); see [Message.EachEntry].
	KindStats
	// KindHist is the state of a map of hist() or lhist().
	KindHist
	// KindPrintf is the output of one printf, which need not be a whole row.
	KindPrintf
	// KindAttachedProbes says how many probes are attached. Up to 0.23 bpftrace prints it before it attaches them.
	KindAttachedProbes
	// KindLostEvents says how many events were lost since the last such message.
	KindLostEvents
)

var messageKinds = map[string]MessageKind{
	"map":             KindMap,
	"stats":           KindStats,
	"hist":            KindHist,
	"printf":          KindPrintf,
	"attached_probes": KindAttachedProbes,
	"lost_events":     KindLostEvents,
}

// Message is one line of "bpftrace -f json". Its byte slices may alias that line.
type Message struct {
	Kind  MessageKind
	Name  []byte // KindMap, KindStats: the map's name with its @
	Data  []byte // KindPrintf: what was printed; KindText: the line
	Count uint64 // KindAttachedProbes: probes; KindLostEvents: events

	entries []byte // KindMap, KindStats: the map's JSON value, found well-formed
}

// Value is one value of a bpftrace map.
type Value struct {
	Int      uint64 // an integer; below zero as two's complement
	Negative bool   // Int, or Total, is below zero
	IsStats  bool   // stats(): Count and Total hold the value, and Int is 0
	Count    uint64
	Total    uint64
}

// ParseBPFtrace decodes one line that bpftrace printed under -f json (bpftrace: src/output/json.cpp). A line that begins
// like JSON and is not whole, or counts in something else than decimal integers, is an error: from 0.24 bpftrace prints
// counts in hexadecimal once a byte above 0x7f has gone through its output.
func ParseBPFtrace(line []byte) (Message, error) {
	if len(line) == 0 {
		return Message{}, nil
	}
	if line[0] != '{' {
		return Message{Kind: KindText, Data: line}, nil
	}
	s := scanner{buf: line}
	if !s.accept('{') || !s.key("type") {
		return Message{}, lineError(line, "not a message of bpftrace")
	}
	name, ok := s.str()
	if !ok {
		return Message{}, lineError(line, "not a message of bpftrace")
	}
	m := Message{Kind: messageKinds[string(name)]}
	switch m.Kind {
	case KindMap, KindStats:
		ok = m.scanMap(&s) && s.end()
	case KindPrintf:
		ok = s.accept(',') && s.key("data") && m.scanPrintf(&s) && s.end()
	case KindAttachedProbes:
		ok = m.scanCount(&s, "probes") && s.end()
	case KindLostEvents:
		ok = m.scanCount(&s, "events") && s.end()
	default:
		ok = json.Valid(line)
	}
	if !ok {
		return Message{}, lineError(line, "malformed "+cut(string(name), quotedBytes)+" message")
	}
	return m, nil
}

// EachEntry calls f for each entry of a KindMap or KindStats message, in the order of printing, and for the value of a map
// without keys with an empty key. It stops at f's first error and returns it. The key is valid during the call only.
//
// A key of several parts has them joined with commas. A byte above 0x7f, which bpftrace prints as \uffffffc3, is that byte
// again, also where 0.23 escapes keys twice. Other inner escapes of 0.23 stay, as nothing tells them from a key of another
// version that has a backslash: a name that looks like a mangled byte is the one thing that is taken for what it looks like.
func (m *Message) EachEntry(f func(key []byte, value Value) error) error {
	s := scanner{buf: m.entries}
	var err error
	s.entries(m.Kind == KindStats, func(key []byte, value Value) bool {
		err = f(key, value)
		return err == nil
	})
	return err
}

// scanMap reads `, "data": {"@name": VALUE}}` up to the last brace.
func (m *Message) scanMap(s *scanner) bool {
	if !s.accept(',') || !s.key("data") || !s.accept('{') {
		return false
	}
	name, ok := s.str()
	if !ok || !s.accept(':') {
		return false
	}
	start := s.pos
	if !s.entries(m.Kind == KindStats, nil) {
		return false
	}
	m.Name, m.entries = unescape(name), s.buf[start:s.pos]
	return s.accept('}')
}

func (m *Message) scanPrintf(s *scanner) bool {
	data, ok := s.str()
	m.Data = unescape(data)
	return ok
}

// scanCount reads `, "data": {"probes": 1}`, before which bpftrace from 0.24 prints `, "count": 1`.
func (m *Message) scanCount(s *scanner, field string) bool {
	if !s.accept(',') {
		return false
	}
	if start := s.pos; s.key("count") {
		if v, ok := s.value(); !ok || v.Negative || !s.accept(',') {
			return false
		}
	} else {
		s.pos = start
	}
	if !s.key("data") || !s.accept('{') || !s.key(field) {
		return false
	}
	v, ok := s.value()
	m.Count = v.Int
	return ok && !v.Negative && s.accept('}')
}

// scanner reads the part of JSON that bpftrace prints. Each method skips blanks, takes what it is named for, and
// tells whether that was there.
type scanner struct {
	buf []byte
	pos int
}

func (s *scanner) peek() byte {
	for ; s.pos < len(s.buf); s.pos++ {
		switch c := s.buf[s.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) accept(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

// end takes the last brace of the line.
func (s *scanner) end() bool {
	return s.accept('}') && s.peek() == 0 && s.pos == len(s.buf)
}

// key takes a given object key and its colon.
func (s *scanner) key(want string) bool {
	got, ok := s.str()
	return ok && string(got) == want && s.accept(':')
}

// str takes a string and returns it with its escapes, which it has checked.
func (s *scanner) str() (raw []byte, ok bool) {
	if !s.accept('"') {
		return nil, false
	}
	rest := s.buf[s.pos:]
	for i := 0; i < len(rest); i++ {
		c := rest[i]
		switch {
		case c != '"' && c != '\\' && c >= ' ':
		case c == '"':
			s.pos += i + 1
			return rest[:i], true
		default:
			n := escapeLen(rest[i:])
			if n == 0 {
				return nil, false
			}
			i += n - 1
		}
	}
	return nil, false
}

// entries takes the value of a map and calls f, which may be nil, for each entry until f says false.
func (s *scanner) entries(stats bool, f func(key []byte, value Value) bool) bool {
	if s.peek() != '{' {
		v, ok := s.value()
		return ok && (f == nil || f(nil, v))
	}
	if start := s.pos; stats {
		if v, ok := s.stats(); ok {
			return f == nil || f(nil, v)
		}
		s.pos = start
	}
	s.pos++
	if s.accept('}') {
		return true
	}
	for {
		key, ok := s.str()
		if !ok || !s.accept(':') {
			return false
		}
		var v Value
		if stats && s.peek() == '{' {
			v, ok = s.stats()
		} else {
			v, ok = s.value()
		}
		if !ok || f != nil && !f(unmangle(unescape(key)), v) {
			return false
		}
		if !s.accept(',') {
			return s.accept('}')
		}
	}
}

// stats takes `{"count": 2, "average": 3, "total": 6}`.
func (s *scanner) stats() (Value, bool) {
	if !s.accept('{') || !s.key("count") {
		return Value{}, false
	}
	count, ok := s.value()
	if !ok || count.Negative || !s.accept(',') || !s.key("average") {
		return Value{}, false
	}
	if _, ok = s.value(); !ok || !s.accept(',') || !s.key("total") {
		return Value{}, false
	}
	total, ok := s.value()
	if !ok || !s.accept('}') {
		return Value{}, false
	}
	return Value{IsStats: true, Count: count.Int, Total: total.Int, Negative: total.Negative}, true
}

// value takes an integer, or a string of one: so bpftrace from 0.24 prints those that a double cannot hold.
func (s *scanner) value() (v Value, ok bool) {
	quoted := s.accept('"')
	if s.pos < len(s.buf) && s.buf[s.pos] == '-' {
		v.Negative = true
		s.pos++
	}
	start := s.pos
	for s.pos < len(s.buf) && s.buf[s.pos]-'0' <= 9 {
		s.pos++
	}
	digits := s.buf[start:s.pos]
	v.Int, ok = parseUint(digits)
	if !ok || len(digits) > 1 && digits[0] == '0' {
		return Value{}, false
	}
	if v.Negative {
		if v.Int > 1<<63 {
			return Value{}, false
		}
		v.Negative = v.Int != 0
		v.Int = -v.Int
	}
	if quoted {
		if s.pos == len(s.buf) || s.buf[s.pos] != '"' {
			return Value{}, false
		}
		s.pos++
	}
	return v, true
}

// escapeLen returns the length of the JSON escape that b begins with, or 0.
func escapeLen(b []byte) int {
	if len(b) < 2 || b[0] != '\\' {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if _, ok := hex(b[2:], 4); ok {
			return 6
		}
	}
	return 0
}

// unescape returns the bytes that a checked JSON string stands for: raw itself when it has no escapes.
func unescape(raw []byte) []byte {
	i := bytes.IndexByte(raw, '\\')
	if i < 0 {
		return raw
	}
	out := append(make([]byte, 0, len(raw)), raw[:i]...)
	for i < len(raw) {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			i++
			continue
		}
		var n int
		out, n = appendEscape(out, raw[i:])
		i += n
	}
	return out
}

// appendEscape appends what the escape that b begins with stands for, and returns the length of the escape.
func appendEscape(out, b []byte) ([]byte, int) {
	switch b[1] {
	case 'b':
		return append(out, '\b'), 2
	case 'f':
		return append(out, '\f'), 2
	case 'n':
		return append(out, '\n'), 2
	case 'r':
		return append(out, '\r'), 2
	case 't':
		return append(out, '\t'), 2
	case 'u':
		return appendRune(out, b)
	}
	return append(out, b[1]), 2
}

// appendRune appends the character of a \u escape, or the byte of bpftrace's \uffffffc3: its C++ prints a
// char above 0x7f as a negative int.
func appendRune(out, b []byte) ([]byte, int) {
	const mangled = `\uffffff`
	if len(b) >= len(mangled) && string(b[:len(mangled)]) == mangled {
		if c, ok := hex(b[len(mangled):], 2); ok && c >= utf8.RuneSelf {
			return append(out, byte(c)), len(mangled) + 2
		}
	}
	r, _ := hex(b[2:], 4)
	if utf16.IsSurrogate(r) {
		if len(b) > 7 && b[6] == '\\' && b[7] == 'u' {
			low, _ := hex(b[8:], 4)
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				return utf8.AppendRune(out, pair), 12
			}
		}
		r = utf8.RuneError
	}
	return utf8.AppendRune(out, r), 6
}

// unmangle makes bytes of what is left of bpftrace's \uffffffc3 after an unescape: key itself when nothing is.
func unmangle(key []byte) []byte {
	const mangled = `\uffffff`
	at := bytes.Index(key, []byte(mangled))
	if at < 0 {
		return key
	}
	out := append(make([]byte, 0, len(key)), key[:at]...)
	for rest := key[at:]; len(rest) > 0; {
		if after, ok := bytes.CutPrefix(rest, []byte(mangled)); ok {
			if c, ok := hex(after, 2); ok && c >= utf8.RuneSelf {
				out, rest = append(out, byte(c)), after[2:]
				continue
			}
		}
		out, rest = append(out, rest[0]), rest[1:]
	}
	return out
}

// UnescapeBuf undoes bpftrace's formats %r and %rx of a buf(): \x0a, two small hexadecimal digits, is that byte, and all
// else stays. It returns b itself when there is nothing to undo. %r leaves a backslash of the data as it is, so that data
// of its own can look like an escape; %rx, where every byte is an escape, has no such ambiguity.
func UnescapeBuf(b []byte) []byte {
	var out []byte
	done := 0
	for i := 0; i+4 <= len(b); {
		if b[i] != '\\' || b[i+1] != 'x' {
			i++
			continue
		}
		c, ok := hex(b[i+2:], 2)
		if !ok || !lowerHex(b[i+2]) || !lowerHex(b[i+3]) {
			i++
			continue
		}
		if out == nil {
			out = make([]byte, 0, len(b))
		}
		out = append(append(out, b[done:i]...), byte(c))
		i += 4
		done = i
	}
	if out == nil {
		return b
	}
	return append(out, b[done:]...)
}

// hex reads n hexadecimal digits.
func hex(b []byte, n int) (v rune, ok bool) {
	if len(b) < n {
		return 0, false
	}
	for _, c := range b[:n] {
		switch {
		case c-'0' <= 9:
			v = v<<4 | rune(c-'0')
		case c|0x20-'a' <= 5:
			v = v<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

func lowerHex(c byte) bool { return c < 'A' || c > 'F' }

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// MapName returns the name, with its @, of the map that a line begins to show,
// without a look at the rest: bpftrace prints maps that nobody asked for when it
// ends, and some of types that [ParseBPFtrace] does not take.
func MapName(line []byte) ([]byte, bool) {
	for _, kind := range []string{"map", "stats", "hist"} {
		rest, ok := bytes.CutPrefix(line, []byte(`{"type": "`+kind+`", "data": {"`))
		if !ok {
			continue
		}
		name, _, ok := bytes.Cut(rest, []byte(`"`))
		return name, ok && bytes.HasPrefix(name, []byte("@"))
	}
	return nil, false
}
