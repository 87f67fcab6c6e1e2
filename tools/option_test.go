package tools

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const optionsTool = `name: probe
help: A tool to test with.
options:
  least: {help: Least., type: int, min: -5, max: 60000, default: 10}
  mode: {help: Mode., type: enum, values: [fast, slow-1], default: fast}
  loud: {help: Loud.}
metrics: [{name: bpf_probe_events_total, help: Events., type: counter}]
sources:
  - backend: bpftrace
    when: {mode: slow-1, loud: true}
    scripts: [probe.bt]
    maps: {probe_events: {metric: bpf_probe_events_total}}
  - {backend: bcc, command: [probe, -m, "{least}", "--x={mode},{least}", plain], format: columns, columns: n:int}
`

func optionsDefinition(t *testing.T) *Definition {
	t.Helper()
	d, err := parse(fstest.MapFS{
		"tool.yaml": {Data: []byte(optionsTool)},
		"probe.bt":  {Data: []byte("// option(gone)\ntracepoint:a:b /args->x > option(least)/ { @probe_events = count(); }\n")},
	}, "probe", "tool.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOptionCheck(t *testing.T) {
	d := optionsDefinition(t)
	for _, c := range []struct{ option, value, want string }{
		{"least", "10", ""},
		{"least", "-5", ""},
		{"least", "60000", ""},
		{"least", "60001", `least: "60001": want a whole number from -5 to 60000`},
		{"least", "-6", `least: "-6": want a whole number from -5 to 60000`},
		{"least", "+5", `least: "+5": want a whole number from -5 to 60000`},
		{"least", "05", `least: "05": want a whole number from -5 to 60000`},
		{"least", "5 ", `least: "5 ": want a whole number from -5 to 60000`},
		{"least", "5; system(\"id\")", `least: "5; system(\"id\")": want a whole number from -5 to 60000`},
		{"least", "", `least: "": want a whole number from -5 to 60000`},
		{"least", "99999999999999999999", `least: "99999999999999999999": want a whole number from -5 to 60000`},
		{"mode", "slow-1", ""},
		{"mode", "slow", `mode: "slow": want one of fast, slow-1`},
		{"mode", "-x", `mode: "-x": want one of fast, slow-1`},
		{"loud", "true", ""},
		{"loud", "false", ""},
		{"loud", "yes", `loud: "yes": want true or false`},
		{"gone", "1", "gone: there is no such option"},
	} {
		got := ""
		if err := d.CheckOptions(map[string]string{c.option: c.value}); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s=%q: got %q, want %q", c.option, c.value, got, c.want)
		}
	}
}

// Options come to arguments and scripts as they are, or not at all.
func TestExpandOptions(t *testing.T) {
	d := optionsDefinition(t)
	for _, c := range []struct {
		values map[string]string
		args   []string
		script string
		fails  string
	}{
		{nil, []string{"-m", "10", "--x=fast,10", "plain"}, "/args->x > 10/", ""},
		{map[string]string{"least": "-5", "mode": "slow-1"}, []string{"-m", "-5", "--x=slow-1,-5", "plain"}, "/args->x > -5/", ""},
		{map[string]string{"least": "1 -o /etc/passwd"}, nil, "", `option least: "1 -o /etc/passwd": want a whole number from -5 to 60000`},
	} {
		args, err := d.arguments(d.Sources[1], c.values)
		script, scriptErr := d.Script(d.Sources[0], c.values)
		if c.fails != "" {
			if err == nil || err.Error() != c.fails || scriptErr == nil || scriptErr.Error() != c.fails {
				t.Errorf("%v: got %v and %v, want %s", c.values, err, scriptErr, c.fails)
			}
			continue
		}
		if err != nil || !slices.Equal(args, c.args) {
			t.Errorf("%v: arguments %q (%v), want %q", c.values, args, err, c.args)
		}
		if scriptErr != nil || !strings.Contains(script, c.script) || !strings.Contains(script, "// option(gone)") {
			t.Errorf("%v: script %q (%v), want %q in it", c.values, script, scriptErr, c.script)
		}
	}
}

// A source is considered with the values that its "when" has, or defaults.
func TestWhen(t *testing.T) {
	d := optionsDefinition(t)
	for _, c := range []struct {
		values map[string]string
		want   bool
	}{
		{nil, false},
		{map[string]string{"mode": "slow-1"}, false},
		{map[string]string{"mode": "slow-1", "loud": "true"}, true},
	} {
		if got := wanted(d, d.Sources[0], c.values); got != c.want {
			t.Errorf("%v: %v", c.values, got)
		}
	}
}
