package kernels

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	suites = flag.String("kernels", "", "Debian suites whose kernels to boot, with commas between")
	deb    = flag.String("deb", "", "package to install")
	cache  = flag.String("cache", "", "folder of disk images")
	accel  = flag.String("accel", "tcg,thread=multi,tb-size=1024", "QEMU's accelerator")
	only   = flag.String("steps", allSteps, "steps to take in the machine, with commas between; what others reported before stays in docs/kernels.md")
	these  = flag.String("tools", allTools, "tools to try, with commas between; what others reported before stays")
	within = flag.Duration("within", 90*time.Minute, "time for one kernel")
)

const diskSize, resultsSize = 320 << 20, 1 << 20

// TestKernels runs TestGuest on each kernel and writes docs/kernels.md.
func TestKernels(t *testing.T) {
	if *suites == "" {
		t.Skip("boots virtual machines, which takes most of an hour for each kernel: make test-kernels")
	}
	needPrograms(t)
	if err := checkFlags(); err != nil {
		t.Fatal(err)
	}
	for _, suite := range strings.Split(*suites, ",") {
		t.Run(suite, func(t *testing.T) {
			image := filepath.Join(*cache, suite)
			makeImage(t, suite, image)
			result := machine{image: image, deb: *deb, cpus: 2, steps: *only, tools: *these, within: *within}.boot(t)
			if err := result.update(document, suite); err != nil {
				t.Error(err)
			}
			for _, fault := range result.faults() {
				t.Error(fault)
			}
		})
	}
}

// TestOneKernel is the part of the matrix that CI has time for: bcc, which
// compiles its programs with the headers of a kernel that has kprobes.
func TestOneKernel(t *testing.T) {
	if os.Getenv("CI") != "true" {
		t.Skip("boots a virtual machine, which takes minutes: CI=true, or make test-kernels")
	}
	needPrograms(t)
	if out, err := exec.Command("make", "-C", "../..", "package").CombinedOutput(); err != nil {
		t.Fatalf("make package: %v\n%s", err, out)
	}
	packages, err := filepath.Glob("../../dist/*_amd64.deb")
	if err != nil || len(packages) != 1 {
		t.Fatalf("packages %q, %v", packages, err)
	}
	image := t.TempDir()
	makeImage(t, "bookworm", image)
	t.Cleanup(func() {
		if console, _ := os.ReadFile(image + "/console.log"); t.Failed() {
			t.Logf("console:\n%s", console[max(0, len(console)-16<<10):])
		}
	})
	// With two CPUs QEMU 7.2, that of Debian 12, has locked up.
	result := machine{image: image, deb: packages[0], cpus: 1, steps: "install,bcc,remove", tools: "execsnoop", within: 20 * time.Minute}.boot(t)
	for _, fault := range result.faults() {
		t.Error(fault)
	}
	if len(result.Cells) != 1 || result.Cells[0].Verdict != "counts" || len(result.Checks) != 4 {
		t.Errorf("cells %+v, checks %+v; want execsnoop to count, and 4 checks", result.Cells, result.Checks)
	}
}

func needPrograms(t *testing.T) {
	t.Helper()
	for _, program := range []string{"qemu-system-x86_64", "mmdebstrap", "mke2fs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: apt-get install qemu-system-x86 mmdebstrap e2fsprogs", err)
		}
	}
}

// machine is what boots, with what happens in it.
type machine struct {
	image        string // folder
	deb          string
	cpus         int
	steps, tools string
	within       time.Duration // or it is ended
}

// checkFlags refuses names that would have nothing tried.
func checkFlags() error {
	known, tools := []string{allSteps}, slices.Concat([]string{allTools}, slices.Sorted(maps.Keys(loads)), slices.Sorted(maps.Keys(onDemand)))
	for _, step := range steps {
		known = append(known, step.name)
	}
	for _, f := range []struct {
		name, value string
		known       []string
	}{{"steps", *only, known}, {"tools", *these, tools}} {
		for _, name := range strings.Split(f.value, ",") {
			if !slices.Contains(f.known, name) {
				return fmt.Errorf("-%s: %q is none of %s", f.name, name, strings.Join(f.known, ", "))
			}
		}
	}
	return nil
}

func makeImage(t *testing.T, suite, folder string) {
	t.Helper()
	if out, err := exec.Command("./image.sh", suite, folder).CombinedOutput(); err != nil {
		t.Fatalf("image.sh: %v\n%s", err, out)
	}
}

// boot starts the machine, waits for its end and returns what it reports.
func (m machine) boot(t *testing.T) *Result {
	t.Helper()
	image := m.image
	dir := t.TempDir()
	payload, scratch := filepath.Join(dir, "payload"), filepath.Join(dir, "scratch")
	results, xfs := filepath.Join(dir, "results"), filepath.Join(dir, "xfs")
	m.writePayload(t, payload)
	for file, size := range map[string]int64{scratch: diskSize, results: resultsSize, xfs: diskSize} {
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	port := freePort(t)
	drive := func(file, options string) []string {
		return []string{"-drive", "file=" + file + ",if=virtio,format=raw,cache=unsafe" + options}
	}
	// QEMU emulates AVX slower than what programs do without it, and translates a
	// library again for every address that it is mapped to.
	cpu, boot := "max,la57=off,avx=off,avx2=off,f16c=off,fma=off", " norandmaps"
	if strings.HasPrefix(*accel, "kvm") {
		cpu, boot = "host", ""
	}
	args := []string{"-accel", *accel, "-cpu", cpu, "-smp", strconv.Itoa(m.cpus), "-m", "4096", "-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "file:" + image + "/console.log",
		"-kernel", image + "/vmlinuz", "-initrd", image + "/initrd.img",
		"-append", "root=/dev/vda rw console=ttyS0 mitigations=off quiet panic=-1 net.ifnames=0" + boot,
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-:10101", port),
		"-device", "virtio-net-pci,netdev=net,romfile="}
	args = append(args, drive(image+"/root.ext4", ",snapshot=on")...)
	args = append(args, drive(payload, ",readonly=on")...)
	args = append(args, drive(scratch, "")...)
	args = append(args, drive(results, "")...)
	args = append(args, drive(xfs, "")...)

	var out bytes.Buffer
	qemu := exec.Command("qemu-system-x86_64", args...)
	qemu.Stdout, qemu.Stderr = &out, &out
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- qemu.Wait() }()
	begin, scraped := time.Now(), 0
	for running := true; running; {
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("qemu: %v\n%s", err, out.Bytes())
			}
			running = false
		case <-time.After(2 * time.Second):
			if scraped == 0 && canScrape(port) {
				scraped++
			}
			if time.Since(begin) > m.within {
				t.Errorf("the machine still runs after %s: killed", m.within)
				_ = qemu.Process.Kill()
			}
		}
	}
	t.Logf("%s: ran for %s; console in %s/console.log", filepath.Base(image), time.Since(begin).Round(time.Second), image)
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	result := new(Result)
	if err := json.Unmarshal(bytes.TrimRight(text, "\x00"), result); err != nil {
		t.Fatalf("the machine reports nothing: %v; see %s/console.log", err, image)
	}
	if scraped == 0 {
		result.check("the host scrapes the exporter in the machine", fmt.Errorf("no scrape succeeded"), "")
	} else {
		result.check("the host scrapes the exporter in the machine", nil, "")
	}
	return result
}

func canScrape(port int) bool {
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
	if err != nil {
		return false
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return strings.Contains(string(body), "\nbpf_tool_up{")
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// writePayload makes the archive that the machine unpacks: the package, and
// this very program to run there.
func (m machine) writePayload(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOARCH != "amd64" {
		t.Fatalf("the machines are amd64, this is %s", runtime.GOARCH)
	}
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	add := func(name string, content []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for name, file := range map[string]string{"guest": self, "package.deb": m.deb} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		add(name, content)
	}
	add("run", []byte("#!/bin/sh\ncd /payload && exec env "+guestEnv+"="+m.steps+" "+toolsEnv+"="+m.tools+" ./guest -test.run '^TestGuest$' -test.timeout 0 -test.v\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
