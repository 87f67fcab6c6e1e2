package tools

import (
	"strings"
	"testing"
)

func TestFunctions(t *testing.T) {
	for _, c := range []struct{ text, a, b, c, want string }{
		// comm: 16 bytes in two integers, little end first.
		{"comm(a, b)", "474214394992", "0", "", "plain"},
		{"comm(a, b)", "729127739747", "0", "", "café"},
		{"comm(a, b)", "425778621537", "0", "", `a,b"c`},
		{"comm(a, b)", "7308895158021875054", "0", "", "new\nline"},
		{"comm(a, b)", "3273665465563900262", "32210662048689761", "", "fifteen-and-mor"},
		{"comm(a, b)", "65279", "0", "", "\xff\xfe"},
		{"comm(a, b)", "-1", "-1", "", strings.Repeat("\xff", 16)},
		{"comm(a, b)", "18446744073709551615", "18446744073709551615", "", strings.Repeat("\xff", 16)},
		{"comm(a, b)", "-9223372036854775808", "0", "", unknown}, // a NUL first
		{"comm(a, b)", "7016996765293437281", "7016996765293437281", "", strings.Repeat("a", 16)},
		{"comm(a, b)", "97", "7016996765293437281", "", "a"}, // what lies behind the NUL is of the name before
		{"comm(a, b)", "0", "7016996765293437281", "", unknown},
		{"comm(a, b)", "24832", "0", "", unknown},
		{"comm(a, b)", "0", "0", "", unknown},
		{"comm(a, b)", "", "0", "", unknown},
		{"comm(a, b)", "97", "x", "", unknown},
		{"comm(a, b)", "0x61", "0", "", unknown},
		{"comm(a, b)", "99999999999999999999999999", "0", "", unknown},
		{"comm(a, b)", "1.5", "0", "", unknown},

		{"argv(a)", `ls\x00-l\x00a b\x00`, "", "", "ls -l a b"},
		{"argv(a)", `\x6c\x73\x00\x2d\x6c\x00`, "", "", "ls -l"},
		{"argv(a)", `x\x0asshd\x00`, "", "", "x\nsshd"},
		{"argv(a)", `\x5cx41`, "", "", `\x41`},
		{"argv(a)", `\xff\xfe\xzz\x`, "", "", "\xff\xfe\\xzz\\x"},
		{"argv(a)", "", "", "", ""},
		{"argv(a)", `\x00\x00`, "", "", ""},

		{"errno(a)", "0", "", "", "success"},
		{"errno(a)", "2", "", "", "ENOENT"},
		{"errno(a)", "-13", "", "", "EACCES"},
		{"errno(a)", "-512", "", "", "512"}, // ERESTARTSYS, in the kernel only
		{"errno(a)", "-9223372036854775808", "", "", "-9223372036854775808"},
		{"errno(a)", "18446744073709551614", "", "", unknown},
		{"errno(a)", "", "", "", unknown},
		{"errno(a)", "ENOENT", "", "", unknown},

		{"device(a)", "4294967295", "", "", "4095:1048575"}, // no such device
		{"device(a)", "-1", "", "", "17592186044415:1048575"},
		{"device(a)", "0", "", "", "0:0"},
		{"device(a)", "../../etc", "", "", unknown},
		{"device(a)", "", "", "", unknown},

		{"flags(a)", "Sync-Write", "", "", "write"},
		{"flags(a)", "Background-Priority-Metadata-Write", "", "", "write"},
		{"flags(a)", "ReadAhead-Read", "", "", "read"},
		{"flags(a)", "NoMerge-Idle-Read", "", "", "read"},
		{"flags(a)", "Sync-Discard", "", "", "discard"},
		{"flags(a)", "PreFlush-Flush", "", "", "flush"},
		{"flags(a)", "PreFlush-Sync-Write", "", "", "write"},
		{"flags(a)", "Unknown", "", "", "other"},
		{"flags(a)", "", "", "", "other"},

		{"address(a)", "10.0.0.1", "", "", "10.0.0.1"},
		{"address(a)", "::ffff:10.0.0.1", "", "", "10.0.0.1"},
		{"address(a)", "::FFFF:0a00:0001", "", "", "10.0.0.1"},
		{"address(a)", "2001:DB8::0:1", "", "", "2001:db8::1"},
		{"address(a)", "::", "", "", "::"},
		{"address(a)", "fe80::1%eth0", "", "", "fe80::1"},
		{"address(a)", "10.0.0.256", "", "", unknown},
		{"address(a)", "", "", "", unknown},
		{"family(a)", "10.0.0.1", "", "", "ipv4"},
		{"family(a)", "::ffff:10.0.0.1", "", "", "ipv4"},
		{"family(a)", "::1", "", "", "ipv6"},
		{"family(a)", "AF_INET", "", "", unknown},

		{"direction(a, b)", "22", "50000", "", "inbound"},
		{"direction(a, b)", "50000", "443", "", "outbound"},
		{"direction(a, b)", "40000", "32000", "", "outbound"},
		{"direction(a, b)", "20000", "443", "", "outbound"},
		{"direction(a, b)", "8080", "9090", "", "inbound"},
		{"direction(a, b)", "46000", "36000", "", unknown},
		{"direction(a, b)", "80", "80", "", unknown},
		{"direction(a, b)", "", "80", "", unknown},
		{"service_port(a, b, c)", "inbound", "22", "50000", "22"},
		{"service_port(a, b, c)", "outbound", "50000", "443", "443"},
		{"service_port(a, b, c)", "", "50000", "443", "443"},
		{"service_port(a, b, c)", "unknown", "80", "80", "80"},
		{"service_port(a, b, c)", "", "x", "443", unknown},

		{"tcp_state(a)", "1", "", "", "ESTABLISHED"},
		{"tcp_state(a)", "12", "", "", "NEW_SYN_RECV"},
		{"tcp_state(a)", "SYN_SENT", "", "", "SYN_SENT"},
		{"tcp_state(a)", "0", "", "", unknown},
		{"tcp_state(a)", "13", "", "", unknown},
		{"tcp_state(a)", "-1", "", "", unknown},
		{"tcp_state(a)", "", "", "", unknown},
		{"tcp_state(a)", "established", "", "", unknown},

		{"scale(a, b)", "1500000", "1e-9", "", "0.0015"},
		{"scale(a, b)", "2.50", "1024", "", "2560"},
		{"scale(a, b)", "-1", "2", "", "-2"},
		{"scale(a, b)", "x", "2", "", "x"},
		{"scale(a, b)", "NaN", "2", "", "NaN"},
		{"scale(a, b)", "Inf", "0", "", "NaN"},
		{"scale(a, b)", "1e308", "1e308", "", "NaN"},
		{"scale(a, b)", "5", "1e-3", "", "0.005"},
		{"scale(a, b)", "0.09", "1e-3", "", "9e-05"},
		{"scale(a, b)", "9007199254740993", "1", "", "9.00719925474099e+15"},
		{"sum(a, b)", "0.25", "1.5", "", "1.75"},
		{"sum(a, b)", "0.25", "", "", "0.25"},
		{"sum(a, b)", "-1", "2", "", "2"},
		{"number(a)", "-3", "", "", "-3"},
		{"number(a)", "LL_MAX", "", "", ""},
		{"offset(a)", "8", "", "", "4096"},
		{"offset(a)", "-1", "", "", ""},

		{"path(a)", `\x2f\x65\x74\x63\x00\x73\x65\x63`, "", "", "/etc"},
		{"path(a)", `\x00\x73`, "", "", ""},
		{"path(a)", `\x6e\xc3\xa9`, "", "", "né..."},
		{"path(a)", "", "", "", ""},

		{"skip(a, b)", `\x2f\x65\x74`, "1", "", `\x65\x74`},
		{"skip(a, b)", `\x2f\x65`, "3", "", ""},
		{"skip(a, b)", `\x2f\x65`, "-1", "", ""},

		{"rwbs(a)", "R", "", "", "read"},
		{"rwbs(a)", "RA", "", "", "read"},
		{"rwbs(a)", "WS", "", "", "write"},
		{"rwbs(a)", "FWFS", "", "", "write"},
		{"rwbs(a)", "FF", "", "", "flush"},
		{"rwbs(a)", "DS", "", "", "discard"},
		{"rwbs(a)", "N", "", "", "other"},
		{"rwbs(a)", "", "", "", unknown},

		{"exit_status(a)", "0", "", "", "0"},
		{"exit_signal(a)", "0", "", "", "none"},
		{"exit_status(a)", "768", "", "", "3"},
		{"exit_status(a)", "65280", "", "", "255"},
		{"exit_status(a)", "9", "", "", "signal"},
		{"exit_signal(a)", "9", "", "", "SIGKILL"},
		{"exit_signal(a)", "139", "", "", "SIGSEGV"},
		{"exit_signal(a)", "34", "", "", "SIG34"},
		{"exit_status(a)", "code 3", "", "", "3"},
		{"exit_signal(a)", "code 3", "", "", "none"},
		{"exit_status(a)", "code 300", "", "", unknown},
		{"exit_status(a)", "signal 11 (Segmentation fault), core dumped", "", "", "signal"},
		{"exit_signal(a)", "signal 11 (Segmentation fault), core dumped", "", "", "SIGSEGV"},
		{"exit_signal(a)", "signal 9 (KILL)", "", "", "SIGKILL"},
		{"exit_signal(a)", "signal x", "", "", unknown},
		{"exit_status(a)", "", "", "", unknown},

		{"syscall(a)", "99999", "", "", "syscall_99999"},
		{"syscall(a)", "-1", "", "", unknown},
		{"syscall(a)", "18446744073709551615", "", "", unknown},
		{"syscall(a)", "[unknown: 99999]", "", "", "syscall_99999"},
		{"syscall(a)", "[unknown: x]", "", "", unknown},
		{"syscall(a)", "openat2", "", "", "openat2"},
		{"syscall(a)", "", "", "", unknown},

		{"choose(a, '1', 'one', '2', 'two')", "2", "", "", "two"},
		{"choose(a, '1', 'one', '2', b)", "2", "II", "", "II"},
		{"choose(a, '1', 'one')", "3", "", "", unknown},
		{"choose(a, '', 'nothing')", "", "", "", "nothing"},

		{"a", "as it is", "", "", "as it is"},
		{"'literal, (with) marks'", "", "", "", "literal, (with) marks"},
		{"''", "", "", "", ""},
		{" errno ( a ) ", "2", "", "", "ENOENT"},
		{"choose(family(a), 'ipv6', address(b), 'ipv4', 'v4')", "::1", "::2", "", "::2"},
		{"comm(a, b)", "8656530541398876515", "30986", "", "café,\"x\ny"},
	} {
		e, err := parseExpression(c.text, []string{"a", "b", "c"})
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := e.value([]string{c.a, c.b, c.c}); got != c.want {
			t.Errorf("%s of %q, %q, %q = %q, want %q", c.text, c.a, c.b, c.c, got, c.want)
		}
	}
}

func TestExpressionErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                 `"": want a column, a 'literal' or a function`,
		"(a)":              `"(a)": want a column, a 'literal' or a function`,
		"'open":            `"'open": want a column, a 'literal' or a function`,
		"A":                `"A": want a column, a 'literal' or a function`,
		"1":                `"1": want a column, a 'literal' or a function`,
		"b":                `no column "b"; there are: a`,
		"errno":            `no column "errno"; there are: a`,
		"a a":              `unexpected "a" after "a"`,
		"a)":               `unexpected ")" after "a"`,
		"errno()":          `")": want a column, a 'literal' or a function`,
		"errno(a":          `errno(...): want , or ) at ""`,
		"errno(a a)":       `errno(...): want , or ) at "a)"`,
		"errno(a,)":        `")": want a column, a 'literal' or a function`,
		"errno(a, a)":      `errno takes 1 arguments, not 2`,
		"choose(a, '1')":   `choose takes a value and then pairs, not 2 arguments`,
		"choose(a)":        `choose takes a value and then pairs, not 1 arguments`,
		"choose(a,a,a,a)":  `choose takes a value and then pairs, not 4 arguments`,
		"a(a)":             `no function "a"; there are: ` + functionNames(),
		"errno(errno(b))":  `no column "b"; there are: a`,
		"a; errno(a)":      `unexpected "; errno(a)" after "a"`,
		"errno(a)\n+ 'x'":  `unexpected "+ 'x'" after "errno(a)"`,
		"errno(a) 'x\x00'": `unexpected "'x\x00'" after "errno(a)"`,
	} {
		_, err := parseExpression(text, []string{"a"})
		if err == nil {
			t.Errorf("%q: no error, want %s", text, want)
		} else if err.Error() != want {
			t.Errorf("%q: got  %s\nwant %s", text, err, want)
		}
	}
}

// Whatever a definition holds and a tool prints, an expression is an error or
// has a value.
func FuzzExpression(f *testing.F) {
	for name := range functions {
		f.Add(name+"(a, b)", "1", "-1")
		f.Add(name+"(a)", "\xff", "")
	}
	f.Add("choose(a, 'x', b)", "x", "y")
	f.Add("scale(a, '1e-9')", "NaN", "")
	f.Fuzz(func(t *testing.T, text, a, b string) {
		e, err := parseExpression(text, []string{"a", "b"})
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of several lines: %q", err)
			}
			return
		}
		if !computable(e, map[int]bool{0: true, 1: true}) {
			t.Errorf("%q is not computable of all its columns", text)
		}
		e.value([]string{a, b})
	})
}
