package kernels

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// logDir is where the service may write its event log.
const logDir = "/var/log/bpf_tools_exporter"

// bounding are the capabilities of the service's unit.
var bounding = []string{"CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_SYS_PTRACE", "CAP_SYSLOG", "CAP_SYS_NICE", "CAP_DAC_READ_SEARCH"}

// one tool of each backend that has packages here.
var oneOfEach = map[string]string{"bpftrace": "execsnoop", "libbpf-tools": "biolatency", "bcc": "tcplife"}

// configure adds to the unit, until the function it returns is called.
func configure(lines ...string) (undo func(), err error) {
	if err := os.MkdirAll(dropIn, 0o755); err != nil {
		return func() {}, err
	}
	err = os.WriteFile(filepath.Join(dropIn, "trial.conf"), []byte("[Service]\n"+strings.Join(lines, "\n")+"\n"), 0o644)
	return func() { os.RemoveAll(dropIn) }, err
}

// capabilities takes each capability away and sees what still proves itself.
func (g *guest) capabilities() {
	for _, without := range bounding {
		undo, err := configure("CapabilityBoundingSet=~" + without)
		if err == nil {
			err = g.restart(g.eachBackend()...)
		}
		undo()
		detail := g.whatServes()
		if err != nil {
			// That the exporter cannot do without is a result, too.
			detail = "the exporter does not start: " + err.Error()
		}
		g.check("tried without `"+without+"`", nil, detail)
	}
}

// eachBackend are flags by which each backend serves another tool.
func (g *guest) eachBackend() []string {
	args := []string{"--collector.disable-defaults", "--tools.state-directory="} // so that no verdict is an old one
	for _, backend := range backends {
		if name := oneOfEach[backend]; g.tries(backend, name) {
			args = append(args, "--collector."+name, "--tools."+name+".backend="+backend)
		}
	}
	return args
}

// tries tells whether the tool is wanted and there is such a backend.
func (g *guest) tries(backend, tool string) bool {
	return g.result.Versions[backend] != "" && isWanted(tool)
}

// whatServes tells which backends serve, and why others do not.
func (g *guest) whatServes() string {
	var serve, not []string
	for _, backend := range backends {
		switch t := g.tool(oneOfEach[backend]); {
		case !g.tries(backend, oneOfEach[backend]):
		case t.State == "up":
			serve = append(serve, backend)
		default:
			not = append(not, fmt.Sprintf("%s does not: %s", backend, t.why(backend)))
		}
	}
	return strings.Join(append([]string{"serve and count: " + list(serve)}, not...), "; ")
}

// unprivileged runs the tools as another user than root, with capabilities.
func (g *guest) unprivileged() {
	if _, err := sh("mkdir -p " + dropIn + " && cp /usr/share/doc/bpf-tools-exporter/unprivileged.conf " + dropIn + "/"); err != nil {
		g.check("runs without root", err, "")
		return
	}
	defer os.RemoveAll(dropIn)
	for _, backend := range backends {
		if g.result.Versions[backend] != "" {
			g.tryAsUser(backend, "as a user with capabilities, "+backend)
		}
	}
	undo, err := configure("AmbientCapabilities=CAP_DAC_OVERRIDE", "CapabilityBoundingSet=CAP_DAC_OVERRIDE")
	defer undo()
	if err != nil {
		g.check("runs with one capability more", err, "")
		return
	}
	g.tryAsUser("bpftrace", "as a user with `CAP_DAC_OVERRIDE` as well, bpftrace")
}

// tryAsUser sees which tools of a backend count as the unit is now.
func (g *guest) tryAsUser(backend, check string) {
	tools := []string{"execsnoop", "tcplife", "biolatency"}
	args := []string{"--collector.disable-defaults", "--tools.backends=" + backend}
	for _, name := range tools {
		args = append(args, "--collector."+name)
	}
	err := g.restart(args...)
	var up, not []string
	for _, name := range tools {
		if t := g.tool(name); t.State == "up" {
			up = append(up, name)
		} else {
			not = append(not, name+": "+t.why(backend))
		}
	}
	for name, wrong := range compare(up...) {
		err = errors.Join(err, fmt.Errorf("%s: %w", name, wrong))
	}
	g.check(check, err, fmt.Sprintf("count: %s; do not run: %s", list(up), list(not)))
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// watched is the tool that the trials of robustness look at, by whatever backend
// serves it.
const watched = "execsnoop"

// robustness is what befalls the exporter on a machine of this world.
func (g *guest) robustness() {
	log := "--events.log=" + filepath.Join(logDir, "events.log")
	for _, trial := range []struct {
		name string
		args []string // for which the exporter starts anew
		try  func() error
	}{
		{"the clock jumps two hours ahead and back: nothing restarts, counts are exact", []string{"--collector.disable-defaults", "--collector." + watched}, g.clockJumps},
		{"/proc is mounted with hidepid=2: counts are exact", nil, g.hidesPID},
		{"memory runs out: the kernel kills a tool and not the exporter, the tool comes back and counts", nil, g.memoryRunsOut},
		{"a program is replaced, as by an upgrade: it proves itself anew and counts", nil, g.programReplaced},
		{"the disk of the event log is full: counts are exact, what was not written is counted", []string{"--collector.disable-defaults", "--collector." + watched, log}, g.diskFull},
		{"the root is read-only, and there is no state: counts are exact", nil, g.readOnlyRoot},
		{"the machine sleeps for some seconds: nothing restarts, counts are exact", []string{"--collector.disable-defaults", "--collector." + watched}, g.sleeps},
	} {
		var err error
		if trial.args != nil {
			err = g.restart(trial.args...)
		}
		if err == nil {
			err = trial.try()
		}
		g.check(trial.name, err, "")
	}
}

func stillCounts() error { return compare(watched)[watched] }

// undisturbed tells whether the tool counts right and has not restarted since.
func (g *guest) undisturbed(disturb func() error) error {
	before, err := scrape()
	if err == nil {
		err = disturb()
	}
	if err == nil {
		err = stillCounts()
	}
	now, err2 := scrape()
	if restarts := now.sum("bpf_tool_restarts_total", nil) - before.sum("bpf_tool_restarts_total", nil); restarts != 0 {
		err = errors.Join(err, fmt.Errorf("%v restarts", restarts))
	}
	return errors.Join(err, err2)
}

// recovers waits until the tool has restarted for a reason and is up.
func (g *guest) recovers(reason string, disturb func() error) error {
	labels := map[string]string{"tool": watched, "reason": reason}
	before, err := scrape()
	if err == nil {
		err = disturb()
	}
	if err != nil {
		return err
	}
	err = eventually(10*time.Minute, func() error {
		now, err := scrape()
		if err != nil {
			return err
		}
		if now.sum("bpf_tool_restarts_total", labels) == before.sum("bpf_tool_restarts_total", labels) {
			return fmt.Errorf("no restart for %s", reason)
		}
		if err := g.readTools(); err != nil {
			return err
		}
		if t := g.tool(watched); t.State != "up" {
			return fmt.Errorf("it is %s: %s", t.State, t.Reason)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return stillCounts()
}

func command(text string) func() error {
	return func() error {
		_, err := sh(text)
		return err
	}
}

func (g *guest) clockJumps() error {
	return errors.Join(g.undisturbed(command("date -s '+2 hours'")), g.undisturbed(command("date -s '-2 hours'")))
}

// hidesPID hides processes of others while the tool counts and while it starts.
func (g *guest) hidesPID() error {
	defer sh("mount -o remount,hidepid=0 /proc")
	err := g.undisturbed(command("mount -o remount,hidepid=2 /proc"))
	return errors.Join(err, g.restart("--collector.disable-defaults", "--collector."+watched), stillCounts())
}

// memoryRunsOut has the kernel kill what it thinks is best to kill.
func (g *guest) memoryRunsOut() error {
	mainPID := func() string {
		pid, _ := sh("systemctl show -p MainPID --value " + unit)
		return pid
	}
	before := mainPID()
	err := g.recovers("exit", func() error { return os.WriteFile("/proc/sysrq-trigger", []byte("f"), 0) })
	if now := mainPID(); now != before || now == "0" {
		err = errors.Join(err, fmt.Errorf("the exporter's process is %s instead of %s", now, before))
	}
	return err
}

// programReplaced puts a copy in the place of what serves, as dpkg does.
func (g *guest) programReplaced() error {
	source := g.tool(watched).Source
	if source == nil {
		return fmt.Errorf("nothing serves %s", watched)
	}
	return g.recovers("upgrade", func() error {
		path, err := filepath.EvalSymlinks(source.Path)
		if err != nil {
			return err
		}
		_, err = sh(fmt.Sprintf("cp -p %s %s.new && mv %[1]s.new %[1]s", path, path))
		return err
	})
}

// diskFull has 4 KiB for the log of events that take more.
func (g *guest) diskFull() error {
	_, err := sh(fmt.Sprintf("systemctl stop %s && mount -t tmpfs -o size=4k,mode=750 full %s && systemctl start %[1]s", unit, logDir))
	if err != nil {
		return err
	}
	defer sh(fmt.Sprintf("systemctl stop %s; umount %s", unit, logDir))
	if err := g.ready(); err != nil {
		return err
	}
	if err := errors.Join(stillCounts(), stillCounts()); err != nil {
		return err
	}
	now, err := scrape()
	if err == nil && now.sum("bpf_tools_exporter_events_log_dropped_total", nil) == 0 {
		err = errors.New("no event was dropped")
	}
	return err
}

// readOnlyRoot lets the service write nowhere.
func (g *guest) readOnlyRoot() error {
	undo, err := configure("ReadOnlyPaths=/", "StateDirectory=", "LogsDirectory=", "PrivateTmp=no")
	defer undo()
	if err != nil {
		return err
	}
	if err := g.restart("--collector.disable-defaults", "--collector."+watched); err != nil {
		return err
	}
	written, _ := sh("for dir in /tmp /var/tmp /var/lib /var/log /etc; do nsenter -m -t $(systemctl show -p MainPID --value " + unit + ") touch $dir/trial 2>/dev/null && echo $dir; done")
	if written != "" {
		return fmt.Errorf("the service can write in %s", written)
	}
	return stillCounts()
}

// sleeps suspends the machine, where its kernel can, until its clock wakes it.
func (g *guest) sleeps() error {
	states, err := os.ReadFile("/sys/power/state")
	if err != nil {
		return err
	}
	for _, state := range []string{"mem", "freeze"} {
		if slices.Contains(strings.Fields(string(states)), state) {
			g.log("suspending: %s", state)
			return g.undisturbed(command("rtcwake -m " + state + " -s 5"))
		}
	}
	return fmt.Errorf("this kernel knows only %q", states)
}
