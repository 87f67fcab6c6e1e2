package backend

import (
	"context"
	"os"
	"strings"
	"time"

	"bpf_tools_exporter/tools/process"
)

// PackageVersion is the version of the distribution's package that a program
// is from, by dpkg or rpm, or else what the program itself says of its version;
// "" if nobody knows.
func PackageVersion(path string) string {
	for _, query := range [][]string{
		{"/usr/bin/dpkg-query", "--search", path},
		{"/usr/bin/rpm", "-qf", "--queryformat", "%{VERSION}", path},
	} {
		if _, err := os.Stat(query[0]); err != nil {
			continue
		}
		out := run(query)
		if query[0] == "/usr/bin/rpm" {
			return firstLine(out)
		}
		if name, _, ok := strings.Cut(out, ":"); ok {
			if version := run([]string{query[0], "--show", "--showformat", "${Version}", name}); version != "" {
				return firstLine(version)
			}
		}
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

// run returns the stdout of a command that succeeds within ten seconds.
func run(command []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
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
