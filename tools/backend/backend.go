// Package backend finds the programs of bcc, libbpf-tools and bpftrace on this
// host, and tells what the running kernel has.
//
// The same tool is called by other names in other distributions, and other
// programs are called like it. So there is a list of places to look, and what
// is there is known by its content. It runs as root, so that only what nobody
// else can write to is taken.
package backend

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The backends, by the names that flags and definitions use.
const (
	BPFtrace = "bpftrace"
	Libbpf   = "libbpf-tools"
	BCC      = "bcc"
)

// Names are all backends in the default order of preference.
var Names = []string{BPFtrace, Libbpf, BCC}

// ErrNotInstalled is wrapped by Find's error when nothing fits.
var ErrNotInstalled = errors.New("not installed")

// Dirs are where programs are looked for. A service's PATH says nothing: what
// is found runs as root.
var Dirs = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"}

// toolDirs hold the tools of one backend alone, apart from other programs.
var toolDirs = map[string][]string{
	BCC: {
		"/usr/share/bcc/tools", // Fedora, RHEL, SUSE, Arch, Alpine, and bcc's own make install
		"/usr/libexec/bcc/tools", "/usr/libexec/bcc-tools", "/usr/lib/bcc/tools", "/usr/local/share/bcc/tools",
	},
	Libbpf: {"/usr/share/bcc/libbpf-tools", "/usr/libexec/libbpf-tools", "/usr/libexec/bcc/libbpf-tools", "/usr/lib/libbpf-tools"},
}

// names are what distributions call a tool, the surest first.
func names(backend, tool string) []string {
	switch backend {
	case BPFtrace:
		return []string{"bpftrace"}
	case Libbpf:
		// Debian 13; APP_PREFIX builds such as Fedora's; Debian 12.
		return []string{tool + "-libbpf", "bpf-" + tool, tool}
	case BCC:
		// Debian; everybody else.
		return []string{tool + "-bpfcc", tool, "bpf-" + tool}
	}
	return nil
}

// candidates are the paths under which distributions install a tool.
func candidates(backend, tool string) []string {
	var paths []string
	for _, dir := range toolDirs[backend] {
		for _, name := range names(backend, tool) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	for _, name := range names(backend, tool) {
		for _, dir := range Dirs {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths
}

// Find returns the path of the program by which a backend provides a tool; the
// tool's name is of no matter to bpftrace. The error is that of Trusted for the
// first program that fits but that others can write to; or it wraps
// ErrNotInstalled and names the first path whose content did not fit, if there
// was one.
func Find(backend, tool string) (string, error) {
	var misfit string
	var untrusted error
	for _, path := range candidates(backend, tool) {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		if !isBackend(backend, path) {
			misfit = first(misfit, path)
			continue
		}
		err = Trusted(path)
		if err == nil {
			return path, nil
		}
		if untrusted == nil {
			untrusted = err
		}
	}
	if untrusted != nil {
		return "", untrusted
	}
	if misfit != "" {
		return "", fmt.Errorf("%w (%s is another program)", ErrNotInstalled, misfit)
	}
	return "", ErrNotInstalled
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// isBackend looks into the file: libbpf-tools are ELF programs that load BPF
// objects with libbpf, bcc's are Python scripts that import bcc. perf-tools
// has shell scripts of the same names.
func isBackend(backend, path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 256)
	n, _ := io.ReadFull(f, head)
	head = head[:n]
	elf := bytes.HasPrefix(head, []byte("\x7fELF"))
	script := bytes.HasPrefix(head, []byte("#!"))
	switch backend {
	case BPFtrace:
		return elf || script
	case Libbpf:
		return elf && contains(f, "bpf_object__") && !contains(f, "libbcc.so")
	case BCC:
		line, _, _ := bytes.Cut(head, []byte("\n"))
		return script && bytes.Contains(line, []byte("python")) && (contains(f, "from bcc import") || contains(f, "import bcc"))
	}
	return false
}

// contains tells whether the text is in the first MiBs of the file.
func contains(f *os.File, text string) bool {
	const chunk = 64 << 10
	buffer := make([]byte, chunk+len(text))
	for at := int64(0); at < 8<<20; at += chunk {
		n, err := f.ReadAt(buffer, at)
		if bytes.Contains(buffer[:n], []byte(text)) {
			return true
		}
		if err != nil {
			return false
		}
	}
	return false
}
