package tools

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bpf_tools_exporter/tools/output"
)

// unknown is the value of a label that a source cannot tell.
const unknown = "unknown"

// An expression computes a field from a source's columns: a column's name, a
// 'literal', or a function of those. See functions for what there is.
type expression interface {
	value(columns []string) string
}

type columnExpression int

func (c columnExpression) value(columns []string) string { return columns[c] }

type literalExpression string

func (l literalExpression) value([]string) string { return string(l) }

type callExpression struct {
	call func(args []string) string
	args []expression
}

func (c callExpression) value(columns []string) string {
	args := make([]string, len(c.args))
	for i, arg := range c.args {
		args[i] = arg.value(columns)
	}
	return c.call(args)
}

// chooseArgs stands for a value and any number of pairs.
const chooseArgs = -1

type function struct {
	args int // how many, or chooseArgs
	call func(args []string) string
}

// functions are what a definition's "set" may call. Each takes and gives
// strings and yields "unknown" or "" for what it cannot make sense of.
var functions = map[string]function{
	"comm":         {2, func(a []string) string { return commName(a[0], a[1]) }},
	"argv":         {1, func(a []string) string { return argv(a[0]) }},
	"errno":        {1, func(a []string) string { return errnoName(a[0]) }},
	"device":       {1, func(a []string) string { return deviceName(a[0]) }},
	"flags":        {1, func(a []string) string { return flagsOperation(a[0]) }},
	"address":      {1, func(a []string) string { return address(a[0]) }},
	"family":       {1, func(a []string) string { return family(a[0]) }},
	"direction":    {2, func(a []string) string { return direction(a[0], a[1]) }},
	"service_port": {3, func(a []string) string { return servicePort(a[0], a[1], a[2]) }},
	"tcp_state":    {1, func(a []string) string { return tcpState(a[0]) }},
	"path":         {1, func(a []string) string { return cString(a[0]) }},
	"skip":         {2, func(a []string) string { return skip(a[0], a[1]) }},
	"rwbs":         {1, func(a []string) string { return rwbsOperation(a[0]) }},
	"exit_status":  {1, func(a []string) string { status, _ := exitStatus(a[0]); return status }},
	"exit_signal":  {1, func(a []string) string { _, signal := exitStatus(a[0]); return signal }},
	"syscall":      {1, func(a []string) string { return syscallName(a[0]) }},
	"number":       {1, func(a []string) string { return number(a[0]) }},
	"offset":       {1, func(a []string) string { return offset(a[0]) }},
	"sum":          {2, func(a []string) string { return sum(a[0], a[1]) }},
	"scale":        {2, func(a []string) string { return scale(a[0], a[1]) }},
	"choose":       {chooseArgs, choose},
}

func functionNames() string {
	names := make([]string, 0, len(functions))
	for name := range functions {
		names = append(names, name)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

var expressionToken = regexp.MustCompile(`^\s*('[^']*'|[a-z_][a-z0-9_]*|[(),])`)

// parseExpression reads "name", "'literal'" or "function(argument, ...)".
func parseExpression(text string, columns []string) (expression, error) {
	e, rest, err := parseTerm(text, columns)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(rest) != "" {
		return nil, fmt.Errorf("unexpected %q after %q", strings.TrimSpace(rest), strings.TrimSpace(text[:len(text)-len(rest)]))
	}
	return e, nil
}

func parseTerm(text string, columns []string) (expression, string, error) {
	m := expressionToken.FindStringSubmatch(text)
	if m == nil || strings.ContainsAny(m[1][:1], "(),") {
		return nil, "", fmt.Errorf("%q: want a column, a 'literal' or a function", strings.TrimSpace(text))
	}
	token, rest := m[1], text[len(m[0]):]
	if token[0] == '\'' {
		return literalExpression(token[1 : len(token)-1]), rest, nil
	}
	if next := expressionToken.FindStringSubmatch(rest); next != nil && next[1] == "(" {
		return parseCall(token, rest[len(next[0]):], columns)
	}
	for i, column := range columns {
		if column == token {
			return columnExpression(i), rest, nil
		}
	}
	return nil, "", fmt.Errorf("no column %q; there are: %s", token, strings.Join(columns, ", "))
}

func parseCall(name, rest string, columns []string) (expression, string, error) {
	f, ok := functions[name]
	if !ok {
		return nil, "", fmt.Errorf("no function %q; there are: %s", name, functionNames())
	}
	call := callExpression{call: f.call}
	for {
		arg, after, err := parseTerm(rest, columns)
		if err != nil {
			return nil, "", err
		}
		call.args = append(call.args, arg)
		m := expressionToken.FindStringSubmatch(after)
		if m == nil || (m[1] != "," && m[1] != ")") {
			return nil, "", fmt.Errorf("%s(...): want , or ) at %q", name, strings.TrimSpace(after))
		}
		rest = after[len(m[0]):]
		if m[1] == ")" {
			break
		}
	}
	switch n := len(call.args); {
	case f.args == chooseArgs && (n < 3 || n%2 == 0):
		return nil, "", fmt.Errorf("%s takes a value and then pairs, not %d arguments", name, n)
	case f.args != chooseArgs && n != f.args:
		return nil, "", fmt.Errorf("%s takes %d arguments, not %d", name, f.args, n)
	}
	return call, rest, nil
}

// integer reads what bpftrace prints for a 64-bit integer: some versions print
// the same bits as a negative number.
func integer(s string) (uint64, bool) {
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return n, true
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return uint64(n), err == nil
}

// commName decodes task_struct.comm (16 bytes, NUL-terminated) from two
// integers in the byte order of the host, the little-endian one.
func commName(low, high string) string {
	l, ok1 := integer(low)
	h, ok2 := integer(high)
	if !ok1 || !ok2 {
		return unknown
	}
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], l)
	binary.NativeEndian.PutUint64(b[8:], h)
	end := 0
	for end < len(b) && b[end] != 0 {
		end++
	}
	if end == 0 {
		return unknown
	}
	return string(b[:end])
}

// argv decodes what bpftrace's %rx prints of a process's arguments: NULs lie
// between them.
func argv(s string) string {
	raw := output.UnescapeBuf([]byte(s))
	return strings.TrimRight(strings.ReplaceAll(string(raw), "\x00", " "), " ")
}

// cString decodes what bpftrace's %rx prints of a C string: it ends at its NUL,
// behind which is whatever was there. One without a NUL is cut.
func cString(s string) string {
	raw, _, whole := strings.Cut(string(output.UnescapeBuf([]byte(s))), "\x00")
	if !whole && raw != "" {
		raw += "..."
	}
	return raw
}

// skip leaves the first bytes out of what bpftrace's %rx prints.
func skip(s, bytes string) string {
	n, err := strconv.ParseUint(bytes, 10, 16)
	if err != nil {
		return ""
	}
	return s[min(int(n)*len(`\x00`), len(s)):]
}

// errnoName gives "success" for 0 and an errno's name for it or its negative.
func errnoName(s string) string {
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil:
		return unknown
	case n == 0:
		return "success"
	case n < 0:
		n = -n
	}
	if name := unix.ErrnoName(unix.Errno(n)); name != "" {
		return name
	}
	return strconv.FormatInt(n, 10)
}

// blockDevices has a link for each block device by its numbers. Tests, which run
// on many hosts, look elsewhere.
var blockDevices = "/sys/dev/block/"

// deviceName gives the name of a disk by the kernel's dev_t (MAJOR << 20 |
// MINOR, include/linux/kdev_t.h), from /sys/dev/block. A device that is gone
// is called by its numbers.
func deviceName(dev string) string {
	n, ok := integer(dev)
	if !ok {
		return unknown
	}
	number := fmt.Sprintf("%d:%d", n>>20, n&(1<<20-1))
	target, err := os.Readlink(blockDevices + number)
	if err != nil {
		return number
	}
	return strings.ReplaceAll(filepath.Base(target), "!", "/")
}

// flagsOperation tells what a request does from the flags that biolatency -F
// prints, such as "Sync-Write" or "NoMerge-Idle-Read".
func flagsOperation(flags string) string {
	for _, part := range strings.Split(flags, "-") {
		switch part {
		case "Read", "ReadAhead":
			return "read"
		case "Write":
			return "write"
		case "Discard":
			return "discard"
		case "Flush":
			return "flush"
		}
	}
	return "other"
}

// rwbsOperation tells what a request does from blktrace's flags, such as "RA" or
// "FWS", in which an F before the W is a flush ahead of the write.
func rwbsOperation(flags string) string {
	if len(flags) > 1 && flags[0] == 'F' && flags[1] == 'W' {
		return "write"
	}
	if flags == "" {
		return unknown
	}
	switch flags[0] {
	case 'R':
		return "read"
	case 'W':
		return "write"
	case 'D':
		return "discard"
	case 'F':
		return "flush"
	}
	return other
}

// exitStatus tells how a process ended from the code of wait(2), or from what
// exitsnoop prints: "0", "code 3", "signal 9 (KILL), core dumped".
func exitStatus(s string) (status, signal string) {
	const none = "none"
	s = strings.TrimSpace(s)
	if code, ok := strings.CutPrefix(s, "code "); ok {
		if n, err := strconv.ParseUint(code, 10, 8); err == nil {
			return strconv.FormatUint(n, 10), none
		}
		return unknown, unknown
	}
	if text, ok := strings.CutPrefix(s, "signal "); ok {
		number, _, _ := strings.Cut(text, " ")
		if n, err := strconv.ParseUint(number, 10, 7); err == nil {
			return "signal", signalName(int(n))
		}
		return unknown, unknown
	}
	code, err := strconv.ParseUint(s, 10, 16)
	switch {
	case err != nil:
		return unknown, unknown
	case code&0x7f != 0:
		return "signal", signalName(int(code & 0x7f))
	}
	return strconv.FormatUint(code>>8, 10), none
}

func signalName(n int) string {
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", n)
}

// syscallName gives the name of a system call of this architecture by its
// number, or by what syscount prints: the name, or [unknown: 451] for a number
// that it does not know.
func syscallName(s string) string {
	if text, ok := strings.CutPrefix(s, "[unknown: "); ok {
		s = strings.TrimSuffix(text, "]")
	} else if fieldName.MatchString(s) {
		return s
	}
	n, ok := integer(s)
	if !ok || int64(n) < 0 {
		return unknown
	}
	if name := syscallNames[n]; name != "" {
		return name
	}
	return fmt.Sprintf("syscall_%d", n)
}

func address(s string) string {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return unknown
	}
	return a.Unmap().WithZone("").String()
}

func family(s string) string {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return unknown
	case a.Unmap().Is4():
		return "ipv4"
	}
	return "ipv6"
}

// direction guesses who opened a session, for tools that do not say: a port from
// the range that this kernel takes clients' ports from is a client's, and if that
// tells nothing the lower port is the service's. Of two ports from the range
// either can be the client's.
func direction(lport, rport string) string {
	l, err1 := strconv.Atoi(lport)
	r, err2 := strconv.Atoi(rport)
	ours, theirs := localPorts().hold(l), localPorts().hold(r)
	switch {
	case err1 != nil || err2 != nil || l == r || ours && theirs:
		return unknown
	case theirs || !ours && l < r:
		return "inbound"
	}
	return "outbound"
}

type portRange struct{ low, high int }

func (p portRange) hold(port int) bool { return p.low <= port && port <= p.high }

// localPorts is net.ipv4.ip_local_port_range, from which the kernel takes the
// ports of both families when a program asks for none (Documentation/networking/ip-sysctl.rst).
var localPorts = sync.OnceValue(func() portRange {
	p := portRange{32768, 60999} // the kernel's default
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &p.low, &p.high)
	}
	return p
})

// servicePort is the port of the side that was connected to.
func servicePort(direction, lport, rport string) string {
	switch direction {
	case "inbound":
		return lport
	case "outbound":
		return rport
	}
	l, err1 := strconv.Atoi(lport)
	r, err2 := strconv.Atoi(rport)
	if err1 != nil || err2 != nil {
		return unknown
	}
	return strconv.Itoa(min(l, r))
}

// tcpStates are those of include/net/tcp_states.h, by number.
var tcpStates = []string{"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
	"TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"}

func tcpState(s string) string {
	n, err := strconv.Atoi(s)
	if err == nil && n > 0 && n < len(tcpStates) {
		return tcpStates[n]
	}
	for _, name := range tcpStates {
		if name == s && s != "" {
			return s
		}
	}
	return unknown
}

// number is an integer, or nothing.
func number(s string) string {
	if _, err := strconv.ParseInt(s, 10, 64); err != nil {
		return ""
	}
	return s
}

// sum and scale give what is no number back as it is, for others to stumble
// over. In a sum, what is below zero is unknown and counts nothing: biosnoop
// prints -1 for a time in a queue that it has not seen.
func sum(s, t string) string {
	n, err1 := strconv.ParseFloat(s, 64)
	m, err2 := strconv.ParseFloat(t, 64)
	if err1 != nil || err2 != nil {
		return s
	}
	return decimal(max(n, 0) + max(m, 0))
}

func scale(s, factor string) string {
	n, err1 := strconv.ParseFloat(s, 64)
	f, err2 := strconv.ParseFloat(factor, 64)
	if err1 != nil || err2 != nil {
		return s
	}
	return decimal(n * f)
}

// decimal writes a number with the 15 digits that stand for sure.
func decimal(n float64) string {
	if math.IsInf(n, 0) {
		n = math.NaN()
	}
	if n == math.Trunc(n) && math.Abs(n) < 1e15 {
		return strconv.FormatFloat(n, 'f', -1, 64)
	}
	return strconv.FormatFloat(n, 'g', 15, 64)
}

// offset is where on a disk a sector is, in bytes: nowhere for a request that
// has none, such as a flush.
func offset(sector string) string {
	if strings.HasPrefix(sector, "-") {
		return ""
	}
	return scale(sector, "512")
}

// choose(x, 'a', 'A', 'b', 'B') is A for x = a, B for x = b, else unknown.
func choose(a []string) string {
	for i := 1; i+1 < len(a); i += 2 {
		if a[0] == a[i] {
			return a[i+1]
		}
	}
	return unknown
}
