package tools

import (
	"embed"
	"regexp"
	"strings"
)

// SlotOffset is what native schema 3 counts more than schema3() does: slot i
// holds values of [2^(i/8), 2^((i+1)/8)) units of 2^-30 s, so it is the bucket
// with the upper bound 2^((i+1-240)/8) s.
const SlotOffset = 239

// maxSlot is the last slot of schema3().
const maxSlot = 40*8 + 7

// schema3 matches the macro for latencies, a statement:
//
//	$slot = schema3($ns);
//
// It counts native histogram buckets of schema 3, eight to an octave, from an
// unsigned 64-bit number of nanoseconds.
var schema3 = regexp.MustCompile(`(\$\w+) = schema3\((\$\w+)\);`)

// 140737 >> 17 is 2^30/10^9 to 3.5 ppm and overflows only beyond 36 hours. The
// exponent is found by halving, the eighth of the octave by comparing the
// mantissa with 2^(40 + j/8). Above 2^41 units (34 minutes) all is one slot.
const schema3Body = `$s3_units = (uint64)((NS * 140737) >> 17);
$s3_rest = $s3_units;
$s3_exp = (uint64)0;
if ($s3_rest >= 4294967296) { $s3_exp = $s3_exp + 32; $s3_rest = $s3_rest >> 32; }
if ($s3_rest >= 65536) { $s3_exp = $s3_exp + 16; $s3_rest = $s3_rest >> 16; }
if ($s3_rest >= 256) { $s3_exp = $s3_exp + 8; $s3_rest = $s3_rest >> 8; }
if ($s3_rest >= 16) { $s3_exp = $s3_exp + 4; $s3_rest = $s3_rest >> 4; }
if ($s3_rest >= 4) { $s3_exp = $s3_exp + 2; $s3_rest = $s3_rest >> 2; }
if ($s3_rest >= 2) { $s3_exp = $s3_exp + 1; }
if ($s3_exp > 40) { $s3_exp = (uint64)40; }
$s3_mantissa = $s3_units << (40 - $s3_exp);
SLOT = $s3_exp * 8;
if ($s3_mantissa >= 1554944255988) {
  SLOT = SLOT + 4;
  if ($s3_mantissa >= 1849150772654) {
    SLOT = SLOT + 2;
    if ($s3_mantissa >= 2016513216443) { SLOT = SLOT + 1; }
  } else {
    if ($s3_mantissa >= 1695678735019) { SLOT = SLOT + 1; }
  }
} else {
  if ($s3_mantissa >= 1307547050780) {
    SLOT = SLOT + 2;
    if ($s3_mantissa >= 1425890169699) { SLOT = SLOT + 1; }
  } else {
    if ($s3_mantissa >= 1199025932246) { SLOT = SLOT + 1; }
  }
}`

// comm matches the macro for the current thread's comm, a statement:
//
//	$c0, $c1 = comm();
//
// It reads the 16 bytes as two integers, which no name can break or forge: each
// at once, as bpftrace 0.17 forgets a pointer at the next one.
var comm = regexp.MustCompile(`(\$\w+), (\$\w+) = comm\(\);`)

// The second half is read from a task that begins 8 bytes further on, as 0.11 has
// no arithmetic of pointers. The LLVM of that version moves the read of a value
// from the stack behind the next write to its place, unless there is a call
// between them, such as the last one here.
const commBody = `$comm_task = (struct task_struct *)curtask;
$comm_head = (uint64 *)$comm_task->comm;
FIRST = *$comm_head;
$comm_rest = (struct task_struct *)((uint64)$comm_task + 8);
$comm_tail = (uint64 *)$comm_rest->comm;
SECOND = *$comm_tail;
$comm_read = (uint64)curtask;`

// operation matches the macro for what a block request does:
//
//	$op = operation(args->rwbs);
//
// It tells what a block request does from the first letters of rwbs
// (blk_fill_rwbs in kernel/trace/blktrace.c): 1 read, 2 write, 3 discard, 4
// flush, 0 anything else. They are compared as one little-endian number: bpftrace
// copies a string anew for each comparison, and the bytes behind its NUL are
// whatever was there before, which would make many keys of one. FW is a flush
// before the write.
var operation = regexp.MustCompile(`(\$\w+) = operation\((args->rwbs)\);`)

const operationBody = `$op_text = (uint16 *)RWBS;
$op_two = *$op_text;
$op_one = $op_two & 255;
OP = (uint64)0;
if ($op_one == 82) { OP = (uint64)1; }
if ($op_one == 87 || $op_two == 22342) { OP = (uint64)2; }
if ($op_one == 68) { OP = (uint64)3; }
if ($op_one == 70 && $op_two != 22342) { OP = (uint64)4; }`

// LinearBuckets is how many buckets a linear histogram has.
const LinearBuckets = 64

// maxLinearSlot is the last slot of linear64().
const maxLinearSlot = 32*LinearBuckets - 1

// linear64 matches the macro for linear histograms:
//
//	$slot = linear64($n);
//
// $n is the value in units of the metric's width, without remainder, and below
// 2^37. As nobody knows yet how far values will reach, it is halved until it is
// below 64; the slot says how often and what is left.
var linear64 = regexp.MustCompile(`(\$\w+) = linear64\((\$\w+)\);`)

const linear64Body = `$l64_rest = (uint64)N;
SLOT = (uint64)0;
if ($l64_rest >= 2097152) { SLOT = SLOT + 1024; $l64_rest = $l64_rest >> 16; }
if ($l64_rest >= 8192) { SLOT = SLOT + 512; $l64_rest = $l64_rest >> 8; }
if ($l64_rest >= 512) { SLOT = SLOT + 256; $l64_rest = $l64_rest >> 4; }
if ($l64_rest >= 128) { SLOT = SLOT + 128; $l64_rest = $l64_rest >> 2; }
if ($l64_rest >= 64) { SLOT = SLOT + 64; $l64_rest = $l64_rest >> 1; }
SLOT = SLOT + $l64_rest;`

// whole matches a line macro, of which there is one for each file in macros,
// such as
//
//	file_operations(ext4slower, 61267)
//
// The first line of the file names the parameters; what follows is what the
// macro stands for. It is how scripts share probes that differ in a name.
var whole = regexp.MustCompile(`(?m)^(\w+)\(([\w, ]*)\)$`)

//go:embed macros/*.bt
var wholeBodies embed.FS

// expandWhole replaces a line macro. What is none stays for bpftrace to refuse.
func expandWhole(line string) string {
	use := whole.FindStringSubmatch(line)
	text, err := wholeBodies.ReadFile("macros/" + use[1] + ".bt")
	if err != nil {
		return line
	}
	head, body, _ := strings.Cut(string(text), "\n")
	names, values := strings.Fields(head)[2:], strings.Split(use[2], ", ")
	if len(names) != len(values) {
		return line
	}
	var replace []string
	for i, name := range names {
		replace = append(replace, name, values[i])
	}
	return strings.NewReplacer(replace...).Replace(strings.TrimSpace(body))
}

// expandMacros replaces the macros of a script by what they stand for.
func expandMacros(script string) string {
	script = whole.ReplaceAllStringFunc(script, expandWhole)
	script = expand(script, linear64, linear64Body, "SLOT", "N")
	script = expand(script, schema3, schema3Body, "SLOT", "NS")
	script = expand(script, comm, commBody, "FIRST", "SECOND")
	return expand(script, operation, operationBody, "OP", "RWBS")
}

func expand(script string, macro *regexp.Regexp, body, result, argument string) string {
	return macro.ReplaceAllStringFunc(script, func(statement string) string {
		names := macro.FindStringSubmatch(statement)
		return strings.NewReplacer(result, names[1], argument, names[2]).Replace(body)
	})
}

// optional matches a line with a tracepoint that a script can do without, as in
//
//	tracepoint:syscalls:sys_exit_open, // optional
//	tracepoint:syscalls:sys_exit_openat
//
// or of a probe with all that is behind it, up to the brace that ends it.
var (
	optionalLine  = regexp.MustCompile(`(?m)^tracepoint:(\w+:\w+), // optional\n`)
	optionalProbe = regexp.MustCompile(`(?ms)^tracepoint:(\w+:\w+) // optional\n.*?^}\n`)
)

// dropOptional removes what needs tracepoints that this kernel has not.
func dropOptional(script string, has func(tracepoint string) bool) string {
	for _, pattern := range []*regexp.Regexp{optionalLine, optionalProbe} {
		script = pattern.ReplaceAllStringFunc(script, func(text string) string {
			if has(pattern.FindStringSubmatch(text)[1]) {
				return text
			}
			return ""
		})
	}
	return script
}
