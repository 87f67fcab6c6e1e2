package output

import "bytes"

// Losses tells whether a whole line says that a tool lost events, and how many since it last said so. It knows
//
//	Lost N events              bpftrace, on stdout up to 0.23 and on stderr from 0.24
//	{"type": "lost_events" …}  bpftrace -f json
//	Lost N events on CPU #M!   libbpf-tools, with a small l and without the ! in some
//	Possibly lost N samples    bcc (src/cc/perf_reader.c)
//
// Tools with a ring buffer (bcc from 0.21, newer libbpf-tools) lose events without a word. On the stdout of a tool that
// prints command lines raw, a user can write such a line himself: there, believe stderr alone.
func Losses(line []byte) (n uint64, ok bool) {
	if len(line) > 0 && line[0] == '{' {
		m, err := ParseBPFtrace(line)
		if err != nil || m.Kind != KindLostEvents {
			return 0, false
		}
		return m.Count, true
	}
	if rest, found := bytes.CutPrefix(line, []byte("Possibly lost ")); found {
		return countBefore(rest, " samples")
	}
	rest, found := bytes.CutPrefix(line, []byte("Lost "))
	if !found {
		rest, found = bytes.CutPrefix(line, []byte("lost "))
	}
	if !found {
		return 0, false
	}
	if before, cpu, found := bytes.Cut(rest, []byte(" on CPU #")); found {
		if _, ok := parseUint(bytes.TrimSuffix(cpu, []byte("!"))); !ok {
			return 0, false
		}
		rest = before
	}
	return countBefore(rest, " events")
}

func countBefore(b []byte, unit string) (n uint64, ok bool) {
	digits, found := bytes.CutSuffix(b, []byte(unit))
	if !found {
		return 0, false
	}
	return parseUint(digits)
}
