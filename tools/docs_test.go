package tools

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// exampleBlock is a file in CONFIGURATION.md: its name in the text in front of a
// block. What a tool prints follows as a block of text.
var exampleBlock = regexp.MustCompile("`([a-z]+)/([a-z.]+)`[^`\n]*:\n\n```[a-z]*\n((?s:.*?))```\n(?:[^`#]*```text\n((?s:.*?))```)?")

// An example is a tool of the documentation with what it prints.
type example struct {
	files  fstest.MapFS
	prints string
}

func examples(t testing.TB) map[string]example {
	t.Helper()
	text, err := os.ReadFile("../CONFIGURATION.md")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]example)
	for _, m := range exampleBlock.FindAllStringSubmatch(string(text), -1) {
		e, ok := all[m[1]]
		if !ok {
			e.files = make(fstest.MapFS)
		}
		e.files[m[2]] = &fstest.MapFile{Data: []byte(m[3])}
		e.prints += m[4]
		all[m[1]] = e
	}
	return all
}

// The examples of CONFIGURATION.md are tools, and count what they are shown to
// print.
func TestExamples(t *testing.T) {
	want := map[string]string{
		"killsnoop": "",
		"sigsnoop": `bpf_sigsnoop_signals_total{comm="bash",signal="9",result="ESRCH"} 1
bpf_sigsnoop_signals_total{comm="two words",signal="23",result="success"} 1
`,
		"slowfiles": `bpf_slowfiles_latency_seconds{operation="fsync"} 0.036021 3:-38=1
bpf_slowfiles_latency_seconds{operation="read"} 0.013766 3:-49=1
`,
		"cpudist": `bpf_cpudist_seconds 0.000657 0:-18=1 0:-17=35 0:-16=37
`,
		"oom": `bpf_oom_kills_total{comm="two words"} 1
`,
		"offcputime": "",
	}
	all := examples(t)
	if len(all) != len(want) {
		t.Errorf("%d examples, want %d", len(all), len(want))
	}
	for name, e := range all {
		t.Run(name, func(t *testing.T) {
			d, err := parse(e.files, name, name+"/tool.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if d.Mode != "" || d.Sources[0].Backend == "bpftrace" {
				return
			}
			c := newTestChild(t, d, d.Sources[0])
			c.take([]byte(e.prints))
			got := regexp.MustCompile(`:(-?)0+(\d)`).ReplaceAllString(c.sums.text(), ":$1$2")
			if got != want[name] || c.tool.counters.parseErrors.Load() != 0 {
				t.Errorf("got\n%s%s\nwant\n%s", got, c.accounts(), want[name])
			}
		})
	}
}

// A tool of one's own takes few lines.
func TestExampleIsShort(t *testing.T) {
	lines := 0
	for _, file := range examples(t)["killsnoop"].files {
		lines += bytes.Count(file.Data, []byte("\n"))
	}
	if lines == 0 || lines >= 40 {
		t.Errorf("killsnoop has %d lines, want fewer than 40", lines)
	}
}

func schema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile("../docs/tool.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t testing.TB, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	var document any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return err
	}
	return s.Validate(document)
}

// docs/tool.schema.json takes what the catalogue takes.
func TestSchema(t *testing.T) {
	s := schema(t)
	files, err := filepath.Glob("*/tool.yaml")
	if err != nil {
		t.Fatal(err)
	}
	valid, err := filepath.Glob("testdata/valid/*/tool.yaml")
	if err != nil || len(files) < 5 || len(valid) == 0 {
		t.Fatalf("%d and %d definitions (%v)", len(files), len(valid), err)
	}
	for _, file := range append(files, valid...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for name, e := range examples(t) {
		if err := validate(t, s, e.files["tool.yaml"].Data); err != nil {
			t.Errorf("%s of CONFIGURATION.md: %v", name, err)
		}
	}
}

// beyondSchema are mistakes that only the catalogue can know: what does not
// agree with another part of the definition, a file, or a notation of its own.
var beyondSchema = strings.Fields(`arguments-option arguments-value bounded column columns command-option command-option-bool counter-name
	csv-column events-no-map exclude-pids exclude-ports folded-histogram folded-label histogram-name
	histogram-without-value label-not-given label-twice label-unknown log2-counter log2-label lost-no-map
	map-in-no-script map-key-twice map-label map-metric-unknown map-minus-in-no-script map-minus-total map-name
	map-slot-counter map-slot-first map-total-histogram map-total-in-no-script metric-twice name-end
	name-of-other-folder option-bounds option-default option-value-twice pattern pattern-groups rows script-begin
	script-folder script-foreign-map script-gone script-huge script-option secret selftest-bound
	selftest-bound-zero selftest-label selftest-metric selftest-name selftest-when selftest-when-value selftest-workload selftest-workload
	set-arguments set-choose set-column set-field set-function set-rest set-syntax shown-field shown-option
	shown-string skipped stacks-map stacks-metric stacks-total two-documents value-not-given value-string
	value-unknown when when-value width-of-counter`)

// docs/tool.schema.json refuses what a schema can know to be wrong, and the
// list of what it cannot has nothing else.
func TestSchemaRefuses(t *testing.T) {
	s := schema(t)
	files, err := filepath.Glob("testdata/invalid-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	beyond := make(map[string]bool)
	for _, name := range beyondSchema {
		beyond[name] = true
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "invalid-"), ".yaml")
		if err := validate(t, s, text); (err == nil) != beyond[name] {
			t.Errorf("%s: %v; a mistake that a schema cannot know belongs into beyondSchema", name, err)
		}
	}
}
