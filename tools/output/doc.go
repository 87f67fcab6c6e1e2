// Package output decodes what BPF tools print: the columns of libbpf-tools and bcc, their log2
// histograms, the JSON of bpftrace, and the lines in which all of them admit lost events.
//
// The decoders are functions of lines, given without their line end. They know nothing of processes,
// tool definitions or metrics: a value comes out as it was printed, and what it measures is for the
// caller to say.
//
// All input is hostile. Any local user chooses the names of programs and their arguments, and
// most tools print them raw, newlines included. A line that does not fit is an error that wraps
// [ErrLine], never a guess. One thing no decoder can see: a tool that prints a newline raw lets a user
// write whole lines of his own. Only sources that print no string of a user's choice are safe from it.
package output

import (
	"errors"
	"fmt"
)

// ErrLine is wrapped by the error for every line that a decoder cannot make sense of. The message quotes
// up to 80 bytes of that line, which can be part of a command line: it is not for logs.
var ErrLine = errors.New("unexpected line")

// quotedBytes bounds how much of a line an error quotes.
const quotedBytes = 80

func lineError(line []byte, reason string) error {
	if len(line) > quotedBytes {
		return fmt.Errorf("%w: %s: %q...", ErrLine, reason, line[:quotedBytes])
	}
	return fmt.Errorf("%w: %s: %q", ErrLine, reason, line)
}

// parseUint reads decimal digits and nothing else.
func parseUint(b []byte) (n uint64, ok bool) {
	const cutoff = (1<<64 - 1) / 10
	for _, c := range b {
		digit := uint64(c - '0')
		if digit > 9 || n > cutoff || n == cutoff && digit > 5 {
			return 0, false
		}
		n = n*10 + digit
	}
	return n, len(b) > 0
}
