package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/backend"
)

// maxConfig bounds the config file, in bytes.
const maxConfig = 1 << 20

// A setting is a flag that --config.file gives a value: "collector.execsnoop"
// with "true".
type setting struct {
	name   string
	values []string
	line   int
}

// readConfig reads a YAML file of flags, without their dashes. Names can be nested
// at their dots; in a list, or with commas, a flag has several values. Under
// collector.NAME, "enabled" is the flag itself:
//
//	collector:
//	  opensnoop: {enabled: true, failed: true}
//	tools.max-series: 1000
//
// What is in the file decides what runs as root: nobody else may write to it.
func readConfig(file string) ([]setting, error) {
	if err := backend.Trusted(file); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, errors.Unwrap(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, errors.Unwrap(err))
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("%s: has more than %d bytes", file, maxConfig)
	}
	settings, err := parseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", file, err)
	}
	return settings, nil
}

// parseConfig reads what readConfig does. Errors begin with the line.
func parseConfig(text []byte) ([]setting, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var root yaml.Node
	switch err := decoder.Decode(&root); {
	case err == io.EOF:
		return nil, nil
	case err != nil:
		line, what, ok := strings.Cut(strings.TrimPrefix(err.Error(), "yaml: line "), ": ")
		if !ok {
			line, what = "1", err.Error()
		}
		return nil, fmt.Errorf("%s: is no YAML: %s", line, what)
	}
	if err := decoder.Decode(new(yaml.Node)); err != io.EOF {
		return nil, fmt.Errorf("%d: the file is one YAML document: remove what follows the first", root.Line)
	}
	if len(root.Content) == 1 && root.Content[0].Tag == "!!null" {
		return nil, nil
	}
	return flatten(nil, root.Content[0], nil)
}

// flatten appends the settings of a node, whose names begin with the path.
func flatten(settings []setting, node *yaml.Node, path []string) ([]setting, error) {
	name := strings.Join(path, ".")
	add := func(values ...string) ([]setting, error) {
		for _, s := range settings {
			if s.name == name {
				return nil, fmt.Errorf("%d: %s has a value in line %d already", node.Line, name, s.line)
			}
		}
		return append(settings, setting{name, values, node.Line}), nil
	}
	switch {
	case node.Kind == yaml.AliasNode:
		return nil, fmt.Errorf("%d: aliases are not for this file: write the value again", node.Line)
	case node.Kind == yaml.MappingNode:
		return flattenMapping(settings, node, path)
	case len(path) == 0:
		return nil, fmt.Errorf("%d: want a mapping of flags to values, such as tools.max-series: 1000", node.Line)
	case node.Kind == yaml.SequenceNode:
		values := make([]string, len(node.Content))
		for i, item := range node.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return nil, fmt.Errorf("%d: %s: want a list of plain values", item.Line, name)
			}
			values[i] = item.Value
		}
		return add(values...)
	case node.Tag == "!!null":
		return nil, fmt.Errorf("%d: %s has no value", node.Line, name)
	}
	return add(node.Value)
}

func flattenMapping(settings []setting, node *yaml.Node, path []string) ([]setting, error) {
	var err error
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		at := append(slices.Clone(path), key.Value)
		if isTool := strings.HasPrefix(strings.Join(path, "."), "collector."); isTool && key.Value == "enabled" {
			at = path
		}
		if settings, err = flatten(settings, value, at); err != nil {
			return nil, err
		}
	}
	return settings, nil
}

// repeated are the flags that may stand several times; lists of others are
// joined with commas.
var repeated = []string{"tools.directory", "web.listen-address"}

// fixed are the flags that the file cannot set.
var fixed = []string{"config.file", "help", "version"}

// normalize makes lists what the flag takes and refuses what only the command
// line can say.
func (s setting) normalize() (setting, error) {
	if slices.Contains(fixed, s.name) {
		return s, fmt.Errorf("%d: %s is for the command line only", s.line, s.name)
	}
	if !slices.Contains(repeated, s.name) {
		s.values = []string{strings.Join(s.values, ",")}
	}
	return s, nil
}

// check tries the setting as the only flag of a command line, as far as one
// says something wrong.
func (s setting) check(catalog *tools.Catalog) error {
	_, app, _ := newFlags(catalog, nil)
	flag := app.GetFlag(s.name)
	if flag == nil {
		return fmt.Errorf("no flag %q: --help lists all", s.name)
	}
	var args []string
	for _, value := range s.values {
		switch {
		case !flag.Model().IsBoolFlag():
			args = append(args, "--"+s.name+"="+value)
		case value == "true":
			args = append(args, "--"+s.name)
		case value == "false":
			args = append(args, "--no-"+s.name)
		default:
			return fmt.Errorf("%s: %q: want true or false", s.name, value)
		}
	}
	if _, err := app.Parse(args); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}
