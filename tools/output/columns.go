package output

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrSkip says that a line is no row: a header, a banner or a blank line.
var ErrSkip = errors.New("not a row")

// maxColumns bounds the values of a row, so that decoding one needs no memory of its own.
const maxColumns = 32

// Columns decodes the rows of a tool that prints a table. It is immutable and safe for concurrent use.
type Columns struct {
	columns []column
	names   []string
	headers headers
}

// A Decoder takes the rows of a table, one at a time. See [Columns.Decode].
type Decoder interface {
	Names() []string
	Decode(line []byte, values []string) ([]string, error)
}

type column struct {
	name    string
	kind    columnKind
	width   int
	allowed []string
}

type columnKind int

const (
	wordColumn columnKind = iota
	ignoredColumn
	intColumn
	floatColumn
	percentColumn
	addrColumn
	hostportColumn
	oneofColumn
	fixedColumn // width in bytes
	charsColumn // width in characters
	restColumn
)

var columnKinds = map[string]columnKind{
	"int": intColumn, "float": floatColumn, "percent": percentColumn, "addr": addrColumn, "hostport": hostportColumn,
}

func (k columnKind) numeric() bool { return k == intColumn || k == floatColumn || k == percentColumn }

// header is a line to skip, its blanks folded; as a prefix it also covers longer lines.
type header struct {
	text   string
	prefix bool
}

// NewColumns returns the decoder of a table with these columns, separated by blanks:
//
//	time                a word
//	_                   a word that is not decoded
//	pid:int             a decimal integer of 64 bits
//	ms:float            a decimal number
//	ratio:percent       a decimal number and a %, which is not part of the value
//	raddr:addr          an IPv4 or IPv6 address
//	laddr+lport:hostport  an address and a port, which are two values, and the last colon between them
//	kind:oneof(R>,L>)   one of these words
//	comm/16             exactly 16 bytes, less the blanks on the right, as C prints %-16s
//	comm/10c            exactly 10 characters, as Python prints %-10s
//	pid:int/7           any of the words above, filled with blanks to 7 bytes, as C prints %-7d: a fixed width that
//	                    follows such a column begins where it must even when it begins with a blank
//	args...             the rest of the line as it is, possibly empty; only as the last column
//
// Lines equal to a header are skipped, whatever the blanks between its words; a header that ends in ... covers all
// lines that begin with it.
func NewColumns(spec string, headers []string) (*Columns, error) {
	c := &Columns{}
	for _, token := range strings.Fields(spec) {
		if n := len(c.columns); n > 0 && c.columns[n-1].kind == restColumn {
			return nil, fmt.Errorf("column %q: comes after the rest of the line", token)
		}
		col, err := parseColumn(token)
		if err != nil {
			return nil, fmt.Errorf("column %q: %w", token, err)
		}
		c.columns = append(c.columns, col)
		if err := c.addNames(col); err != nil {
			return nil, fmt.Errorf("column %q: %w", token, err)
		}
	}
	if len(c.names) == 0 {
		return nil, errors.New("no columns")
	}
	if len(c.names) > maxColumns {
		return nil, fmt.Errorf("more than %d columns", maxColumns)
	}
	var err error
	c.headers, err = newHeaders(headers)
	return c, err
}

func (c *Columns) addNames(col column) error {
	names := []string{col.name}
	switch col.kind {
	case ignoredColumn:
		return nil
	case hostportColumn:
		host, port, ok := strings.Cut(col.name, "+")
		if !ok {
			return errors.New("wants two names, as in addr+port:hostport")
		}
		names = []string{host, port}
	}
	for _, name := range names {
		if !isName(name) {
			return fmt.Errorf("%q is no name of a column", name)
		}
		if slices.Contains(c.names, name) {
			return fmt.Errorf("%q is there twice", name)
		}
		c.names = append(c.names, name)
	}
	return nil
}

func isName(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

func parseColumn(token string) (column, error) {
	if token == "_" {
		return column{kind: ignoredColumn}, nil
	}
	if name, ok := strings.CutSuffix(token, "..."); ok {
		return column{name: name, kind: restColumn}, nil
	}
	name, kind, typed := strings.Cut(token, ":")
	if list, ok := strings.CutPrefix(kind, "oneof("); ok {
		words, ok := strings.CutSuffix(list, ")")
		if !ok || words == "" {
			return column{}, errors.New("wants words, as in kind:oneof(R>,L>)")
		}
		return column{name: name, kind: oneofColumn, allowed: strings.Split(words, ",")}, nil
	}
	if !typed {
		return parseWidth(name)
	}
	col := column{name: name}
	kind, width, padded := strings.Cut(kind, "/")
	var ok bool
	if col.kind, ok = columnKinds[kind]; !ok {
		return column{}, fmt.Errorf("unknown type %q", kind)
	}
	if padded {
		if col.width, ok = parseColumnWidth(width); !ok {
			return column{}, fmt.Errorf("width %q is not in 1..4096", width)
		}
	}
	return col, nil
}

func parseWidth(token string) (column, error) {
	name, width, fixed := strings.Cut(token, "/")
	if !fixed {
		return column{name: name, kind: wordColumn}, nil
	}
	col := column{name: name, kind: fixedColumn}
	digits, chars := strings.CutSuffix(width, "c")
	if chars {
		col.kind = charsColumn
	}
	var ok bool
	if col.width, ok = parseColumnWidth(digits); !ok {
		return column{}, fmt.Errorf("width %q is not in 1..4096", width)
	}
	return col, nil
}

func parseColumnWidth(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 1 && n <= 4096
}

// Names returns the names of the values that [Columns.Decode] appends, in that order.
func (c *Columns) Names() []string { return slices.Clone(c.names) }

// Decode appends the values of a row. The error is [ErrSkip] for a line that is no row, or wraps [ErrLine] for one that
// does not fit in every column; it then returns nil. The values of a row share memory: strings.Clone what is to stay.
func (c *Columns) Decode(line []byte, values []string) ([]string, error) {
	if c.headers.cover(line) {
		return nil, ErrSkip
	}
	r := row{line: line, rest: -1}
	for i := range c.columns {
		if reason := r.take(&c.columns[i]); reason != "" {
			return nil, lineError(line, "column "+c.columns[i].name+": "+reason)
		}
	}
	if r.blanks(); r.pos != len(line) {
		return nil, lineError(line, "more than the columns")
	}
	values, ok := r.appendValues(values)
	if !ok {
		return nil, lineError(line, "not an address")
	}
	return values, nil
}

// headers are the lines of a table that are no rows.
type headers []header

func newHeaders(lines []string) (headers, error) {
	var all headers
	for _, line := range lines {
		text, prefix := strings.CutSuffix(strings.Join(strings.Fields(line), " "), "...")
		if text == "" {
			return nil, fmt.Errorf("header %q covers every line", line)
		}
		all = append(all, header{text, prefix})
	}
	return all, nil
}

// cover tells whether a line is one of them, or blank.
func (all headers) cover(line []byte) bool {
	if len(bytes.Trim(line, " \t")) == 0 {
		return true
	}
	for _, h := range all {
		if h.covers(line) {
			return true
		}
	}
	return false
}

// covers compares the header with the line as if the line's blanks were folded.
func (h header) covers(line []byte) bool {
	line = bytes.Trim(line, " \t")
	for _, c := range []byte(h.text) {
		rest := line
		if c == ' ' {
			rest = bytes.TrimLeft(line, " \t")
		} else if len(line) > 0 && line[0] == c {
			rest = line[1:]
		}
		if len(rest) == len(line) {
			return false
		}
		line = rest
	}
	return h.prefix || len(line) == 0
}

// row is a line while its columns are taken off from the left.
type row struct {
	line  []byte
	pos   int
	exact bool // the column before pos had a width: no blanks but the separator follow it
	spans [maxColumns]span
	n     int // spans in use
	rest  int // where the rest of the line begins, or -1
}

// span is where a value is in the line.
type span struct {
	start, end int
	addr       bool
}

func (r *row) add(start, end int, addr bool) {
	r.spans[r.n] = span{start, end, addr}
	r.n++
}

// take takes one column, or says why it cannot.
func (r *row) take(col *column) (reason string) {
	first := r.pos == 0
	if !first && !r.separator() && (col.kind != restColumn || r.pos != len(r.line)) {
		return "no blank before it"
	}
	aligned := first || r.exact
	switch col.kind {
	case restColumn:
		r.rest, r.pos = r.pos, len(r.line)
		return ""
	case fixedColumn, charsColumn:
		if !aligned {
			r.blanks()
		}
		return r.takeFixed(col)
	}
	rightAligned := col.kind.numeric() && col.width == 0
	if !aligned || rightAligned {
		r.blanks()
	}
	return r.takeWord(col)
}

// separator takes the one blank that is printed between columns at least.
func (r *row) separator() bool {
	if r.pos == len(r.line) || r.line[r.pos] != ' ' {
		return false
	}
	r.pos++
	return true
}

func (r *row) blanks() {
	for r.separator() {
	}
}

func (r *row) takeFixed(col *column) (reason string) {
	width := col.width
	if col.kind == charsColumn {
		width = charsLen(r.line[r.pos:], col.width)
	}
	end := r.pos + width
	if end > len(r.line) {
		return "cut short"
	}
	if end < len(r.line) && r.line[end] != ' ' {
		return "wider than its width"
	}
	value := bytes.TrimRight(r.line[r.pos:end], " ")
	r.add(r.pos, r.pos+len(value), false)
	r.pos, r.exact = end, true
	return ""
}

// charsLen returns how many bytes n characters are: more than there are when b has fewer characters.
func charsLen(b []byte, n int) int {
	length := 0
	for ; n > 0; n-- {
		if length >= len(b) {
			return len(b) + 1
		}
		_, size := utf8.DecodeRune(b[length:])
		length += size
	}
	return length
}

func (r *row) takeWord(col *column) (reason string) {
	start := r.pos
	for r.pos < len(r.line) && !isBlank(r.line[r.pos]) {
		r.pos++
	}
	word := r.line[start:r.pos]
	if len(word) == 0 {
		return "empty"
	}
	if reason := r.addWord(col, word, start); reason != "" {
		return reason
	}
	for r.pos < start+col.width && r.pos < len(r.line) {
		if !r.separator() {
			return "narrower than its width"
		}
	}
	r.exact = col.width > 0
	return ""
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// addWord adds the values that a word holds, or says why it is not what the column wants.
func (r *row) addWord(col *column, word []byte, start int) (reason string) {
	end := start + len(word)
	switch col.kind {
	case ignoredColumn:
		return ""
	case intColumn:
		if !isInt(word) {
			return "not an integer"
		}
	case floatColumn:
		if !isFloat(word) {
			return "not a number"
		}
	case percentColumn:
		end--
		if word[len(word)-1] != '%' || !isFloat(word[:len(word)-1]) {
			return "not a percentage"
		}
	case oneofColumn:
		if !slices.ContainsFunc(col.allowed, func(s string) bool { return s == string(word) }) {
			return "not one of its words"
		}
	case hostportColumn:
		colon := bytes.LastIndexByte(word, ':')
		if port, ok := parseUint(word[colon+1:]); colon < 0 || !ok || port > 65535 {
			return "no port"
		}
		r.add(start, start+colon, true)
		r.add(start+colon+1, end, false)
		return ""
	}
	r.add(start, end, col.kind == addrColumn)
	return ""
}

// isInt accepts what fits in 64 bits, signed or not.
func isInt(b []byte) bool {
	digits := trimSign(b)
	n, ok := parseUint(digits)
	return ok && (b[0] != '-' || n <= 1<<63)
}

func isFloat(b []byte) bool {
	whole, fraction, point := bytes.Cut(trimSign(b), []byte("."))
	return isDigits(whole) && (!point || isDigits(fraction))
}

func trimSign(b []byte) []byte {
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		return b[1:]
	}
	return b
}

func isDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

// appendValues cuts the values out of two strings, one of them for the rest of the line, which can be long. It
// fails when what has to be an address is none.
func (r *row) appendValues(values []string) (_ []string, ok bool) {
	if r.n > 0 {
		head := string(r.line[:r.spans[r.n-1].end])
		for _, s := range r.spans[:r.n] {
			value := head[s.start:s.end]
			if s.addr && !isAddr(value) {
				return nil, false
			}
			values = append(values, value)
		}
	}
	if r.rest >= 0 {
		values = append(values, string(r.line[r.rest:]))
	}
	return values, true
}

func isAddr(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Zone() == ""
}
