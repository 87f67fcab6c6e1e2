package tools

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
)

// TimeFormat is how the times of events, in UTC, are written.
const TimeFormat = "2006-01-02T15:04:05.000000Z"

// A Sample is an increase of one series, whatever tool and backend saw it.
type Sample struct {
	// Metric is the definition that the sample belongs to.
	Metric *Metric
	// Labels are the values of Metric.Labels, in order. They are valid only
	// during the call that passes the sample.
	Labels []string
	// Add is what a counter grows by, or the sum of a histogram.
	Add float64
	// Count is how many values fell into the bucket Index of native schema
	// Schema, whose upper bound is 2^(Index * 2^-Schema) seconds, inclusive. Of
	// a linear histogram it is the bucket from Index * Width * 2^Schema on, so
	// wide, with Width that of the metric and Index below LinearBuckets.
	Count  uint64
	Index  int
	Schema int
}

// A Sink takes the samples of all tools. Its methods are safe for concurrent
// use and do not keep their arguments.
type Sink interface {
	Sample(tool string, s Sample)
}

// An Event is one line that a tool printed: a time and a value for each field
// of the tool. An empty value is unknown.
type Event struct {
	Time   time.Time
	Fields Fields
	Values []string
}

// MarshalJSON writes the event as one object, the time first (RFC 3339, UTC)
// and then the fields in the tool's order; unknown ones are left out.
func (e Event) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`{"time":"` + e.Time.UTC().Format(TimeFormat) + `"`)
	if fields := e.FieldsJSON(nil); len(fields) > 2 {
		b.WriteByte(',')
		b.Write(fields[1 : len(fields)-1])
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// FieldsJSON writes the fields as one object, in the tool's order and without
// those that are unknown or to be left out.
func (e Event) FieldsJSON(leaveOut []string) []byte {
	b := bytes.NewBufferString("{")
	for i, field := range e.Fields {
		value := e.Values[i]
		if value == "" || slices.Contains(leaveOut, field.Name) {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + field.Name + `":`)
		if field.Type != "string" && isNumber(value) {
			b.WriteString(value)
			continue
		}
		writeString(b, value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// isNumber tells whether a value is a number as JSON writes them.
func isNumber(s string) bool {
	return (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && json.Valid([]byte(s))
}

// writeString writes a JSON string in which every character has a shape: what
// steers terminals, or reverses or hides text, is escaped.
func writeString(b *bytes.Buffer, s string) {
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(b, `\u%04x`, unit)
			}
		}
	}
	b.WriteByte('"')
}
