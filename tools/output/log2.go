package output

import (
	"bytes"
	"strings"
)

// Histogram is one log2 histogram as a tool printed it: the counts of one interval.
type Histogram struct {
	Section []KV   // what it is of, as in "disk = vda"; empty when the tool prints one for all
	Unit    string // "usecs", "msecs", "nsecs"
	Slots   []Slot // ascending and without gaps
}

// KV is a key and its value in a [Histogram]'s section.
type KV struct{ Key, Value string }

// Slot counts the values from Low to High, both as printed and inclusive, in the histogram's unit after
// truncation to integers: the slot 2 -> 3 usecs holds all of [2, 4) microseconds. The last slot that a tool has
// (2^26 -> 2^27-1 in libbpf-tools) also holds what is above it.
type Slot struct{ Low, High, Count uint64 }

// maxSlots is one for each bit of the values.
const maxSlots = 64

// Log2 decodes the log2 histograms of bcc (src/python/bcc/table.py), also as the Python dicts of -j, and of libbpf-tools
// (trace_helpers.c).
//
// Neither prints an end: the blank line or section that ends the last histogram of an interval comes with the next
// interval. A caller that wants it sooner calls [Log2.Idle] when the tool has been silent for a while, say 200 ms.
//
// A histogram is emitted whole or not at all, and each that is not emitted costs an error. A section can hold a user's string
// ("pid = 12 comm"); whatever newlines are in it, no count goes to another section.
type Log2 struct {
	emit  func(Histogram)
	state log2State
	// sectioned is set by the first section. From then on a histogram without one is an error.
	sectioned bool
	section   []KV
	unit      string
	slots     []Slot
	next      uint64 // Low of the slot that continues the histogram; 0 before the first
	emitted   bool   // Idle has emitted the slots before next
}

type log2State int

const (
	betweenHists log2State = iota
	afterSection
	inHist
	droppingHist  // up to the end of the next histogram
	droppingSlots // up to the end of this one
)

// NewLog2 returns a decoder that calls emit, from within its methods, for each histogram. What it is given is emit's to
// keep.
func NewLog2(emit func(Histogram)) *Log2 { return &Log2{emit: emit} }

// Line takes the next line. The error wraps [ErrLine]: the line is none of those that these tools print, or it costs
// a histogram.
func (l *Log2) Line(line []byte) error {
	text := bytes.TrimRight(line, " \t")
	switch {
	case len(text) == 0 || isTimestamp(text) || isAverage(text) || isBanner(text):
		return l.end(line)
	case text[0] == '{':
		return l.dict(text)
	case text[0] == ' ' && text[len(text)-1] == '|':
		return l.slot(text)
	case text[0] == ' ':
		return l.header(text)
	}
	return l.sectionLine(line)
}

// Idle emits the histogram that is open, if it can be complete: the last slot that a tool prints is never empty. Should
// more slots come after all, they are emitted as another histogram of the same section, which begins where this
// one ends.
func (l *Log2) Idle() {
	if l.state == inHist && l.complete() {
		l.finish()
		l.emitted = true
	}
}

// Flush ends the output. The error tells of a histogram cut short.
func (l *Log2) Flush() error {
	err := l.end(nil)
	l.state = betweenHists
	return err
}

// end ends the histogram that is open.
func (l *Log2) end(line []byte) error {
	switch l.state {
	case inHist:
		l.state = betweenHists
		switch {
		case l.complete():
			l.finish()
		case !l.emitted || len(l.slots) > 0:
			return lineError(line, "histogram cut short")
		}
	case afterSection:
		l.state = droppingHist
		return lineError(line, "section without a histogram")
	case droppingSlots:
		l.state = betweenHists
	}
	return nil
}

func (l *Log2) complete() bool {
	return len(l.slots) > 0 && l.slots[len(l.slots)-1].Count > 0
}

func (l *Log2) finish() {
	l.emit(Histogram{Section: l.section, Unit: l.unit, Slots: l.slots})
	l.slots = nil
}

// sectionLine takes "disk = vda", before which libbpf-tools' -F prints no blank line.
func (l *Log2) sectionLine(line []byte) error {
	section := parseSection(line)
	if section == nil {
		return l.unexpected(line, "not part of a histogram")
	}
	if l.state == afterSection {
		l.state = droppingHist
		return lineError(line, "section without a histogram")
	}
	err := l.end(line)
	if l.state == betweenHists {
		l.state, l.section, l.sectioned = afterSection, section, true
	}
	return err
}

// header takes "     usecs               : count    distribution".
func (l *Log2) header(line []byte) error {
	unit, ok := parseHeader(line)
	if !ok {
		return l.unexpected(line, "not part of a histogram")
	}
	var err error
	if l.state != afterSection {
		if err = l.end(line); l.state == droppingHist {
			return err
		}
		if l.sectioned {
			l.state = droppingHist
			return lineError(line, "histogram without a section")
		}
		l.section = nil
	}
	l.state, l.unit, l.next, l.emitted = inHist, unit, 0, false
	l.slots = make([]Slot, 0, 32)
	return err
}

func (l *Log2) slot(line []byte) error {
	switch l.state {
	case droppingHist, droppingSlots:
		l.state = droppingSlots
		return nil
	case inHist:
		s, ok := parseSlot(line)
		if ok && l.add(s) {
			return nil
		}
	}
	l.state = droppingSlots
	return lineError(line, "not the next slot of a histogram")
}

func (l *Log2) add(s Slot) bool {
	if !s.valid() || l.next != 0 && s.Low != l.next || len(l.slots) == maxSlots {
		return false
	}
	l.next = s.High + 1
	l.slots = append(l.slots, s)
	return true
}

// unexpected drops the histogram that the line is in, or in whose section it is.
func (l *Log2) unexpected(line []byte, reason string) error {
	switch l.state {
	case inHist:
		l.state = droppingSlots
	case afterSection:
		l.state = droppingHist
	}
	return lineError(line, reason)
}

// dict takes a whole histogram as bcc's -j prints it: a dict of Python, which is not JSON.
func (l *Log2) dict(line []byte) error {
	h, ok := parseDict(line)
	if !ok {
		return l.unexpected(line, "not a histogram of bcc's -j")
	}
	err := l.end(line)
	if len(h.Slots) > 0 {
		l.emit(h)
	}
	return err
}

// valid tells whether a slot is 0 -> 1, 2 -> 3, 4 -> 7 and so on.
func (s Slot) valid() bool {
	if s.Low == 0 {
		return s.High == 1
	}
	return s.Low != 1 && s.Low&(s.Low-1) == 0 && s.High == s.Low-1+s.Low
}

func parseSlot(line []byte) (s Slot, ok bool) {
	t := tokens{line}
	t.blanks()
	s.Low = t.number()
	t.take(" -> ")
	s.High = t.number()
	t.blanks()
	t.take(": ")
	s.Count = t.number()
	t.blanks()
	t.take("|")
	return s, isBar(t.rest)
}

// isBar tells whether b ends a slot: no user's string, at most 15 bytes, can forge that.
func isBar(b []byte) bool {
	bar, ok := bytes.CutSuffix(b, []byte("|"))
	return ok && (len(bar) == 40 || len(bar) == 20) && len(bytes.Trim(bar, "*+ ")) == 0
}

func parseHeader(line []byte) (unit string, ok bool) {
	t := tokens{line}
	t.blanks()
	word, columns, ok := bytes.Cut(t.rest, []byte(" "))
	if !ok {
		return "", false
	}
	t = tokens{columns}
	t.blanks()
	t.take(": count")
	t.blanks()
	t.take("distribution")
	return string(word), t.rest != nil && len(t.rest) == 0
}

// parseSection takes "key = value". A disk can share its line with flags, and some versions of bcc print it as Python's bytes.
func parseSection(line []byte) []KV {
	key, value, ok := bytes.Cut(line, []byte(" = "))
	if !ok || !isName(string(key)) {
		return nil
	}
	if string(key) != "disk" {
		return []KV{{string(key), string(value)}}
	}
	disk, more, _ := bytes.Cut(value, []byte("\t"))
	section := []KV{{"disk", unquoteBytes(string(disk))}}
	if len(more) > 0 {
		flags := parseSection(more)
		if flags == nil {
			return nil
		}
		section = append(section, flags...)
	}
	return section
}

func unquoteBytes(s string) string {
	if inner, ok := strings.CutPrefix(s, "b'"); ok && strings.HasSuffix(inner, "'") {
		return strings.TrimSuffix(inner, "'")
	}
	return s
}

func parseDict(line []byte) (h Histogram, ok bool) {
	t := tokens{line}
	t.take("{'ts': ")
	t.quoted()
	t.take(", 'val_type': ")
	h.Unit = t.quoted()
	t.take(", 'data': [")
	l := Log2{}
	for !t.found("]") {
		if len(l.slots) > 0 {
			t.take(", ")
		}
		var s Slot
		t.take("{'interval-start': ")
		s.Low = t.number()
		t.take(", 'interval-end': ")
		s.High = t.number()
		t.take(", 'count': ")
		s.Count = t.number()
		t.take("}")
		if t.rest == nil || !l.add(s) {
			return Histogram{}, false
		}
	}
	h.Slots = l.slots
	for t.found(", ") && len(h.Section) < 4 {
		key := t.quoted()
		t.take(": ")
		h.Section = append(h.Section, KV{key, t.quoted()})
	}
	t.take("}")
	return h, t.rest != nil && len(t.rest) == 0
}

// tokens takes known text off the front of a line. After anything else, rest is nil and stays so.
type tokens struct{ rest []byte }

func (t *tokens) found(s string) bool {
	if rest, ok := bytes.CutPrefix(t.rest, []byte(s)); ok {
		t.rest = rest
		return true
	}
	return false
}

func (t *tokens) take(s string) {
	if !t.found(s) {
		t.rest = nil
	}
}

func (t *tokens) blanks() {
	if t.rest != nil {
		t.rest = bytes.TrimLeft(t.rest, " ")
	}
}

func (t *tokens) number() uint64 {
	i := 0
	for i < len(t.rest) && t.rest[i]-'0' <= 9 {
		i++
	}
	n, ok := parseUint(t.rest[:i])
	if !ok {
		t.rest = nil
		return 0
	}
	t.rest = t.rest[i:]
	return n
}

// quoted takes a Python string, or bytes, that needs no escapes.
func (t *tokens) quoted() string {
	t.found("b")
	t.take("'")
	s, rest, ok := bytes.Cut(t.rest, []byte("'"))
	if !ok || bytes.IndexByte(s, '\\') >= 0 {
		t.rest = nil
		return ""
	}
	t.rest = rest
	return string(s)
}

// isTimestamp recognises the line that -T adds: 17:36:20.
func isTimestamp(b []byte) bool {
	if len(b) != len("17:36:20") {
		return false
	}
	for i, c := range b {
		if i%3 == 2 && c != ':' || i%3 != 2 && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// isAverage recognises the line that bcc's biolatency -e adds: avg = 192 usecs, total: 20583 usecs, count: 107.
func isAverage(b []byte) bool {
	return bytes.HasPrefix(b, []byte("avg = ")) && bytes.Contains(b, []byte(", total: ")) && bytes.Contains(b, []byte(", count: "))
}

func isBanner(b []byte) bool {
	return bytes.HasPrefix(b, []byte("Tracing ")) && bytes.HasSuffix(b, []byte("Hit Ctrl-C to end."))
}
