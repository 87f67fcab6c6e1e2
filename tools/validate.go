package tools

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"regexp"
	"slices"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"

	"bpf_tools_exporter/tools/backend"
	"bpf_tools_exporter/tools/output"
)

var (
	toolName   = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)
	fieldName  = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	metricName = regexp.MustCompile(`^bpf_[a-z][a-z0-9_]*$`)
	scriptName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*\.bt$`)
	mapInUse   = regexp.MustCompile(`@[A-Za-z_]\w*`)
)

// parse reads and checks the tool.yaml in dir. Name is that of the folder, file
// what error messages call the tool.yaml.
func parse(dir fs.FS, name, file string) (*Definition, error) {
	text, err := readFile(dir, "tool.yaml")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	d := &Definition{dir: dir, file: file, text: string(text), scripts: make(map[string]string), maps: make(map[string]bool)}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(d); err != nil {
		return nil, yamlError(file, err)
	}
	if err := decoder.Decode(new(yaml.Node)); err != io.EOF {
		return nil, fmt.Errorf("%s: a definition is one YAML document: remove what follows the first", file)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, yamlError(file, err)
	}
	return d, (&checker{d: d, root: root.Content[0]}).check(name)
}

// maxFile bounds a tool.yaml and a script, in bytes.
const maxFile = 1 << 20

// readFile reads a file of a tool's folder. A named pipe would hold the
// exporter up, and a device need not end.
func readFile(dir fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(dir, name)
	switch {
	case err != nil:
		return nil, reason(err)
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	case info.Size() > maxFile:
		return nil, fmt.Errorf("has %d bytes: want at most %d", info.Size(), maxFile)
	}
	text, err := fs.ReadFile(dir, name)
	if err != nil {
		return nil, reason(err)
	}
	return text, nil
}

var yamlLine = regexp.MustCompile(`line (\d+): (?:field (\S+) not found in type \S+)?`)

// yamlError puts the line where compilers put it and speaks of the file's keys
// instead of Go's types.
func yamlError(file string, err error) error {
	text := strings.Join(strings.Fields(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:")), " ")
	m := yamlLine.FindStringSubmatchIndex(text)
	if m == nil {
		if err == io.EOF {
			return fmt.Errorf("%s: is empty: want at least name, help, sources and metrics", file)
		}
		return fmt.Errorf("%s: is no YAML: %s", file, text)
	}
	line := text[m[2]:m[3]]
	if m[4] >= 0 {
		return fmt.Errorf("%s:%s: no key %q here: see CONFIGURATION.md for the keys of a definition", file, line, text[m[4]:m[5]])
	}
	what := text[m[1]:]
	if wrong := yamlType.FindStringSubmatch(what); wrong != nil {
		what = fmt.Sprintf("want %s, not %s", yamlKinds.Replace(wrong[3]), yamlKinds.Replace(wrong[1])+wrong[2])
	}
	return fmt.Errorf("%s:%s: %s", file, line, what)
}

var yamlType = regexp.MustCompile("^cannot unmarshal !!(seq|map|str|int|float|bool|null|[a-z]+)( `.*?`)? into (\\S+)")

// yamlKinds are the types of YAML and of a definition in words.
var yamlKinds = strings.NewReplacer("[]*tools.Source", "a list of sources", "[]*tools.Metric", "a list of metrics",
	"map[string]*tools.Map", "a mapping of maps", "map[string]tools.Option", "a mapping of options",
	"map[string]string", "a mapping", "[]string", "a list of words",
	"map[string][]string", "a mapping to lists of words", "tools.Stacks", "a mapping",
	"tools.Definition", "a mapping", "tools.Source", "a mapping", "tools.Metric", "a mapping", "tools.Map", "a mapping",
	"tools.Option", "a mapping", "tools.Exclude", "a mapping", "tools.Kernel", "a mapping", "tools.Shown", "a mapping",
	"tools.SelfTest", "a mapping", "[]*tools.Expectation", "a list of expectations", "tools.Expectation", "a mapping",
	"seq", "a list", "map", "a mapping", "string", "text", "str", "text", "bool", "true or false",
	"float64", "a number", "int64", "a whole number", "float", "the number", "int", "a whole number", "null", "nothing")

// UnmarshalYAML keeps the order of the fields.
func (f *Fields) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: fields is a mapping of name to type, such as {comm: string, pid: int}", node.Line)
	}
	for i := 0; i < len(node.Content); i += 2 {
		*f = append(*f, Field{Name: node.Content[i].Value, Type: node.Content[i+1].Value})
	}
	return nil
}

// checker holds a definition with its YAML, from which errors take the line.
type checker struct {
	d    *Definition
	root *yaml.Node
}

// fail makes the error for what is at the path of keys and indices.
func (c *checker) fail(format string, args []any, at ...any) error {
	return fmt.Errorf("%s:%d: %s", c.d.file, lineOf(c.root, at), fmt.Sprintf(format, args...))
}

func a(args ...any) []any { return args }

// lineOf is the line of the deepest node on the path that exists.
func lineOf(node *yaml.Node, at []any) int {
	line := node.Line
	for _, step := range at {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		next := childNode(node, step)
		if next == nil {
			return line
		}
		node = next
		line = node.Line
	}
	return line
}

func childNode(node *yaml.Node, step any) *yaml.Node {
	switch step := step.(type) {
	case int:
		if node.Kind == yaml.SequenceNode && step < len(node.Content) {
			return node.Content[step]
		}
	case string:
		for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i+1]
			}
		}
	}
	return nil
}

// The modes of a definition, and a format that only one of them can have.
const (
	continuous = "continuous"
	onDemand   = "on-demand"
	folded     = "folded"
)

func (c *checker) check(name string) error {
	d := c.d
	switch {
	case !toolName.MatchString(d.Name):
		return c.fail("name %q: want small letters, digits and _, a letter first", a(d.Name), "name")
	case d.Name != name:
		return c.fail("name %q: want %q, as the folder is called", a(d.Name, name), "name")
	case d.Name == endRow:
		return c.fail("name %q is reserved", a(d.Name), "name")
	case d.Help == "":
		return c.fail("help is missing: say in one line what the tool shows", nil)
	case d.Mode != "" && d.Mode != continuous && d.Mode != onDemand:
		return c.fail("mode %q: want continuous or on-demand", a(d.Mode), "mode")
	case len(d.Sources) == 0:
		return c.fail("sources is missing: name at least one", nil)
	case len(d.Metrics) == 0:
		return c.fail("metrics is missing: name at least one", nil)
	}
	checks := []func() error{c.checkGaps, c.checkFields, c.checkOptions, c.checkMetrics, c.checkSources, c.checkSelfTest}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	if d.Mode == "" {
		d.Mode = continuous
	}
	return nil
}

// checkGaps refuses list items and maps with nothing in them, which YAML
// decodes to nil.
func (c *checker) checkGaps() error {
	for i, m := range c.d.Metrics {
		if m == nil {
			return c.fail("this metric is empty", nil, "metrics", i)
		}
	}
	for i, s := range c.d.Sources {
		if s == nil {
			return c.fail("this source is empty", nil, "sources", i)
		}
		for _, name := range sortedKeys(s.Maps) {
			if s.Maps[name] == nil {
				return c.fail("map %s is empty: want keys and a metric", a(name), "sources", i, "maps", name)
			}
		}
	}
	return nil
}

func (c *checker) checkFields() error {
	for i, f := range c.d.Fields {
		if c.d.Fields.index(f.Name) != i {
			return c.fail("field %q stands here twice", a(f.Name), "fields", f.Name)
		}
		if !fieldName.MatchString(f.Name) {
			return c.fail("field %q: want small letters, digits and _, a letter first", a(f.Name), "fields", f.Name)
		}
		if f.Type != "string" && f.Type != "int" && f.Type != "float" {
			return c.fail("field %s has type %q: want string, int or float", a(f.Name, f.Type), "fields", f.Name)
		}
	}
	for i, f := range c.d.Secret {
		if err := c.field(f, "secret", i); err != nil {
			return err
		}
	}
	exclude := map[string][]string{"pids": c.d.Exclude.PIDs, "ports": c.d.Exclude.Ports}
	for _, key := range sortedKeys(exclude) {
		for i, f := range exclude[key] {
			if err := c.field(f, "exclude_self", key, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) field(name string, at ...any) error {
	if c.d.HasField(name) {
		return nil
	}
	var names []string
	for _, f := range c.d.Fields {
		names = append(names, f.Name)
	}
	return c.fail("no field %q; there are: %s", a(name, strings.Join(names, ", ")), at...)
}

func (c *checker) checkMetrics() error {
	seen := make(map[string]bool)
	for i, m := range c.d.Metrics {
		switch {
		case !metricName.MatchString(m.Name):
			return c.fail("metric %q: want bpf_ and then small letters, digits and _", a(m.Name), "metrics", i, "name")
		case seen[m.Name]:
			return c.fail("metric %s stands here twice", a(m.Name), "metrics", i, "name")
		case m.Help == "":
			return c.fail("metric %s has no help", a(m.Name), "metrics", i)
		case m.Type != "counter" && m.Type != "histogram":
			return c.fail("metric %s has type %q: want counter or histogram", a(m.Name, m.Type), "metrics", i, "type")
		case m.Type == "counter" && !strings.HasSuffix(m.Name, "_total"):
			return c.fail("metric %s: the name of a counter ends in _total", a(m.Name), "metrics", i, "name")
		case m.Type == "histogram" && m.Width == 0 && !strings.HasSuffix(m.Name, "_seconds"):
			return c.fail("metric %s: the name of a histogram ends in _seconds, its unit", a(m.Name), "metrics", i, "name")
		case m.Width != 0 && m.Type != "histogram":
			return c.fail("metric %s: width is for a linear histogram", a(m.Name), "metrics", i, "width")
		case m.Width != 0 && !(m.Width >= minWidth && m.Width <= maxWidth):
			return c.fail("metric %s: width %g: want the least width of a bucket, %g to %g", a(m.Name, m.Width, minWidth, maxWidth), "metrics", i, "width")
		}
		seen[m.Name] = true
		if err := c.checkLabels(i, m); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) checkLabels(i int, m *Metric) error {
	for j, label := range m.Labels {
		if label == "le" || label == "quantile" || label == "tool" {
			return c.fail("label %q is reserved: choose another name", a(label), "metrics", i, "labels", j)
		}
		if slices.Contains(m.Labels[:j], label) {
			return c.fail("label %q stands here twice", a(label), "metrics", i, "labels", j)
		}
		if err := c.field(label, "metrics", i, "labels", j); err != nil {
			return err
		}
	}
	for j, label := range m.Bounded {
		if !slices.Contains(m.Labels, label) {
			return c.fail("bounded names %q, which is no label of %s", a(label, m.Name), "metrics", i, "bounded", j)
		}
	}
	if m.Value == "" {
		return nil
	}
	if err := c.field(m.Value, "metrics", i, "value"); err != nil {
		return err
	}
	if c.d.Fields[c.d.Fields.index(m.Value)].Type == "string" {
		return c.fail("value %s is a string: want an int or float field", a(m.Value), "metrics", i, "value")
	}
	return nil
}

func (c *checker) checkSources() error {
	for i, s := range c.d.Sources {
		if !slices.Contains(backend.Names, s.Backend) {
			return c.fail("backend %q: want %s", a(s.Backend, strings.Join(backend.Names, ", ")), "sources", i, "backend")
		}
		for _, option := range sortedKeys(s.When) {
			o, ok := c.d.Options[option]
			if !ok {
				return c.fail("when names option %q, which is not among options", a(option), "sources", i, "when", option)
			}
			if err := o.Check(s.When[option]); err != nil {
				return c.fail("when %s: %v", a(option, err), "sources", i, "when", option)
			}
		}
		for _, version := range []string{s.Kernel.From, s.Kernel.Below} {
			if _, err := backend.ParseVersion(version); version != "" && err != nil {
				return c.fail("kernel: %v", a(err), "sources", i, "kernel")
			}
		}
		if s.Kernel != (Kernel{}) && s.Kernel.Because == "" {
			return c.fail("kernel has no because: say why other kernels will not do", nil, "sources", i, "kernel")
		}
		if err := c.checkShown(i, s.Shown); err != nil {
			return err
		}
		check := c.checkTextSource
		if s.Backend == backend.BPFtrace {
			check = c.checkScripts
		}
		if err := check(i, s); err != nil {
			return err
		}
	}
	return nil
}

// checkTextSource checks a source that runs an upstream tool.
func (c *checker) checkTextSource(i int, s *Source) error {
	switch {
	case len(s.Command) == 0:
		return c.fail("command is missing: the tool's name and arguments, such as [biolatency, -D, \"5\"]", nil, "sources", i)
	case !toolName.MatchString(s.Command[0]):
		return c.fail("command %q: want the tool's plain name; where it lies is found on each host", a(s.Command[0]), "sources", i, "command", 0)
	case len(s.Scripts) > 0 || len(s.Maps) > 0 || s.Rows != "" || s.Stacks != nil:
		return c.fail("scripts, maps, rows and stacks are for backend bpftrace", nil, "sources", i)
	case s.Format == "log2" && !(s.Unit > 0 && s.Unit <= 1):
		return c.fail("unit: want the seconds in one unit of the histogram, such as 1e-6 for usecs", nil, "sources", i, "unit")
	case s.Interval < 0:
		return c.fail("interval %d: want the seconds between two outputs", a(s.Interval), "sources", i, "interval")
	}
	if err := c.checkArguments(i, s); err != nil {
		return err
	}
	switch {
	case s.isTable():
		at := "columns"
		if s.Format == "pattern" {
			at = "pattern"
		}
		decoder, err := s.newDecoder()
		if err != nil {
			return c.fail("%s: %v", a(at, err), "sources", i, at)
		}
		s.columns = decoder.Names()
	case s.Format == "log2":
		// The keys of a section line, such as "disk", are what there is.
		s.columns = strings.Fields(s.Columns)
	case s.Format == folded:
		s.columns = []string{"comm"}
	default:
		return c.fail("format %q: want columns, csv, pattern, log2 or folded", a(s.Format), "sources", i, "format")
	}
	if s.Pattern != "" && s.Format != "pattern" {
		return c.fail("pattern is for format pattern", nil, "sources", i, "pattern")
	}
	if err := c.compileSet(i, s, s.columns); err != nil {
		return err
	}
	if s.Format == folded {
		return c.checkFolded(i, s)
	}
	if s.Format == "log2" {
		return c.checkLog2(i, s)
	}
	for j, m := range c.d.Metrics {
		if m.Type == "histogram" && m.Value == "" {
			return c.fail("metric %s has no value for the %s source to observe", a(m.Name, s.Backend), "metrics", j)
		}
		if err := c.checkComputed(i, s, s.columns, append(slices.Clone(m.Labels), m.Value)); err != nil {
			return err
		}
	}
	return nil
}

// checkShown makes sure that a field is compared with a number.
func (c *checker) checkShown(i int, s Shown) error {
	if s == (Shown{}) {
		return nil
	}
	at := []any{"sources", i, "shown"}
	if err := c.field(s.Field, at...); err != nil {
		return err
	}
	switch {
	case c.d.Fields[c.d.Fields.index(s.Field)].Type == "string":
		return c.fail("shown: field %s is a string: want an int or float field", a(s.Field), at...)
	case c.d.Options[s.Option].Type != "int":
		return c.fail("shown: option %q: want an option of type int", a(s.Option), at...)
	case !(s.Scale > 0) || math.IsInf(s.Scale, 0):
		return c.fail("shown: scale %g: want a factor above 0", a(s.Scale), at...)
	}
	return nil
}

// checkLog2 checks a source whose histograms go to the tool's first metric.
func (c *checker) checkLog2(i int, s *Source) error {
	first := c.d.Metrics[0]
	if first.Type != "histogram" || first.Width != 0 {
		return c.fail("format log2 fills the first metric, and %s is no histogram of seconds", a(first.Name), "sources", i, "format")
	}
	return c.checkComputed(i, s, s.columns, first.Labels)
}

// checkFolded checks a source that prints stacks when it ends.
func (c *checker) checkFolded(i int, s *Source) error {
	switch {
	case c.d.Mode != onDemand:
		return c.fail("format folded is for mode on-demand: its tools print when they end", nil, "sources", i, "format")
	case s.Columns != "" || len(s.Headers) > 0:
		return c.fail("format folded has no columns: they are comm and the stack", nil, "sources", i)
	}
	for j, m := range c.d.Metrics {
		if m.Type != "counter" || m.Value != "" {
			return c.fail("format folded counts samples, and %s is no counter without a value", a(m.Name), "metrics", j)
		}
		if err := c.checkComputed(i, s, s.columns, m.Labels); err != nil {
			return err
		}
	}
	return nil
}

// checkStacks checks the map of stacks of a source that runs bpftrace.
func (c *checker) checkStacks(i int, s *Source) error {
	at := []any{"sources", i, "stacks"}
	switch {
	case c.d.Mode != onDemand:
		return c.fail("stacks are for mode on-demand: bpftrace prints them when it ends", nil, at...)
	case !c.mapInScripts(s, s.Stacks.Map):
		return c.fail("stacks: map @%s is in none of the scripts", a(s.Stacks.Map), append(at, "map")...)
	case !c.mapInScripts(s, s.Stacks.Total):
		return c.fail("stacks: total @%s is in none of the scripts", a(s.Stacks.Total), append(at, "total")...)
	case s.Maps[s.Stacks.Map] != nil:
		return c.fail("stacks: map @%s cannot feed a metric too", a(s.Stacks.Map), append(at, "map")...)
	}
	return nil
}

// checkScripts checks a source that runs bpftrace.
func (c *checker) checkScripts(i int, s *Source) error {
	switch {
	case len(s.Scripts) == 0:
		return c.fail("scripts is missing: the .bt files of this folder", nil, "sources", i)
	case len(s.Maps) == 0:
		return c.fail("maps is missing: what the scripts count in", nil, "sources", i)
	case len(s.Command) > 0 || len(s.Arguments) > 0 || s.Format != "" || s.Columns != "" || s.Pattern != "" || s.Shown != (Shown{}):
		return c.fail("command, arguments, format, columns, pattern and shown are for backends libbpf-tools and bcc", nil, "sources", i)
	}
	for j, name := range s.Scripts {
		if err := c.checkScript(s, name, "sources", i, "scripts", j); err != nil {
			return err
		}
	}
	if s.Rows != "" {
		rows, err := output.NewColumns(s.Rows, nil)
		if err != nil {
			return c.fail("rows: %v", a(err), "sources", i, "rows")
		}
		s.columns = rows.Names()
	}
	if s.Lost != "" && !c.mapInScripts(s, s.Lost) {
		return c.fail("lost: map @%s is in none of the scripts", a(s.Lost), "sources", i, "lost")
	}
	if s.Events != "" && !c.mapInScripts(s, s.Events) {
		return c.fail("events: map @%s is in none of the scripts", a(s.Events), "sources", i, "events")
	}
	for j, name := range s.Skipped {
		if m := c.d.Metric(name); m == nil || m.Type != "counter" || m.Value != "" {
			return c.fail("skipped names %q: want one of metrics, a counter of events", a(name), "sources", i, "skipped", j)
		}
	}
	if (s.Rows == "") != (s.Events == "") {
		return c.fail("rows and events go together: events is the map that counts what rows are printed of", nil, "sources", i)
	}
	all := slices.Clone(s.columns)
	if s.Stacks != nil {
		if err := c.checkStacks(i, s); err != nil {
			return err
		}
		all = append(all, s.Stacks.Keys...)
	}
	for _, name := range sortedKeys(s.Maps) {
		for _, key := range append(slices.Clone(s.Maps[name].Keys), sortedKeys(s.Maps[name].With)...) {
			if !slices.Contains(all, key) {
				all = append(all, key)
			}
		}
	}
	s.columns = all
	if err := c.compileSet(i, s, all); err != nil {
		return err
	}
	for _, name := range sortedKeys(s.Maps) {
		if err := c.checkMap(i, s, name, s.Maps[name]); err != nil {
			return err
		}
	}
	return nil
}

// checkScript looks at what every script must keep to, as all of them run in
// one program: maps are named after their tool, and there is no BEGIN or END.
func (c *checker) checkScript(s *Source, name string, at ...any) error {
	if !scriptName.MatchString(name) {
		return c.fail("script %q: want the name of a .bt file in this folder", a(name), at...)
	}
	text, err := readFile(c.d.dir, name)
	if err != nil {
		return c.fail("script %s: %v", a(name, err), at...)
	}
	c.d.scripts[name] = string(text)
	for _, used := range mapInUse.FindAllString(expandMacros(string(text)), -1) {
		c.d.maps[used] = true
	}
	for n, line := range strings.Split(string(text), "\n") {
		code, _, _ := strings.Cut(line, "//")
		if word := strings.ToLower(strings.TrimSpace(code)); strings.HasPrefix(word, "begin") || strings.HasPrefix(word, "end") {
			return fmt.Errorf("%s/%s:%d: BEGIN and END are not for scripts that share one bpftrace", strings.TrimSuffix(c.d.file, "/tool.yaml"), name, n+1)
		}
		for _, used := range optionInScript.FindAllStringSubmatch(code, -1) {
			if c.d.Options[used[1]].Type != "int" {
				return fmt.Errorf("%s/%s:%d: %s: want an option of type int", strings.TrimSuffix(c.d.file, "/tool.yaml"), name, n+1, used[0])
			}
		}
		for _, used := range mapInUse.FindAllString(code, -1) {
			if !strings.HasPrefix(used, "@"+c.d.Name+"_") {
				return fmt.Errorf("%s/%s:%d: map %s: want a name that begins with @%s_, as all scripts share one bpftrace",
					strings.TrimSuffix(c.d.file, "/tool.yaml"), name, n+1, used, c.d.Name)
			}
		}
	}
	return nil
}

func (c *checker) checkMap(i int, s *Source, name string, m *Map) error {
	at := []any{"sources", i, "maps", name}
	if !strings.HasPrefix(name, c.d.Name+"_") {
		return c.fail("map %s: want a name that begins with %s_", a(name, c.d.Name), at...)
	}
	if !c.mapInScripts(s, name) {
		return c.fail("map @%s is in none of the scripts", a(name), at...)
	}
	if m.Scale == 0 {
		m.Scale = 1
	}
	for _, other := range []string{m.Minus, m.Total} {
		if other != "" && !c.mapInScripts(s, other) {
			return c.fail("map @%s is in none of the scripts", a(other), at...)
		}
	}
	if m.Scale < 0 || math.IsNaN(m.Scale) || math.IsInf(m.Scale, 0) {
		return c.fail("map %s: scale %g: want a factor above 0", a(name, m.Scale), append(at, "scale")...)
	}
	keys := append(slices.Clone(m.Keys), sortedKeys(m.With)...)
	for j, key := range keys {
		if slices.Contains(keys[:j], key) {
			return c.fail("map %s: key %q stands here twice", a(name, key), at...)
		}
	}
	if at := slices.Index(m.Keys, "slot"); at >= 0 && at != len(m.Keys)-1 {
		return c.fail("map %s: slot is the last key of a histogram", a(name), "sources", i, "maps", name, "keys")
	}
	def := c.d.Metric(m.Metric)
	if m.Metric == "" {
		return c.fail("map %s feeds no metric: name one", a(name), at...)
	}
	if def == nil {
		return c.fail("no metric %q among metrics", a(m.Metric), at...)
	}
	if err := c.checkComputed(i, s, keys, def.Labels); err != nil {
		return err
	}
	return c.checkMapMetrics(name, m, at)
}

// checkMapMetrics makes sure that what a map holds suits its metrics.
func (c *checker) checkMapMetrics(name string, m *Map, at []any) error {
	metric := c.d.Metric(m.Metric)
	switch {
	case m.hasSlot() && metric.Type != "histogram":
		return c.fail("map %s: a key slot is for a histogram", a(name), at...)
	case m.Total != "" && metric.Type != "counter":
		return c.fail("map %s: total is for a map whose metric is a counter", a(name), at...)
	case m.Minus != "" && m.Total != "":
		return c.fail("map %s: minus and total do not go together", a(name), at...)
	}
	return nil
}

func (c *checker) mapInScripts(s *Source, name string) bool {
	for _, script := range s.Scripts {
		if slices.Contains(mapInUse.FindAllString(expandMacros(c.d.scripts[script]), -1), "@"+name) {
			return true
		}
	}
	return false
}

func (c *checker) compileSet(i int, s *Source, columns []string) error {
	s.set = make(map[string]expression)
	for _, field := range sortedKeys(s.Set) {
		if err := c.field(field, "sources", i, "set", field); err != nil {
			return err
		}
		// "direction" may be computed from columns only, so that the order of
		// the mapping has no meaning; a field in terms of another is nested.
		e, err := parseExpression(s.Set[field], columns)
		if err != nil {
			return c.fail("set %s: %v", a(field, err), "sources", i, "set", field)
		}
		s.set[field] = e
	}
	for at, column := range columns {
		if _, ok := s.set[column]; !ok && c.d.HasField(column) {
			s.set[column] = columnExpression(at)
		}
	}
	return nil
}

// checkComputed makes sure that fields follow from the columns at hand.
func (c *checker) checkComputed(i int, s *Source, columns, fields []string) error {
	have := make(map[int]bool)
	for at, column := range s.columns {
		have[at] = slices.Contains(columns, column)
	}
	for _, field := range fields {
		if field == "" {
			continue
		}
		e, ok := s.set[field]
		if !ok || !computable(e, have) {
			return c.fail("%s source does not give field %q: set it from %s, or to 'unknown'",
				a(s.Backend, field, strings.Join(columns, ", ")), "sources", i)
		}
	}
	return nil
}

func computable(e expression, have map[int]bool) bool {
	switch e := e.(type) {
	case columnExpression:
		return have[int(e)]
	case callExpression:
		for _, arg := range e.args {
			if !computable(arg, have) {
				return false
			}
		}
	}
	return true
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
