package tools

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Option is something about a tool that a flag decides.
type Option struct {
	Help string `yaml:"help"`
	// Type is "bool", which is the default, "int" or "enum".
	Type string `yaml:"type"`
	// Default is the value without a flag. A bool needs none: false.
	Default string `yaml:"default"`
	// Min and Max bound an int, inclusive.
	Min *int64 `yaml:"min"`
	Max *int64 `yaml:"max"`
	// Values are the words of an enum.
	Values []string `yaml:"values"`
}

// IsBool tells whether the option is a switch.
func (o Option) IsBool() bool { return o.Type == "" || o.Type == "bool" }

// Initial is the value without a flag.
func (o Option) Initial() string {
	if o.Default == "" && o.IsBool() {
		return "false"
	}
	return o.Default
}

// Range is what may follow the help: nothing for a switch.
func (o Option) Range() string {
	if o.IsBool() {
		return ""
	}
	return fmt.Sprintf(" Want %s.", o.want())
}

func (o Option) want() string {
	switch o.Type {
	case "int":
		return fmt.Sprintf("a whole number from %d to %d", *o.Min, *o.Max)
	case "enum":
		return "one of " + strings.Join(o.Values, ", ")
	}
	return "true or false"
}

// Check tells what is wrong with a value, if anything is.
func (o Option) Check(value string) error {
	var ok bool
	switch o.Type {
	case "int":
		// Only the plain form: the value goes into arguments and scripts.
		n, err := strconv.ParseInt(value, 10, 64)
		ok = err == nil && strconv.FormatInt(n, 10) == value && n >= *o.Min && n <= *o.Max
	case "enum":
		ok = slices.Contains(o.Values, value)
	default:
		ok = value == "true" || value == "false"
	}
	if !ok {
		return fmt.Errorf("%q: want %s", value, o.want())
	}
	return nil
}

// CheckOptions tells what is wrong with the values of options by name, and
// which have none.
func (d *Definition) CheckOptions(values map[string]string) error {
	for _, name := range sortedKeys(values) {
		option, ok := d.Options[name]
		if !ok {
			return fmt.Errorf("%s: there is no such option", name)
		}
		if err := option.Check(values[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// option is the value of an option, or its default.
func (d *Definition) option(name string, values map[string]string) string {
	if value, ok := values[name]; ok {
		return value
	}
	return d.Options[name].Initial()
}

var (
	// optionInArgument is {NAME} in an argument of a command.
	optionInArgument = regexp.MustCompile(`\{([^{}]*)\}`)
	// optionInScript is option(NAME), which stands for an integer.
	optionInScript = regexp.MustCompile(`\boption\(([a-z][a-z0-9_]*)\)`)
	optionWord     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
)

// expandOptions puts the values of options in the place of what the pattern
// matches. No value gets there that its option does not allow.
func (d *Definition) expandOptions(pattern *regexp.Regexp, text string, values map[string]string) (string, error) {
	var failed error
	expanded := pattern.ReplaceAllStringFunc(text, func(use string) string {
		name := pattern.FindStringSubmatch(use)[1]
		option, ok := d.Options[name]
		if !ok { // in a comment: elsewhere the catalogue refuses it
			return use
		}
		value := d.option(name, values)
		if err := option.Check(value); err != nil && failed == nil {
			failed = fmt.Errorf("option %s: %w", name, err)
		}
		return value
	})
	return expanded, failed
}

// arguments are those of a text source's command, and those of the options that
// do not have their default.
func (d *Definition) arguments(s *Source, values map[string]string) ([]string, error) {
	words := slices.Clone(s.Command[1:])
	for _, name := range sortedKeys(s.Arguments) {
		if d.option(name, values) != d.Options[name].Initial() {
			words = append(words, s.Arguments[name]...)
		}
	}
	args := make([]string, 0, len(words))
	for _, arg := range words {
		expanded, err := d.expandOptions(optionInArgument, arg, values)
		if err != nil {
			return nil, err
		}
		args = append(args, expanded)
	}
	return args, nil
}

func (c *checker) checkOptions() error {
	for _, name := range sortedKeys(c.d.Options) {
		option := c.d.Options[name]
		if !fieldName.MatchString(name) {
			return c.fail("option %q: want small letters, digits and _, a letter first", a(name), "options", name)
		}
		if option.Help == "" {
			return c.fail("option %s has no help: say in one line what it does", a(name), "options", name)
		}
		if err := c.checkOptionType(name, option); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) checkOptionType(name string, o Option) error {
	at := []any{"options", name}
	if o.Type != "int" && (o.Min != nil || o.Max != nil) {
		return c.fail("option %s: min and max are for type int", a(name), at...)
	}
	if o.Type != "enum" && o.Values != nil {
		return c.fail("option %s: values are for type enum", a(name), at...)
	}
	switch o.Type {
	case "", "bool":
	case "int":
		if o.Min == nil || o.Max == nil || *o.Min > *o.Max {
			return c.fail("option %s: an int is bounded: want min and max, in this order", a(name), at...)
		}
	case "enum":
		if len(o.Values) == 0 {
			return c.fail("option %s: want the values of the enum", a(name), at...)
		}
		for i, value := range o.Values {
			if !optionWord.MatchString(value) || slices.Contains(o.Values[:i], value) {
				return c.fail("option %s: value %q: want words of letters, digits, _, . and -, each once", a(name, value), append(at, "values", i)...)
			}
		}
	default:
		return c.fail("option %s has type %q: want bool, int or enum", a(name, o.Type), append(at, "type")...)
	}
	if err := o.Check(o.Initial()); err != nil {
		return c.fail("option %s: default %v", a(name, err), append(at, "default")...)
	}
	return nil
}

// checkArguments makes sure that what arguments name in braces has a value to
// put there.
func (c *checker) checkArguments(i int, s *Source) error {
	for j, arg := range s.Command {
		if err := c.checkArgument(arg, "command", "sources", i, "command", j); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(s.Arguments) {
		if _, ok := c.d.Options[name]; !ok {
			return c.fail("arguments name option %q, which is not among options", a(name), "sources", i, "arguments", name)
		}
		for j, arg := range s.Arguments[name] {
			if err := c.checkArgument(arg, "arguments", "sources", i, "arguments", name, j); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) checkArgument(arg, key string, at ...any) error {
	for _, use := range optionInArgument.FindAllStringSubmatch(arg, -1) {
		if o, ok := c.d.Options[use[1]]; !ok || o.IsBool() {
			return c.fail("%s: %s: want an option of type int or enum", a(key, use[0]), at...)
		}
	}
	return nil
}
