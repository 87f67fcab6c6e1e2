package web

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestVisible(t *testing.T) {
	cases := []struct{ in, want string }{
		{"", ""},
		{"/usr/bin/true", "/usr/bin/true"},
		{"café Ελλάδα 日本 🐝", "café Ελλάδα 日本 🐝"},
		{`"quotes" 'and' \backslash`, `"quotes" 'and' \backslash`},
		{"a\nb\tc\r", `a\nb\tc\u000d`},
		{"\x00\x1b[31m\x7f", `\u0000\u001b[31m\u007f`},
		{"\u009b31m", `\u009b31m`},
		{"gpj.\u202eexe", `gpj.\u202eexe`},
		{"\u2066a\u2069", `\u2066a\u2069`},
		{"zero\u200bwidth\ufeff", `zero\u200bwidth\ufeff`},
		{"line\u2028para\u2029", `line\u2028para\u2029`},
		{"no\u00a0break", `no\u00a0break`},
		{"tag\U000e0041", `tag\udb40\udc41`},
		{"\xff\xc3(", `\xff\xc3(`},
		{"real \ufffd", "real \ufffd"},
	}
	for _, c := range cases {
		if got := visible(c.in); got != c.want {
			t.Errorf("visible(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestVisibleKeepsJSON(t *testing.T) {
	in := "\x1b \u009b \u202e \U000e0041 \u2028 \\ \" <b> \x7f é 🐝"
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out string
	if err := json.Unmarshal([]byte(visible(string(b))), &out); err != nil {
		t.Fatal(err)
	}
	if out != in {
		t.Errorf("got %q, want %q", out, in)
	}
}

func TestShorten(t *testing.T) {
	cases := []struct{ in, want string }{
		{"short", "short"},
		{strings.Repeat("x", maxValue), strings.Repeat("x", maxValue)},
		{strings.Repeat("x", maxValue+1), strings.Repeat("x", maxValue) + "… (401 bytes)"},
		{strings.Repeat("x", maxValue-1) + "éx", strings.Repeat("x", maxValue-1) + "… (402 bytes)"},
	}
	for _, c := range cases {
		if got := shorten(c.in); got != c.want {
			t.Errorf("shorten(%d bytes) = %q, want %q", len(c.in), got, c.want)
		}
	}
}

func FuzzVisible(f *testing.F) {
	f.Add("a\xff\u202e\U000e0041")
	f.Fuzz(func(t *testing.T, s string) {
		once := visible(s)
		if twice := visible(once); twice != once {
			t.Errorf("%q still holds something invisible", once)
		}
		shorten(s)
	})
}
