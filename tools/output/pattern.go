package output

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
)

// Pattern decodes lines that are no table: sentences such as oomkill's. It is immutable and safe for concurrent use.
type Pattern struct {
	line    *regexp.Regexp
	names   []string
	groups  []int
	headers headers
}

// NewPattern returns the decoder of lines that match a regular expression (RE2) as a whole. Its named groups are the
// values: `PID (?P<pid>[0-9]+)`. A dot matches any byte, so that a name of any bytes is matched. Lines equal to a header are skipped, as with
// [NewColumns].
func NewPattern(expression string, headers []string) (*Pattern, error) {
	if _, err := regexp.Compile(expression); err != nil {
		return nil, err // quotes what was given
	}
	line, err := regexp.Compile(`^(?s:` + expression + `)$`)
	if err != nil {
		return nil, err
	}
	p := &Pattern{line: line}
	for group, name := range line.SubexpNames() {
		switch {
		case name == "":
		case !isName(name):
			return nil, fmt.Errorf("%q is no name of a column", name)
		case slices.Contains(p.names, name):
			return nil, fmt.Errorf("%q is there twice", name)
		default:
			p.names, p.groups = append(p.names, name), append(p.groups, group)
		}
	}
	if len(p.names) == 0 {
		return nil, errors.New("no named groups, such as (?P<pid>[0-9]+)")
	}
	p.headers, err = newHeaders(headers)
	return p, err
}

// Names returns the names of the values that [Pattern.Decode] appends, in that order.
func (p *Pattern) Names() []string { return slices.Clone(p.names) }

// Decode appends the values of a line, as [Columns.Decode] does.
func (p *Pattern) Decode(line []byte, values []string) ([]string, error) {
	if p.headers.cover(line) {
		return nil, ErrSkip
	}
	at := p.line.FindSubmatchIndex(line)
	if at == nil {
		return nil, lineError(line, "does not match the pattern")
	}
	for _, group := range p.groups {
		if at[2*group] < 0 { // an optional group that is not there
			values = append(values, "")
			continue
		}
		values = append(values, string(line[at[2*group]:at[2*group+1]]))
	}
	return values, nil
}
