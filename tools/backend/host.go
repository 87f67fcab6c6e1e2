package backend

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is what decides, beside the tools' own programs, which of them work.
type Host struct {
	System   string // as /etc/os-release names it, "" if it does not
	Kernel   string // release
	Machine  string
	BTF      bool   // the kernel describes its own types
	Headers  string // where the running kernel's headers are, "" if they are not
	Lockdown string // "none", "integrity", "confidentiality", or "unknown"
	Tracefs  string // where it is mounted, "" if it is not
	Root     bool
	Missing  []string // capabilities that the tools need and this process lacks
}

const osRelease = "/etc/os-release"

// ReadHost looks at this host.
func ReadHost() Host {
	var u unix.Utsname
	_ = unix.Uname(&u)
	h := Host{
		System: osReleaseValue(readText(osRelease), "PRETTY_NAME"),
		Kernel: unix.ByteSliceToString(u.Release[:]), Machine: unix.ByteSliceToString(u.Machine[:]),
		Lockdown: lockdown(readText("/sys/kernel/security/lockdown")),
		Root:     os.Geteuid() == 0, Missing: missingCapabilities(readText("/proc/self/status"), readText("/proc/sys/kernel/cap_last_cap")),
	}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	h.BTF = err == nil
	for _, dir := range []string{"/lib/modules/" + h.Kernel + "/build", "/sys/kernel/kheaders.tar.xz"} {
		if _, err := os.Stat(dir); err == nil && h.Headers == "" {
			h.Headers = dir
		}
	}
	for _, dir := range []string{tracefs, debugfs + "/tracing"} {
		if _, err := os.Stat(filepath.Join(dir, "events")); err == nil && h.Tracefs == "" {
			h.Tracefs = dir
		}
	}
	return h
}

func readText(file string) string {
	text, _ := os.ReadFile(file)
	return string(text)
}

// lockdown reads "none [integrity] confidentiality".
func lockdown(text string) string {
	_, rest, ok := strings.Cut(text, "[")
	mode, _, closed := strings.Cut(rest, "]")
	if !ok || !closed {
		return "unknown"
	}
	return mode
}

// capabilities are those without which most tools do not start.
var capabilities = map[int]string{
	unix.CAP_BPF: "CAP_BPF", unix.CAP_PERFMON: "CAP_PERFMON", unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_SYS_RESOURCE: "CAP_SYS_RESOURCE",
}

// missingCapabilities reads CapEff of /proc/PID/status. Of those that the kernel
// does not have yet none is missing.
func missingCapabilities(status, last string) []string {
	_, rest, _ := strings.Cut(status, "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	effective, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return nil
	}
	highest, err := strconv.Atoi(strings.TrimSpace(last))
	if err != nil {
		highest = 63
	}
	missing := []string{}
	for bit, name := range capabilities {
		if bit <= highest && effective&(1<<bit) == 0 {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	return missing
}

// osReleaseValue finds a value in the format of os-release(5).
func osReleaseValue(text, key string) string {
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), key+"="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}

// installers are how systems install what backends are in, by the IDs of
// os-release(5).
var installers = []struct {
	ids      []string
	command  string
	packages map[string]string
}{
	{[]string{"debian", "ubuntu"}, "apt-get install", map[string]string{BPFtrace: "bpftrace", Libbpf: "libbpf-tools", BCC: "bpfcc-tools"}},
	{[]string{"fedora", "rhel", "centos"}, "dnf install", map[string]string{BPFtrace: "bpftrace", Libbpf: "libbpf-tools", BCC: "bcc-tools"}},
	{[]string{"alpine"}, "apk add", map[string]string{BPFtrace: "bpftrace", BCC: "bcc-tools"}},
	{[]string{"arch"}, "pacman -S", map[string]string{BPFtrace: "bpftrace", Libbpf: "libbpf-tools", BCC: "bcc-tools"}},
}

// InstallCommand is the command that installs these backends on this system; ""
// if nobody knows.
func InstallCommand(backends []string) string { return installCommand(readText(osRelease), backends) }

func installCommand(release string, backends []string) string {
	ids := append([]string{osReleaseValue(release, "ID")}, strings.Fields(osReleaseValue(release, "ID_LIKE"))...)
	for _, id := range ids {
		for _, i := range installers {
			if !slices.Contains(i.ids, id) {
				continue
			}
			command := i.command
			for _, backend := range Names {
				if name := i.packages[backend]; name != "" && slices.Contains(backends, backend) {
					command += " " + name
				}
			}
			if command == i.command {
				return ""
			}
			return command
		}
	}
	return ""
}

// UnmountTracefs undoes MountTracefs, as far as nobody else uses it by now.
func UnmountTracefs(mounted []string) {
	for _, dir := range mounted {
		_ = unix.Unmount(dir, 0)
	}
}
