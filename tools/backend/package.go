package backend

import (
	"context"
	"os"
	"regexp"
	"strings"
	"time"

	"bpf_tools_exporter/tools/process"
)

// packageManagers tell, each in its own words, the version of the package that
// a file is from.
var packageManagers = []struct {
	path    string
	version func(manager, file string) string
}{
	{"/usr/bin/dpkg-query", dpkgVersion},
	{"/usr/bin/rpm", rpmVersion},
	{"/sbin/apk", apkVersion},
	{"/usr/bin/pacman", pacmanVersion},
}

// PackageVersion is the version of the distribution's package that a program
// is from, by dpkg, rpm, apk or pacman; "" if none of them knows the file.
func PackageVersion(path string) string {
	for _, m := range packageManagers {
		if _, err := os.Stat(m.path); err != nil {
			continue
		}
		if version := m.version(m.path, path); version != "" {
			return version
		}
	}
	return ""
}

// dpkgVersion tries the path without /usr too, under which packages from before
// the merge of /bin and /usr/bin list their files.
func dpkgVersion(manager, file string) string {
	for _, name := range []string{file, strings.TrimPrefix(file, "/usr")} {
		for line := range strings.Lines(run([]string{manager, "--search", name})) {
			owners, _, ok := strings.Cut(line, ": ")
			if !ok || strings.HasPrefix(line, "diversion by ") {
				continue
			}
			owner, _, _ := strings.Cut(owners, ", ")
			return firstLine(run([]string{manager, "--show", "--showformat", "${Version}", owner}))
		}
	}
	return ""
}

func rpmVersion(manager, file string) string {
	return firstLine(run([]string{manager, "-qf", "--queryformat", "%{VERSION}-%{RELEASE}\n", file}))
}

var apkOwner = regexp.MustCompile(` is owned by \S+?-(\d\S*)$`)

// apkVersion reads "/usr/bin/bpftrace is owned by bpftrace-0.21.2-r1".
func apkVersion(manager, file string) string {
	if m := apkOwner.FindStringSubmatch(firstLine(run([]string{manager, "info", "--who-owns", file}))); m != nil {
		return m[1]
	}
	return ""
}

var pacmanOwner = regexp.MustCompile(` is owned by \S+ (\S+)$`)

// pacmanVersion reads "/usr/bin/bpftrace is owned by bpftrace 0.21.2-1".
func pacmanVersion(manager, file string) string {
	if m := pacmanOwner.FindStringSubmatch(firstLine(run([]string{manager, "-Qo", file}))); m != nil {
		return m[1]
	}
	return ""
}

var anyVersion = regexp.MustCompile(`\bv?(\d+(?:\.\d+)+\S*)`)

// ProgramVersion is what a program that no package owns says of itself. bcc's
// scripts have no word for it: "".
func ProgramVersion(backend, path string) string {
	if backend == BCC {
		return ""
	}
	if m := anyVersion.FindStringSubmatch(firstLine(run([]string{path, "--version"}))); m != nil {
		return m[1]
	}
	return ""
}

// BPFtraceVersion asks the program.
func BPFtraceVersion(path string) (Version, error) {
	return ParseVersion(strings.TrimPrefix(firstLine(run([]string{path, "--version"})), "bpftrace "))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// run returns the stdout of a command that succeeds within half a minute: bpftrace alone takes seven seconds for its version on a slow machine.
func run(command []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var out strings.Builder
	p, err := process.Start(process.Spec{
		Path: command[0], Args: command[1:], Env: process.DefaultEnv(), MaxLine: 4096, Grace: time.Second,
		Stdout: func(line []byte, _ bool) {
			if out.Len() < 1<<16 {
				out.Write(line)
				out.WriteByte('\n')
			}
		},
		Stderr: func([]byte, bool) {},
	})
	if err != nil {
		return ""
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		<-p.Done()
	}
	if exit := p.Exit(); exit.Code != 0 {
		return ""
	}
	return out.String()
}
