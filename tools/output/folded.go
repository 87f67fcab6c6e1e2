package output

import (
	"bytes"
	"strings"
)

// Stack is a sampled call stack with how often it was seen. The frames begin with the outermost one. Frames that the tool
// could not name are called [UnknownFrame].
type Stack struct {
	Keys   []string // what stands in front of the frames: comm, or the key of a bpftrace map
	User   []string
	Kernel []string
	Count  uint64
}

// UnknownFrame is what bcc and libbpf-tools call a frame without a symbol.
const UnknownFrame = "[unknown]"

const (
	// maxFrames bounds the frames of a stack; the tools take 127 of each kind. The innermost ones stay.
	maxFrames = 256
	// maxFrame bounds the name of a frame in bytes. A demangled C++ name can have thousands.
	maxFrame = 512

	kernelMark = "_[k]"
	delimiter  = "-"
)

// ParseFolded decodes one line of profile -f of bcc (tools/profile.py) or libbpf-tools (profile.c):
//
//	comm;outermost;...;innermost COUNT
//
// What is the kernel's is known by bcc's marks (-a, -d), and without these by the symbols through which the kernel is
// entered. A comm with a semicolon in it spills into the frames, and one with a newline makes two lines: the tools print
// it raw. The error is [ErrSkip] for a blank line or a banner, or wraps [ErrLine].
func ParseFolded(line []byte) (Stack, error) {
	line = bytes.TrimRight(line, "\r")
	if len(bytes.TrimSpace(line)) == 0 || bytes.HasPrefix(line, []byte("Sampling at ")) {
		return Stack{}, ErrSkip
	}
	at := bytes.LastIndexByte(line, ' ')
	if at < 1 {
		return Stack{}, lineError(line, "no count behind the stack")
	}
	count, ok := parseUint(line[at+1:])
	if !ok {
		return Stack{}, lineError(line, "count is no number")
	}
	comm, rest, _ := strings.Cut(string(line[:at]), ";")
	s := Stack{Keys: []string{cut(comm, maxFrame)}, Count: count}
	if rest == "" {
		return s, nil
	}
	frames := strings.Split(rest, ";")
	user, kernel := divide(frames)
	s.User, s.Kernel = bounded(user), bounded(kernel)
	return s, nil
}

// divide tells user and kernel frames apart. The kernel's are the last ones.
func divide(frames []string) (user, kernel []string) {
	first := len(frames)
	for first > 0 && strings.HasSuffix(frames[first-1], kernelMark) {
		first--
	}
	if first < len(frames) {
		user, kernel = frames[:first], frames[first:]
		for i, frame := range kernel {
			kernel[i] = strings.TrimSuffix(frame, kernelMark)
		}
		if len(user) > 0 && user[len(user)-1] == delimiter {
			user = user[:len(user)-1]
		}
		return user, kernel
	}
	for i := len(frames) - 1; i >= 0; i-- {
		if frames[i] == delimiter {
			return frames[:i], frames[i+1:]
		}
	}
	for i, frame := range frames {
		if isKernelEntry(frame) {
			return frames[:i], frames[i:]
		}
	}
	return frames, nil
}

// isKernelEntry knows the outermost symbol of a kernel stack on x86 and arm64: of system calls, faults, interrupts, kernel
// threads and idle CPUs.
func isKernelEntry(frame string) bool {
	for _, prefix := range []string{"entry_SYSCALL", "entry_SYSENTER", "entry_INT80", "asm_exc_", "asm_sysvec_", "asm_common_interrupt",
		"ret_from_fork", "secondary_startup", "el0t_64_", "el0t_32_", "el1h_64_", "__primary_switched", "__secondary_switched"} {
		if strings.HasPrefix(frame, prefix) {
			return true
		}
	}
	return frame == "[Missed Kernel Stack]" || frame == "entry_INT80_compat"
}

// bounded cuts what is too long and names what has no name.
func bounded(frames []string) []string {
	if len(frames) == 0 {
		return nil
	}
	if over := len(frames) - maxFrames; over > 0 {
		frames = frames[over:]
	}
	for i, frame := range frames {
		if frame == "" {
			frame = UnknownFrame
		}
		frames[i] = cut(frame, maxFrame)
	}
	return frames
}

// EachStack calls f for each entry of the line with which bpftrace prints a map whose key is so many integers, kstack and
// ustack, and returns an error where the line ends early or makes no sense; the entries before it stand. The Stack is
// valid during the call only.
//
// Names of user frames come from files that any user can write, and hold any byte but NUL. A newline in one makes two
// frames of it, in the same stack. Bytes above 0x7f, after which bpftrace from 0.24 counts histograms in hexadecimal (see
// [ParseBPFtrace]), leave the values of such a map decimal (seen in 0.27).
func EachStack(line []byte, integers int, f func(Stack) error) error {
	s := scanner{buf: line}
	ok := s.accept('{') && s.key("type")
	if ok {
		_, ok = s.str()
	}
	if !ok || !s.accept(',') || !s.key("data") || !s.accept('{') {
		return lineError(line, "not a map of bpftrace")
	}
	if _, ok = s.str(); !ok || !s.accept(':') || !s.accept('{') {
		return lineError(line, "not a map of bpftrace")
	}
	if s.accept('}') {
		return nil
	}
	for {
		raw, ok := s.str()
		if !ok || !s.accept(':') {
			return lineError(line, "a map of stacks that ends early")
		}
		stack, err := stackOfKey(unescape(raw), integers)
		if err != nil {
			return err
		}
		v, ok := s.value()
		// A number that the line's end has cut is another number.
		if next := s.peek(); !ok || v.Negative || next != ',' && next != '}' {
			return lineError(line, "a map of stacks with a value that is no count")
		}
		stack.Count = v.Int
		if err := f(stack); err != nil {
			return err
		}
		if !s.accept(',') {
			if s.accept('}') {
				return nil
			}
			return lineError(line, "a map of stacks that ends early")
		}
	}
}

// stackOfKey takes a key apart: integers, then the kernel's frames, then the user's, all joined with commas. No name in the
// kernel has a newline or begins with a comma, so that the first line that does begins the user's part.
func stackOfKey(key []byte, integers int) (Stack, error) {
	var s Stack
	rest := string(key)
	for range integers {
		part, after, ok := strings.Cut(rest, ",")
		if _, isInt := parseUint([]byte(strings.TrimPrefix(part, "-"))); !ok || !isInt {
			return s, lineError(key, "no integer in front of a stack")
		}
		s.Keys, rest = append(s.Keys, part), after
	}
	// 0.23 escapes the newlines in a key twice.
	if !strings.Contains(rest, "\n") {
		rest = strings.ReplaceAll(rest, `\n`, "\n")
	}
	kernel, user, ok := "", rest, false
	if user, ok = strings.CutPrefix(rest, ","); !ok {
		if kernel, user, ok = strings.Cut(rest, "\n,"); !ok {
			return s, lineError(key, "no user stack behind the kernel's")
		}
	}
	s.Kernel, s.User = symbols(kernel), symbols(user)
	return s, nil
}

// symbols are the frames of a bpftrace stack, one a line and the innermost first, each a symbol with an offset or an address.
func symbols(stack string) []string {
	lines := strings.Split(stack, "\n")
	frames := make([]string, 0, min(len(lines), maxFrames))
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if len(frames) == maxFrames {
			break
		}
		if at := strings.LastIndexByte(line, '+'); at > 0 {
			if _, ok := parseUint([]byte(line[at+1:])); ok {
				line = line[:at]
			}
		}
		if isAddress(line) {
			line = UnknownFrame
		}
		frames = append(frames, cut(line, maxFrame))
	}
	for i, j := 0, len(frames)-1; i < j; i, j = i+1, j-1 {
		frames[i], frames[j] = frames[j], frames[i]
	}
	if len(frames) == 0 {
		return nil
	}
	return frames
}

// isAddress tells whether bpftrace found no symbol for a frame.
func isAddress(frame string) bool {
	digits, ok := strings.CutPrefix(frame, "0x")
	if !ok {
		return frame == "0"
	}
	for i := range len(digits) {
		if _, ok := hex([]byte(digits[i:]), 1); !ok {
			return false
		}
	}
	return digits != ""
}
