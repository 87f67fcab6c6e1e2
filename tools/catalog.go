// Package tools is the catalogue of BPF tools and all that runs them.
//
// A tool is a folder with a tool.yaml (a [Definition]), the bpftrace scripts of
// its own sources, and recordings of real output in testdata. [Load] reads and
// checks the built-in folders and an operator's. A [Manager] picks for each
// enabled tool the first source that attaches on this host, keeps it running
// and turns what it prints into samples and events.
package tools

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"

	"bpf_tools_exporter/tools/backend"
)

//go:embed */tool.yaml */*.bt
var builtin embed.FS

// A Catalog holds the definitions of all tools, built-in and an operator's.
type Catalog struct {
	tools map[string]*Definition
}

// Load reads the built-in definitions and then those of each folder in dirs: a
// subfolder NAME with a tool.yaml defines tool NAME, and replaces a built-in of
// that name. Two folders that define the same tool are an error. An operator's
// files must belong to root or the exporter's user and be writable by nobody
// else. Errors say file, line and what would be right, one line each.
func Load(dirs []string) (*Catalog, error) {
	c := &Catalog{tools: make(map[string]*Definition)}
	names, err := subfolders(builtin)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		folder, err := fs.Sub(builtin, name)
		if err != nil {
			return nil, err
		}
		d, err := parse(folder, name, path.Join("tools", name, "tool.yaml"))
		if err != nil {
			return nil, fmt.Errorf("built-in %w", err)
		}
		c.tools[name] = d
	}
	if err := c.addDirs(dirs); err != nil {
		return nil, err
	}
	return c, c.checkMetrics()
}

func (c *Catalog) addDirs(dirs []string) error {
	from := make(map[string]string)
	for _, dir := range dirs {
		names, err := subfolders(os.DirFS(dir))
		if err != nil {
			return fmt.Errorf("%s: %w", dir, reason(err))
		}
		for _, name := range names {
			file := filepath.Join(dir, name, "tool.yaml")
			if first, ok := from[name]; ok {
				return fmt.Errorf("%s: tool %q is defined already in %s: remove one of them", file, name, first)
			}
			from[name] = file
			d, err := loadDir(filepath.Join(dir, name), name)
			if err != nil {
				return err
			}
			c.tools[name] = d
		}
	}
	return nil
}

// reason drops the operation and path of an fs error: the caller names them.
func reason(err error) error {
	var perr *fs.PathError
	if errors.As(err, &perr) {
		return perr.Err
	}
	return err
}

func subfolders(f fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(f, ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if _, err := fs.Stat(f, path.Join(entry.Name(), "tool.yaml")); err == nil {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// loadDir reads an operator's tool after a look at who can write to it: what
// is in there runs as root.
func loadDir(dir, name string) (*Definition, error) {
	file := filepath.Join(dir, "tool.yaml")
	// The folder too, as the tool's may be a link in it.
	for _, p := range []string{filepath.Dir(dir), file} {
		if err := backend.Trusted(p); err != nil {
			return nil, err
		}
	}
	d, err := parse(os.DirFS(dir), name, file)
	if err != nil {
		return nil, err
	}
	for _, s := range d.Sources {
		for _, script := range s.Scripts {
			if err := backend.Trusted(filepath.Join(dir, script)); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

// checkMetrics refuses two tools with a metric, or a bpftrace map, of the same
// name.
func (c *Catalog) checkMetrics() error {
	owner := make(map[string]string)
	for _, d := range c.Tools() {
		for _, name := range sortedKeys(d.maps) {
			if other, ok := owner[name]; ok {
				return fmt.Errorf("%s: map %s is tool %q's already: choose another name", d.file, name, other)
			}
			owner[name] = d.Name
		}
		for _, m := range d.Metrics {
			if other, ok := owner[m.Name]; ok {
				return fmt.Errorf("%s: metric %s is tool %q's already: choose another name", d.file, m.Name, other)
			}
			owner[m.Name] = d.Name
		}
	}
	return nil
}

// Tools returns all definitions by name.
func (c *Catalog) Tools() []*Definition {
	all := make([]*Definition, 0, len(c.tools))
	for _, d := range c.tools {
		all = append(all, d)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// Tool returns the definition of that name, or nil.
func (c *Catalog) Tool(name string) *Definition { return c.tools[name] }

// Digest is the same for catalogues of the same definitions and scripts.
func (c *Catalog) Digest() string {
	sum := sha256.New()
	for _, d := range c.Tools() {
		fmt.Fprintf(sum, "%q %q %q\n", d.file, d.text, fmt.Sprint(d.scripts)) // Sprint sorts
	}
	return hex.EncodeToString(sum.Sum(nil))
}
