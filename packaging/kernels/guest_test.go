package kernels

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// guestEnv tells the test binary that it is in the machine, and the steps to
// take; toolsEnv the tools to try.
const (
	guestEnv = "KERNEL_MATRIX_GUEST"
	toolsEnv = "KERNEL_MATRIX_TOOLS"
	allSteps = "all"
	allTools = "all"
)

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

// steps are what happens in the machine, in this order.
var steps = []struct {
	name string
	do   func(*guest)
}{
	{"install", (*guest).install},
	{"hardening", (*guest).hardening},
	{"libbpf-tools", func(g *guest) { g.tryTools("libbpf-tools") }},
	{"bpftrace", func(g *guest) { g.tryTools("bpftrace") }},
	{"bcc", func(g *guest) { g.tryTools("bcc") }},
	{"unprivileged", (*guest).unprivileged},
	{"capabilities", (*guest).capabilities},
	{"robustness", (*guest).robustness},
	{"socket", (*guest).socket},
	{"upgrade", (*guest).upgrade},
	{"remove", (*guest).remove},
}

// slowSteps are taken only when asked for: one start for each capability.
var slowSteps = []string{"capabilities"}

// TestGuest is what happens in the machine. It reports after each step, so that
// what came out before a fault is not lost.
func TestGuest(t *testing.T) {
	wanted := os.Getenv(guestEnv)
	if wanted == "" {
		t.Skip("runs in a virtual machine: make test-kernels")
	}
	g := &guest{t: t}
	g.prepare()
	for _, step := range steps {
		all := wanted == allSteps && !slices.Contains(slowSteps, step.name)
		if all || slices.Contains(strings.Split(wanted, ","), step.name) {
			g.log("step %s", step.name)
			step.do(g)
		}
	}
	g.result.Done = true
	g.report()
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
	Source   *struct{ Backend, Version, Path string }
	SelfTest struct{ Result string } `json:"self_test"`
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

// socket has systemd listen instead of the exporter.
func (g *guest) socket() {
	_, err := sh("echo 'ARGS=\"--web.systemd-socket --collector.disable-defaults\"' >" + flags + " && systemctl stop " + unit + " && systemctl enable --now bpf_tools_exporter.socket")
	if err == nil {
		_, err = get("/-/healthy")
	}
	if err == nil {
		_, err = sh("systemctl is-active " + unit)
	}
	g.check("by its socket, the first connection starts the service", err, "")

	restarted := make(chan error, 1)
	go func() {
		_, err := sh("systemctl restart " + unit)
		restarted <- err
	}()
	answers := 0
	for waiting := err == nil; waiting; {
		select {
		case err = <-restarted:
			waiting = false
		default:
			if _, err = get("/-/healthy"); err != nil {
				waiting = false
			}
			answers++
		}
	}
	if err == nil && answers == 0 {
		err = errors.New("nothing was asked meanwhile")
	}
	_, err2 := sh("systemctl disable --now bpf_tools_exporter.socket && systemctl stop " + unit)
	g.check("no connection is refused while the service restarts behind its socket", errors.Join(err, err2), "")
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
	args = append([]string{"--tools.start-timeout=20m"}, args...)
	args = append(args, "--tools.cpu-limit=0", "--tools.memory-limit=0")
	text := "ARGS=\"" + strings.Join(args, " ") + "\"\n"
	if err := os.WriteFile(flags, []byte(text), 0o644); err != nil {
		return err
	}
	if out, err := sh("systemctl daemon-reload && systemctl restart " + unit); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	err := g.ready()
	journal, _ := sh("journalctl -u " + unit + " -b --no-pager -o cat | tac | sed '/msg=\"Listening on/q' | tac | cut -c1-300")
	g.log("%s", journal)
	return err
}

// ready returns when each tool is up or has been given up.
func (g *guest) ready() error {
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
	// What prints at intervals is up before it has proven itself.
	_ = eventually(3*time.Minute, func() error {
		if err := g.readTools(); err != nil {
			return err
		}
		for _, t := range g.tools {
			failing := t.State == "up" && t.SelfTest.Result == "failed" // and about to be ended
			if failing || t.SelfTest.Result == "pending" || t.State == "starting" {
				return fmt.Errorf("%s has not proven itself: %s", t.Name, t.State)
			}
		}
		return nil
	})
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

// isWanted tells whether a tool is among those to try.
func isWanted(tool string) bool {
	tools := os.Getenv(toolsEnv)
	return tools == allTools || slices.Contains(strings.Split(tools, ","), tool)
}

// tryTools has each tool served by a backend, some at a time.
func (g *guest) tryTools(backend string) {
	if err := g.restart("--collector.disable-defaults"); err != nil {
		g.check("the exporter starts without tools", err, "")
		return
	}
	// Those by default and the others apart: two tools of one kind see each
	// other's load.
	var byDefault, others, onDemand []string
	for _, t := range g.tools {
		switch {
		case !isWanted(t.Name):
		case t.Mode == "on-demand":
			onDemand = append(onDemand, t.Name)
		case t.Default:
			byDefault = append(byDefault, t.Name)
		default:
			others = append(others, t.Name)
		}
	}
	for _, kind := range [][]string{byDefault, others, onDemand} {
		for group := range slices.Chunk(kind, 5) {
			g.tryGroup(backend, group)
		}
	}
}

// tryGroup starts the tools of a group together. Those that are up then see the
// loads of all.
func (g *guest) tryGroup(backend string, group []string) {
	args := []string{"--collector.disable-defaults", "--tools.backends=" + backend, "--ondemand.max-concurrent=2"}
	for _, name := range group {
		args = append(args, "--collector."+name)
	}
	g.log("%s: starting %s", backend, strings.Join(group, ", "))
	err := g.restart(args...)
	cells, loaded := make([]Cell, len(group)), make(map[string]*Cell)
	var run []*Cell
	for i, name := range group {
		cell := &cells[i]
		cell.Tool, cell.Backend = name, backend
		switch t := g.tool(name); {
		case err != nil:
			cell.Verdict, cell.Detail = "wrong", err.Error()
		case t.State == "down":
			cell.Verdict, cell.Detail = "refuses", t.why(backend)
		case t.Mode == "on-demand":
			run = append(run, cell)
		case t.State != "up":
			cell.Verdict, cell.Detail = "wrong", "it is "+t.State+": "+t.Reason
		default:
			cell.Verdict = "counts"
			loaded[name] = cell
		}
	}
	for name, wrong := range compare(slices.Collect(maps.Keys(loaded))...) {
		loaded[name].Verdict, loaded[name].Detail = "wrong", wrong.Error()
	}
	var running sync.WaitGroup
	for _, cell := range run {
		running.Go(func() { tryOnDemand(cell) })
	}
	running.Wait()
	for _, cell := range cells {
		g.log("%s by %s: %s %s", cell.Tool, cell.Backend, cell.Verdict, cell.Detail)
	}
	g.result.Cells = append(g.result.Cells, cells...)
	g.report()
}

// tool is what the exporter said of one when it was last asked.
func (g *guest) tool(name string) tool {
	if i := slices.IndexFunc(g.tools, func(t tool) bool { return t.Name == name }); i >= 0 {
		return g.tools[i]
	}
	return tool{State: "unknown"}
}

// why says why a backend does not serve the tool.
func (t tool) why(backend string) string {
	for _, r := range t.Rejected {
		if r.Backend == backend {
			return r.Reason
		}
	}
	return backend + " has no such tool"
}

// compare makes the loads of tools and waits until their metrics have risen by
// them: by no more, also a moment later. It returns what is wrong, by tool.
func compare(names ...string) map[string]error {
	wrong := make(map[string]error)
	before, err := scrape()
	wants := make(map[string][]want)
	for _, name := range names {
		switch load := loads[name]; {
		case err != nil:
			wrong[name] = err
		case load == nil:
			wrong[name] = errors.New("load_test.go has no load for it")
		default:
			if wants[name], wrong[name] = load(); wrong[name] != nil {
				wrong[name] = fmt.Errorf("no load: %w", wrong[name])
				delete(wants, name)
			}
		}
	}
	check := func() error {
		now, err := scrape()
		for name, all := range wants {
			wrong[name] = errors.Join(err, rise(before, now, all))
		}
		return errors.Join(slices.Collect(maps.Values(wrong))...)
	}
	_ = eventually(time.Minute, check)
	time.Sleep(7 * time.Second) // an interval of the text tools
	_ = check()
	maps.DeleteFunc(wrong, func(_ string, err error) bool { return err == nil })
	for name := range wrong {
		now, _ := scrape()
		labels := map[string]string{"tool": name}
		wrong[name] = fmt.Errorf("%w; events lost: %v, parse errors: %v", wrong[name], now.sum("bpf_tool_events_lost_total", labels), now.sum("bpf_tool_parse_errors_total", labels))
	}
	return wrong
}

// rise tells whether metrics have risen by what a load did.
func rise(before, now metrics, wants []want) error {
	for _, w := range wants {
		if w.equals != "" {
			w.n = now.sum(w.equals, nil) - before.sum(w.equals, nil)
		}
		rise := now.sum(w.metric, w.labels) - before.sum(w.metric, w.labels)
		if rise < w.n-w.fewer || rise > w.n+w.others {
			return fmt.Errorf("%s%v rose by %v instead of %v", w.metric, w.labels, rise, w.n)
		}
	}
	return nil
}

// onDemand are the tools that run when asked, with what they count.
var onDemand = map[string]string{"runqlat": "bpf_runqlat_seconds", "profile": "bpf_profile_samples_total"}

// tryOnDemand runs a tool for a few seconds, beside a load of system calls.
func tryOnDemand(cell *Cell) {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = os.ReadFile("/proc/self/smaps")
				time.Sleep(10 * time.Millisecond)
			}
		}
	}()
	before, _ := scrape()
	path := "/probe?tool=" + cell.Tool + "&duration=5s"
	if cell.Tool == "profile" {
		path = "/pprof/profile?seconds=5"
	}
	body, err := get(path)
	if err != nil {
		cell.Verdict, cell.Detail = "refuses", err.Error()
		return
	}
	metric := onDemand[cell.Tool]
	now, err := scrape()
	if rise := now.sum(metric, nil) - before.sum(metric, nil); err != nil || rise < 5 {
		cell.Verdict, cell.Detail = "wrong", fmt.Sprintf("%s rose by %v in five seconds (%v)", metric, rise, err)
		return
	}
	cell.Verdict = "counts"
	if cell.Tool != "profile" {
		return
	}
	if err := namesKernelFunctions([]byte(body)); err != nil {
		cell.Verdict, cell.Detail = "wrong", err.Error()
	}
}

// namesKernelFunctions looks for functions of the kernel by name in a profile.
func namesKernelFunctions(text []byte) error {
	p, err := profile.ParseData(text)
	if err != nil {
		return err
	}
	var names []string
	for _, location := range p.Location {
		for _, line := range location.Line {
			if strings.Contains(location.Mapping.File, "kernel") {
				names = append(names, line.Function.Name)
			}
		}
	}
	if !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, "smap") || strings.Contains(name, "syscall") }) {
		return fmt.Errorf("no name of a kernel function that surely ran among %q", names[:min(len(names), 8)])
	}
	return nil
}

// eventually tries until it succeeds or the time is over.
func eventually(within time.Duration, try func() error) error {
	for end := time.Now().Add(within); ; time.Sleep(5 * time.Second) {
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
	client := http.Client{Timeout: 25 * time.Minute}
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

// scrape asks the exporter for its metrics, and the kernel for its counter.
func scrape() (metrics, error) {
	body, err := get("/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	m := metrics(families)
	return m, m.snmp(retransSegs)
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
