package tools

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
)

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
	// Schema, whose upper bound is 2^(Index * 2^-Schema) seconds, inclusive.
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
	b.WriteString(`{"time":"`)
	b.WriteString(e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"))
	b.WriteByte('"')
	for i, field := range e.Fields {
		value := e.Values[i]
		if value == "" {
			continue
		}
		b.WriteString(`,"` + field.Name + `":`)
		if field.Type != "string" && isNumber(value) {
			b.WriteString(value)
			continue
		}
		if err := writeString(&b, value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// isNumber tells whether a value is a number as JSON writes them.
func isNumber(s string) bool {
	return (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && json.Valid([]byte(s))
}

// writeString writes a JSON string without escaping what only HTML minds.
func writeString(b *bytes.Buffer, s string) error {
	encoder := json.NewEncoder(b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(strings.ToValidUTF8(s, "\uFFFD")); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the newline that Encode adds
	return nil
}
