package kernels

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// guestEnv tells the test binary that it is in the machine.
const guestEnv = "KERNEL_MATRIX_GUEST"

const (
	unit     = "bpf_tools_exporter.service"
	flags    = "/etc/default/bpf_tools_exporter"
	dropIn   = "/etc/systemd/system/bpf_tools_exporter.service.d"
	xfsDir   = "/mnt/xfs"
	exporter = "http://127.0.0.1:10101"
)

func TestMain(m *testing.M) {
	if os.Getenv(hogEnv) != "" {
		hog()
	}
	os.Exit(m.Run())
}

// TestGuest is what happens in the machine. It reports after each step, so that
// what came out before a fault is not lost.
func TestGuest(t *testing.T) {
	if os.Getenv(guestEnv) == "" {
		t.Skip("runs in a virtual machine: make test-kernels")
	}
	g := &guest{t: t}
	g.prepare()
	g.install()
	g.hardening()
	g.tryTools()
	g.unprivileged()
	g.upgrade()
	g.remove()
}

type guest struct {
	t      *testing.T
	result Result
	tools  []tool
}

// tool is what the exporter says of one.
type tool struct {
	Name     string
	Mode     string
	Default  bool
	State    string
	Reason   string
	Source   *struct{ Backend, Version string }
	Rejected []struct{ Backend, Reason string }
}

func (g *guest) log(format string, args ...any) {
	fmt.Printf("%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// report writes the result to the last disk.
func (g *guest) report() {
	text, err := json.Marshal(g.result)
	if err == nil {
		text = append(text, make([]byte, (len(text)/512+1)*512-len(text))...)
		err = os.WriteFile(resultsDisk, append(text, make([]byte, 4096)...), 0)
	}
	if err != nil {
		g.log("report: %v", err)
	}
	_ = exec.Command("sync").Run()
}

func (g *guest) check(name string, err error, detail string) {
	g.result.check(name, err, detail)
	g.log("%s: %v %s", name, err, detail)
	g.report()
}

// sh runs a shell command and returns what it prints.
func sh(command string) (string, error) {
	c := exec.Command("/bin/sh", "-c", command)
	c.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive")
	out, err := c.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", command, err, text)
	}
	return text, nil
}

func (g *guest) prepare() {
	for _, command := range []string{
		"for i in 1 2 3 4 5 6 7 8 9; do ip link show eth0 && break; sleep 2; done; ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0",
		"mkfs.xfs -q -f " + xfsDisk + " && mkdir -p " + xfsDir + " && mount " + xfsDisk + " " + xfsDir,
	} {
		if _, err := sh(command); err != nil {
			g.log("%v", err)
		}
	}
	g.result.Kernel, _ = sh("uname -r")
	g.result.Versions = make(map[string]string)
	for backend, name := range map[string]string{"bpftrace": "bpftrace", "libbpf-tools": "libbpf-tools", "bcc": "bpfcc-tools"} {
		if version, err := sh("dpkg-query -W -f '${Version}' " + name); err == nil {
			g.result.Versions[backend] = version
		}
	}
	g.report()
}

// install installs the package.
func (g *guest) install() {
	_, err := sh("dpkg -i /payload/package.deb")
	if err == nil {
		err = eventually(3*time.Minute, func() error {
			_, err := get("/-/healthy")
			return err
		})
	}
	if err == nil {
		_, err = sh("systemctl is-active " + unit + " && systemctl is-enabled " + unit + " && getent passwd bpf_tools_exporter")
	}
	g.check("the package installs, and its service starts and is enabled", err, "")

}

// upgrade installs the package over a changed configuration: without tools, which
// take all of a slow machine to start.
func (g *guest) upgrade() {
	_, err := sh("echo 'ARGS=\"--collector.disable-defaults\"' >" + flags + " && systemctl restart " + unit + " && dpkg -i /payload/package.deb && grep -q disable-defaults " + flags)
	if err == nil {
		err = eventually(3*time.Minute, func() error {
			_, err := sh("systemctl is-active " + unit + " && tr '\\0' ' ' </proc/$(systemctl show -p MainPID --value " + unit + ")/cmdline | grep disable-defaults")
			return err
		})
	}
	g.check("an upgrade keeps the configuration and restarts the service", err, "")
}

func (g *guest) hardening() {
	out, err := sh("systemd-analyze security --no-pager " + unit + " | tail -n 1")
	exposure := regexp.MustCompile(`[\d.]+ [A-Z]+`).FindString(out)
	if err == nil && exposure == "" {
		err = fmt.Errorf("%q", out)
	}
	g.check("`systemd-analyze security`", err, exposure)
}

// remove removes and purges the package.
func (g *guest) remove() {
	_, err := sh("dpkg --remove bpf-tools-exporter && test -e " + flags + " && ! systemctl is-active " + unit + " && ! pgrep -x bpftrace && ! test -e /usr/bin/bpf_tools_exporter")
	g.check("removal stops the service with its tools and keeps the configuration", err, "")
	_, err = sh("rm -rf " + dropIn + "; dpkg --purge bpf-tools-exporter && ! test -e " + flags + " && ! test -e /etc/bpf_tools_exporter && ! test -e /var/log/bpf_tools_exporter && " +
		"! find /etc /usr /var/lib /var/log -name '*bpf_tools_exporter*' | grep .")
	g.check("purging leaves nothing", err, "")
}

// restart starts the service anew with other flags and returns when each tool
// is up or has been given up.
func (g *guest) restart(args ...string) error {
	args = append(args, "--tools.start-timeout=20m", "--tools.cpu-limit=0", "--tools.memory-limit=0")
	text := "ARGS=\"" + strings.Join(args, " ") + "\"\n"
	if err := os.WriteFile(flags, []byte(text), 0o644); err != nil {
		return err
	}
	if out, err := sh("systemctl daemon-reload && systemctl restart " + unit); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	err := eventually(40*time.Minute, func() error {
		if state, err := sh("systemctl is-active " + unit); err != nil {
			return fmt.Errorf("the service is %s", state)
		}
		_, err := get("/-/ready")
		return err
	})
	if err != nil {
		journal, _ := sh("journalctl -u " + unit + " -n 5 --no-pager -o cat")
		return fmt.Errorf("%w: %s", err, journal)
	}
	return g.readTools()
}

func (g *guest) readTools() error {
	body, err := get("/tools")
	if err != nil {
		return err
	}
	g.tools = nil
	return json.Unmarshal([]byte(body), &g.tools)
}

// tryTools has each tool served by each backend, some at a time as each of bcc
// is a process of some hundred MiB: first those that run by default.
func (g *guest) tryTools() {
	if err := g.restart("--collector.disable-defaults"); err != nil {
		g.check("the exporter starts without tools", err, "")
		return
	}
	var byDefault, others []string
	for _, t := range g.tools {
		if t.Default {
			byDefault = append(byDefault, t.Name)
		} else {
			others = append(others, t.Name)
		}
	}
	for _, group := range append([][]string{byDefault}, slices.Collect(slices.Chunk(others, 5))...) {
		for _, backend := range []string{"libbpf-tools", "bpftrace", "bcc"} {
			g.tryGroup(backend, group)
		}
	}
}

func (g *guest) tryGroup(backend string, group []string) {
	args := []string{"--collector.disable-defaults", "--tools.backends=" + backend}
	for _, name := range group {
		args = append(args, "--collector."+name)
	}
	g.log("%s: starting %s", backend, strings.Join(group, ", "))
	err := g.restart(args...)
	for _, name := range group {
		cell := Cell{Tool: name, Backend: backend}
		if err != nil {
			cell.Verdict, cell.Detail = "wrong", err.Error()
		} else {
			g.try(&cell)
		}
		g.log("%s by %s: %s %s", cell.Tool, cell.Backend, cell.Verdict, cell.Detail)
		g.result.Cells = append(g.result.Cells, cell)
		g.report()
	}
}

// try makes the load of one tool and compares.
func (g *guest) try(cell *Cell) {
	i := slices.IndexFunc(g.tools, func(t tool) bool { return t.Name == cell.Tool })
	t := g.tools[i]
	if t.State == "down" {
		cell.Verdict, cell.Detail = "refuses", "no such tool there"
		for _, r := range t.Rejected {
			if r.Backend == cell.Backend {
				cell.Detail = r.Reason
			}
		}
		return
	}
	if t.Mode == "on-demand" {
		g.tryOnDemand(cell)
		return
	}
	if t.State != "up" {
		cell.Verdict, cell.Detail = "wrong", "it is "+t.State+": "+t.Reason
		return
	}
	load := loads[cell.Tool]
	if load == nil {
		cell.Verdict, cell.Detail = "wrong", "load_test.go has no load for it"
		return
	}
	cell.Verdict, cell.Detail = "counts", ""
	if err := compare(load); err != nil {
		cell.Verdict, cell.Detail = "wrong", err.Error()
	}
}

// compare makes a load and waits until the metrics have risen by it: by no
// more, also a moment later.
func compare(load func() ([]want, error)) error {
	before, err := scrape()
	if err != nil {
		return err
	}
	wants, err := load()
	if err != nil {
		return fmt.Errorf("no load: %w", err)
	}
	check := func() error {
		now, err := scrape()
		if err != nil {
			return err
		}
		for _, w := range wants {
			rise := now.sum(w.metric, w.labels) - before.sum(w.metric, w.labels)
			if rise < w.n-w.fewer || rise > w.n+w.others {
				return fmt.Errorf("%s%v rose by %v instead of %v", w.metric, w.labels, rise, w.n)
			}
		}
		return nil
	}
	if err := eventually(time.Minute, check); err != nil {
		return err
	}
	time.Sleep(7 * time.Second) // an interval of the text tools
	return check()
}

// tryOnDemand runs a tool for a few seconds.
func (g *guest) tryOnDemand(cell *Cell) {
	before, _ := scrape()
	if _, err := get("/probe?tool=" + cell.Tool + "&duration=5s"); err != nil {
		cell.Verdict, cell.Detail = "refuses", err.Error()
		return
	}
	metric := map[string]string{"runqlat": "bpf_runqlat_seconds", "profile": "bpf_profile_samples_total"}[cell.Tool]
	now, err := scrape()
	if rise := now.sum(metric, nil) - before.sum(metric, nil); err != nil || rise < 5 {
		cell.Verdict, cell.Detail = "wrong", fmt.Sprintf("%s rose by %v in five seconds (%v)", metric, rise, err)
		return
	}
	cell.Verdict = "counts"
}

// unprivileged runs the tools as another user than root, with capabilities.
func (g *guest) unprivileged() {
	if _, err := sh("mkdir -p " + dropIn + " && cp /usr/share/doc/bpf-tools-exporter/unprivileged.conf " + dropIn + "/"); err != nil {
		g.check("runs without root", err, "")
		return
	}
	defer sh("rm -rf " + dropIn)
	for _, backend := range backends {
		if g.result.Versions[backend] == "" {
			continue
		}
		args := []string{"--collector.disable-defaults", "--tools.backends=" + backend, "--collector.execsnoop", "--collector.tcplife", "--collector.biolatency"}
		err := g.restart(args...)
		var works, not []string
		for _, t := range g.tools {
			load := loads[t.Name]
			switch {
			case err != nil || !slices.Contains(args, "--collector."+t.Name):
			case t.State != "up":
				not = append(not, t.Name+": "+t.Reason)
			default:
				if wrong := compare(load); wrong != nil {
					err = errors.Join(err, fmt.Errorf("%s: %w", t.Name, wrong))
				} else {
					works = append(works, t.Name)
				}
			}
		}
		g.check("as a user with capabilities, "+backend, err, fmt.Sprintf("count: %s; do not run: %s", list(works), list(not)))
	}
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// eventually tries until it succeeds or the time is over.
func eventually(within time.Duration, try func() error) error {
	for end := time.Now().Add(within); ; time.Sleep(2 * time.Second) {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// get asks the exporter for JSON, or whatever the path has.
func get(path string) (string, error) {
	request, err := http.NewRequest("GET", exporter+path, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Accept", "application/json, text/plain")
	client := http.Client{Timeout: 10 * time.Minute}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", strconv.Itoa(response.StatusCode), strings.TrimSpace(string(body)))
	}
	return string(body), err
}

type metrics map[string]*dto.MetricFamily

func scrape() (metrics, error) {
	body, err := get("/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(body))
}

// sum adds all series that have the labels; of a histogram, the counts.
func (m metrics) sum(name string, labels map[string]string) float64 {
	var sum float64
	for _, series := range m[name].GetMetric() {
		matched := 0
		for _, pair := range series.Label {
			if want, ok := labels[pair.GetName()]; ok && want == pair.GetValue() {
				matched++
			}
		}
		if matched == len(labels) {
			sum += series.GetCounter().GetValue() + float64(series.GetHistogram().GetSampleCount())
		}
	}
	return sum
}
