package output

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// CSV decodes comma-separated values as RFC 4180 has them, the first line of which names the columns. A record is one
// line: a quoted field cannot hold a newline here, as who leaves a quote open would take the next records with it.
//
// It keeps the header of the output that it has seen: use one for each run of a tool, from one goroutine.
type CSV struct {
	columns []column
	names   []string
	headers headers
	header  []string // as printed; nil before it was
	at      []int    // the field of each column
}

// NewCSV returns the decoder of the columns that matter, separated by blanks, in any order:
//
//	task              a value, called as in the header, but in small letters and with _ for all that is neither
//	                  letter nor digit: latency_us for LATENCY_us, read_bytes for "Read bytes"
//	pid:int           of a type: int, float, percent, addr, or oneof(a,b), as [NewColumns] has them
//
// Lines equal to a header in headers are skipped, as with [NewColumns]; the line that names the columns is none of those.
func NewCSV(spec string, headers []string) (*CSV, error) {
	c := &CSV{}
	for _, token := range strings.Fields(spec) {
		col, err := parseColumn(token)
		switch {
		case err != nil:
			return nil, fmt.Errorf("column %q: %w", token, err)
		case col.width != 0 || col.kind == restColumn || col.kind == hostportColumn || col.kind == ignoredColumn:
			return nil, fmt.Errorf("column %q: want a name and perhaps a type: CSV has no widths and no rest of the line", token)
		case !isName(col.name):
			return nil, fmt.Errorf("column %q: %q is no name of a column", token, col.name)
		case slices.Contains(c.names, col.name):
			return nil, fmt.Errorf("column %q: %q is there twice", token, col.name)
		}
		c.columns = append(c.columns, col)
		c.names = append(c.names, col.name)
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

// Names returns the names of the values that [CSV.Decode] appends, in that order.
func (c *CSV) Names() []string { return slices.Clone(c.names) }

// Decode appends the values of a record, as [Columns.Decode] does. What comes before the header is in error, and so is a
// record of another number of fields than the header has.
func (c *CSV) Decode(line []byte, values []string) ([]string, error) {
	if c.headers.cover(line) {
		return nil, ErrSkip
	}
	r := csv.NewReader(bytes.NewReader(line))
	r.FieldsPerRecord = -1
	record, err := r.Read()
	if err != nil || r.InputOffset() < int64(len(line)) {
		return nil, lineError(line, "not a record of CSV")
	}
	if c.header == nil {
		if !c.learn(record) {
			return nil, lineError(line, "not a header with the columns "+strings.Join(c.names, ", "))
		}
		return nil, ErrSkip
	}
	if slices.Equal(record, c.header) {
		return nil, ErrSkip
	}
	if len(record) != len(c.header) {
		return nil, lineError(line, "more or fewer fields than the header")
	}
	for i, col := range c.columns {
		value, reason := col.accept(record[c.at[i]])
		if reason != "" {
			return nil, lineError(line, "column "+col.name+": "+reason)
		}
		values = append(values, value)
	}
	return values, nil
}

// learn takes the header, if the record can be one.
func (c *CSV) learn(record []string) bool {
	at := make([]int, len(c.names))
	for i, name := range c.names {
		if at[i] = slices.IndexFunc(record, func(s string) bool { return columnName(s) == name }); at[i] < 0 {
			return false
		}
	}
	c.header, c.at = record, at
	return true
}

// columnName is what a column is called whose header is s.
func columnName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, strings.TrimSpace(s))
}

// accept returns the value of a field, or why it is not what the column wants.
func (col *column) accept(field string) (value, reason string) {
	if col.kind == wordColumn {
		return field, ""
	}
	field = strings.TrimSpace(field)
	if field == "" {
		return "", "empty"
	}
	r := row{line: []byte(field), rest: -1}
	if reason := r.addWord(col, r.line, 0); reason != "" {
		return "", reason
	}
	values, ok := r.appendValues(nil)
	if !ok {
		return "", "not an address"
	}
	return values[0], ""
}
