package backend

import (
	"slices"
	"testing"
)

func TestInstallCommand(t *testing.T) {
	for _, c := range []struct {
		release  string
		backends []string
		want     string
	}{
		{"ID=debian\nVERSION_ID=\"12\"\n", Names, "apt-get install bpftrace libbpf-tools bpfcc-tools"},
		{"NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n", []string{BCC}, "apt-get install bpfcc-tools"},
		{"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", []string{BPFtrace}, "apt-get install bpftrace"},
		{"ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", []string{BPFtrace, BCC}, "dnf install bpftrace bcc-tools"},
		{"ID=fedora\n", []string{Libbpf}, "dnf install libbpf-tools"},
		{"ID='alpine'\n", Names, "apk add bpftrace bcc-tools"},
		{"ID=alpine\n", []string{Libbpf}, ""},
		{"ID=arch\n", []string{BCC}, "pacman -S bcc-tools"},
		{"ID=manjaro\nID_LIKE=arch\n", []string{BPFtrace}, "pacman -S bpftrace"},
		{"ID=nixos\n", Names, ""},
		{"", Names, ""},
		{"ID=debian\n", nil, ""},
	} {
		if got := installCommand(c.release, c.backends); got != c.want {
			t.Errorf("%q, %v: got %q, want %q", c.release, c.backends, got, c.want)
		}
	}
}

func TestLockdown(t *testing.T) {
	for text, want := range map[string]string{
		"[none] integrity confidentiality\n": "none", "none [integrity] confidentiality\n": "integrity",
		"none integrity [confidentiality]\n": "confidentiality", "": "unknown", "none [": "unknown",
	} {
		if got := lockdown(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestMissingCapabilities(t *testing.T) {
	for _, c := range []struct {
		status, last string
		want         []string
	}{
		{"Name:\tx\nCapEff:\t000001ffffffffff\n", "40\n", []string{}},
		{"Name:\tx\nCapEff:\t0000003fffffffff\n", "40\n", []string{"CAP_BPF", "CAP_PERFMON"}},
		{"Name:\tx\nCapEff:\t0000003fffffffff\n", "37\n", []string{}},
		{"Name:\tx\nCapEff:\t0000000000000000\n", "40", []string{"CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"}},
		{"Name:\tx\n", "40", nil},
	} {
		if got := missingCapabilities(c.status, c.last); !slices.Equal(got, c.want) {
			t.Errorf("%q, %q: %q, want %q", c.status, c.last, got, c.want)
		}
	}
}

func TestReadHost(t *testing.T) {
	h := ReadHost()
	if h.Kernel == "" || h.Machine == "" || h.Lockdown == "" {
		t.Errorf("%+v", h)
	}
}
