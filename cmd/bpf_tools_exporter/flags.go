package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/alecthomas/units"
	"github.com/go-kit/log"
	"github.com/prometheus/common/version"
	toolkit "github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"
	"golang.org/x/sys/unix"

	"bpf_tools_exporter/cmd/bpf_tools_exporter/eventlog"
	"bpf_tools_exporter/tools"
	"bpf_tools_exporter/tools/backend"
)

// flags is all that the command line says.
type flags struct {
	catalog  *tools.Catalog
	settings []setting // of the config file
	enabled  map[string]bool
	options  map[string]map[string]string
	backends []string
	pinned   map[string]string

	excludeSelf bool
	maxSeries   int
	seriesIdle  time.Duration
	maxDelay    time.Duration
	startWithin time.Duration
	cpuLimit    float64
	memoryLimit units.Base2Bytes
	selfTest    bool
	stateDir    string

	events eventlog.Config

	runDuration   time.Duration
	runConcurrent int
	anyoneRuns    bool

	toolkit                *toolkit.FlagConfig
	telemetryPath          string
	maxRequests            int
	disableExporterMetrics bool
	pprof                  bool
	lifecycle              bool
	logLevel, logFormat    string

	command       string // "doctor", or "" to serve
	doctorOutput  string
	doctorTimeout time.Duration
}

// parseFlags reads the command line, the config file, whose settings are
// defaults, and the catalogue, as each tool has flags of its own.
func parseFlags(args []string) (*flags, error) {
	settings, file, err := configOf(args)
	if err != nil {
		return nil, err
	}
	dirs, err := flagValues(args, "tools.directory", "a folder")
	if err != nil {
		return nil, err
	}
	for _, s := range settings {
		if s.name == "tools.directory" && dirs == nil {
			dirs = s.values
		}
	}
	catalog, err := tools.Load(dirs)
	if err != nil {
		return nil, err
	}
	// Each setting by itself first, to name the line of a bad one.
	for _, s := range settings {
		if err := s.check(catalog); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, s.line, err)
		}
	}
	f, err := parseWith(catalog, settings, args)
	return f, inFile(err, file, settings)
}

// inFile names the line of the file where the flag that an error begins with has
// its value.
func inFile(err error, file string, settings []setting) error {
	for _, s := range settings {
		if err != nil && strings.HasPrefix(err.Error(), "--"+s.name+":") {
			return fmt.Errorf("%s:%d: %s", file, s.line, strings.TrimPrefix(err.Error(), "--"))
		}
	}
	return err
}

// configOf reads the file that --config.file names, if any.
func configOf(args []string) (settings []setting, file string, err error) {
	files, err := flagValues(args, "config.file", "a file")
	if err != nil || files == nil {
		return nil, "", err
	}
	file = files[len(files)-1]
	if settings, err = readConfig(file); err != nil {
		return nil, "", err
	}
	for i := range settings {
		if settings[i], err = settings[i].normalize(); err != nil {
			return nil, "", fmt.Errorf("%s:%w", file, err)
		}
	}
	return settings, file, nil
}

// parseWith parses the command line where the settings are defaults.
func parseWith(catalog *tools.Catalog, settings []setting, args []string) (*flags, error) {
	f, app, choose := newFlags(catalog, settings)
	// A command that is the default would make the parser overlook a flag
	// without its value.
	if slices.Contains(args, doctorName) {
		f.addDoctor(app)
	}
	for _, s := range settings {
		app.GetFlag(s.name).Default(s.values...)
	}
	command, err := app.Parse(args)
	if err != nil {
		return nil, fmt.Errorf("%w; see --help", named(err, catalog, args))
	}
	f.command = command
	choose()
	return f, f.check()
}

// named puts the flag in front of an error of the parser that does not name it:
// the first flag that fails by itself.
func named(err error, catalog *tools.Catalog, args []string) error {
	for i, arg := range args {
		name, _, hasValue := strings.Cut(arg, "=")
		if !strings.HasPrefix(arg, "--") || strings.Contains(err.Error(), name) {
			continue
		}
		alone := args[i : i+1]
		if !hasValue && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			alone = args[i : i+2]
		}
		if _, app, _ := newFlags(catalog, nil); fails(app, alone) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return err
}

func fails(app *kingpin.Application, args []string) bool {
	_, err := app.Parse(args)
	return err != nil
}

// newFlags declares all flags. The function it returns works out, after parsing,
// which tools run and how.
func newFlags(catalog *tools.Catalog, settings []setting) (f *flags, app *kingpin.Application, choose func()) {
	f = &flags{catalog: catalog, settings: settings, options: make(map[string]map[string]string), pinned: make(map[string]string)}
	app = kingpin.New("bpf_tools_exporter", "Runs BPF tools (bcc, libbpf-tools, bpftrace) and exports what they see as Prometheus metrics. The command doctor tries them all and says what works on this host: see doctor --help.")
	app.Version(version.Print("bpf_tools_exporter"))
	app.HelpFlag.Short('h')
	app.UsageWriter(os.Stdout)
	choose = f.addToolFlags(app)
	f.addFlags(app)
	return f, app, choose
}

const doctorName = "doctor"

func (f *flags) addDoctor(app *kingpin.Application) {
	doctor := app.Command(doctorName, "Try every source of every tool on this host and say which would serve, and why others do not.")
	doctor.Flag("output", "Format: text or json.").Default("text").EnumVar(&f.doctorOutput, "text", "json")
	doctor.Flag("timeout", "How long to try at most.").Default("10m").DurationVar(&f.doctorTimeout)
}

// flagValues finds the values of a flag ahead of the parser, whose flags depend
// on them.
func flagValues(args []string, name, what string) ([]string, error) {
	name = "--" + name
	var values []string
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if value, ok := strings.CutPrefix(arg, name+"="); ok {
			values = append(values, value)
		} else if arg == name {
			if i+1 == len(args) {
				return nil, fmt.Errorf("%s wants %s", name, what)
			}
			values = append(values, args[i+1])
		}
	}
	return values, nil
}

// addToolFlags adds the flags of each tool. The function it returns works out,
// after parsing, which tools run.
func (f *flags) addToolFlags(app *kingpin.Application) (choose func()) {
	disable := app.Flag("collector.disable-defaults", "Run no tool but those that are switched on by a flag.").Bool()
	var take []func()
	wanted, byUser := make(map[string]*bool), make(map[string]*bool)
	for _, d := range f.catalog.Tools() {
		state := "off"
		if d.Default {
			state = "on"
		}
		wanted[d.Name], byUser[d.Name] = new(bool), new(bool)
		app.Flag("collector."+d.Name, fmt.Sprintf("Run %s: %s (default: %s)", d.Name, d.Help, state)).
			Default(fmt.Sprint(d.Default)).IsSetByUser(byUser[d.Name]).BoolVar(wanted[d.Name])
		take = append(take, f.addOptions(app, d))
		pin := app.Flag("tools."+d.Name+".backend", "The only backend that may serve "+d.Name+".").PlaceHolder("BACKEND").String()
		take = append(take, func() { f.pinned[d.Name] = *pin })
	}
	return func() {
		f.enabled = make(map[string]bool)
		for name, on := range wanted {
			inFile := slices.ContainsFunc(f.settings, func(s setting) bool { return s.name == "collector."+name })
			f.enabled[name] = *on && (*byUser[name] || inFile || !*disable)
		}
		for _, value := range take {
			value()
		}
	}
}

// addOptions adds the flags of a tool's options. The function it returns takes
// their values after parsing.
func (f *flags) addOptions(app *kingpin.Application, d *tools.Definition) (take func()) {
	switches, others := make(map[string]*bool), make(map[string]*string)
	for name, option := range d.Options {
		flag := app.Flag("collector."+d.Name+"."+name, option.Help+option.Range()).Default(option.Initial())
		if option.IsBool() {
			switches[name] = flag.Bool()
		} else {
			others[name] = flag.String()
		}
	}
	return func() {
		values := make(map[string]string)
		for name, value := range switches {
			values[name] = fmt.Sprint(*value)
		}
		for name, value := range others {
			values[name] = *value
		}
		f.options[d.Name] = values
	}
}

func (f *flags) addFlags(app *kingpin.Application) {
	app.Flag("collector.exclude-self", "Leave the exporter's own processes, and sessions with its port, out of the counts.").Default("true").BoolVar(&f.excludeSelf)
	app.Flag("config.file", "YAML file with flags, which the command line goes before. SIGHUP reads it again.").PlaceHolder("FILE").String()
	app.Flag("tools.directory", "Folder with more tools, each a subfolder with a tool.yaml. Repeatable.").PlaceHolder("DIR").ExistingDirs()
	backends := app.Flag("tools.backends", "Backends that may serve, in order of preference.").Default(strings.Join(backend.Names, ",")).String()
	app.Action(func(*kingpin.ParseContext) error { f.backends = strings.Split(*backends, ","); return nil })
	app.Flag("tools.max-series", "Series per metric; further ones are counted in one whose labels are \"other\".").Default("500").IntVar(&f.maxSeries)
	app.Flag("tools.series-idle", "How long a series must be without change before it makes room for a new one.").Default("1h").DurationVar(&f.seriesIdle)
	app.Flag("tools.restart-max-delay", "Longest pause before a tool that ended is started again.").Default("10s").DurationVar(&f.maxDelay)
	app.Flag("tools.start-timeout", "How long a tool may take until it sees events; bcc compiles at each start, slowly on small machines.").Default("2m").DurationVar(&f.startWithin)
	app.Flag("tools.cpu-limit", "Cores that one tool's process may take, over a minute, before it is stopped; 0 is no limit.").Default("1").Float64Var(&f.cpuLimit)
	app.Flag("tools.memory-limit", "Resident memory that one tool's process may take before it is stopped; 0 is no limit.").Default("512MiB").BytesVar(&f.memoryLimit)
	app.Flag("events.log", "File to which events are appended as JSON lines, or stdout. SIGHUP opens the file again.").PlaceHolder("FILE").StringVar(&f.events.Path)
	app.Flag("events.log-args", "Write also what may hold secrets to the event log, such as the arguments of programs.").BoolVar(&f.events.Secrets)
	app.Flag("events.log-rate", "Events a second, of all tools, that the event log takes.").Default("100").IntVar(&f.events.Rate)
	app.Flag("tools.self-test", "Make small workloads by which each source proves that it counts right before it serves.").Default("true").BoolVar(&f.selfTest)
	app.Flag("tools.state-directory", "Folder that keeps the verdicts of self-tests, so that they are made again only when the kernel, a package or a definition changes.").
		Default("/var/lib/bpf_tools_exporter").StringVar(&f.stateDir)
	app.Flag("ondemand.max-duration", "How long an on-demand run of a tool may be.").Default("60s").DurationVar(&f.runDuration)
	app.Flag("ondemand.max-concurrent", "On-demand runs that may go on at once; a few more may wait.").Default("1").IntVar(&f.runConcurrent)
	app.Flag("ondemand.allow-unauthenticated", "Let clients on other hosts run tools on demand without authentication.").BoolVar(&f.anyoneRuns)
	app.Flag("web.telemetry-path", "Path of the metrics.").Default("/metrics").StringVar(&f.telemetryPath)
	app.Flag("web.max-requests", "Scrapes that may run at once; 0 is no limit.").Default("40").IntVar(&f.maxRequests)
	app.Flag("web.disable-exporter-metrics", "Leave out the metrics about the exporter's own process (go_*, process_*).").BoolVar(&f.disableExporterMetrics)
	app.Flag("web.enable-lifecycle", "Let POST /-/reload read the config file and the definitions again.").BoolVar(&f.lifecycle)
	app.Flag("web.enable-pprof", "Serve the exporter's own profiles at /debug/pprof/.").BoolVar(&f.pprof)
	app.Flag("log.level", "Least severity that is logged: debug, info, warn or error.").Default("info").EnumVar(&f.logLevel, "debug", "info", "warn", "error")
	app.Flag("log.format", "Format of log lines: logfmt or json.").Default("logfmt").EnumVar(&f.logFormat, "logfmt", "json")
	f.toolkit = kingpinflag.AddFlags(app, ":10101")
}

func (f *flags) check() error {
	for tool, name := range f.pinned {
		if name != "" && !slices.Contains(backend.Names, name) {
			return fmt.Errorf("--tools.%s.backend: no backend %q: want one of %s", tool, name, strings.Join(backend.Names, ", "))
		}
	}
	for _, d := range f.catalog.Tools() {
		if err := d.CheckOptions(f.options[d.Name]); err != nil {
			return fmt.Errorf("--collector.%s.%w", d.Name, err)
		}
	}
	for i, name := range f.backends {
		if !slices.Contains(backend.Names, name) {
			return fmt.Errorf("--tools.backends: no backend %q: want some of %s", name, strings.Join(backend.Names, ","))
		}
		if slices.Contains(f.backends[:i], name) {
			return fmt.Errorf("--tools.backends: %s stands there twice", name)
		}
	}
	switch {
	case f.maxSeries < 1 || f.maxSeries > 100000:
		return fmt.Errorf("--tools.max-series: %d: want 1 to 100000", f.maxSeries)
	case f.seriesIdle <= 0:
		return fmt.Errorf("--tools.series-idle: %s: want more than 0", f.seriesIdle)
	case f.maxDelay < time.Second:
		return fmt.Errorf("--tools.restart-max-delay: %s: want 1s or more", f.maxDelay)
	case f.startWithin < time.Second:
		return fmt.Errorf("--tools.start-timeout: %s: want 1s or more", f.startWithin)
	case f.cpuLimit < 0:
		return fmt.Errorf("--tools.cpu-limit: %g: want 0 or more", f.cpuLimit)
	case f.memoryLimit < 0:
		return fmt.Errorf("--tools.memory-limit: %s: want 0 or more", f.memoryLimit)
	case f.events.Rate < 1 || f.events.Rate > 10000:
		return fmt.Errorf("--events.log-rate: %d: want 1 to 10000", f.events.Rate)
	case f.events.Secrets && f.events.Path == "":
		return errors.New("--events.log-args: there is no event log: want --events.log=FILE too")
	case f.stateDir != "" && !filepath.IsAbs(f.stateDir):
		return fmt.Errorf("--tools.state-directory: %q: want a path that begins with /, or nothing for none", f.stateDir)
	case f.runDuration < time.Second || f.runDuration > time.Hour:
		return fmt.Errorf("--ondemand.max-duration: %s: want 1s to 1h", f.runDuration)
	case f.runConcurrent < 1 || f.runConcurrent > 16:
		return fmt.Errorf("--ondemand.max-concurrent: %d: want 1 to 16", f.runConcurrent)
	case !strings.HasPrefix(f.telemetryPath, "/"):
		return fmt.Errorf("--web.telemetry-path: %q: want a path that begins with /", f.telemetryPath)
	}
	return nil
}

func (f *flags) managerConfig(sink tools.Sink, events *eventlog.Log, logger log.Logger) tools.Config {
	return tools.Config{
		Catalog: f.catalog, Enabled: f.enabled, Options: f.options, Backends: f.backends, Pinned: f.pinned,
		SelfTest: f.selfTest, StateDirectory: f.stateDir,
		ExcludeSelf: f.excludeSelf, ListenPort: f.listenPort(),
		RestartMaxDelay: f.maxDelay, AttachTimeout: f.startWithin, CPULimit: f.cpuLimit, MemoryLimit: uint64(f.memoryLimit), Sink: sink, Events: events.Add, Logger: logger,
	}
}

// listenPort is the port of the first listen address that has one; of more
// ports than one, only the first is known as the exporter's own.
func (f *flags) listenPort() string {
	if f.toolkit.WebSystemdSocket != nil && *f.toolkit.WebSystemdSocket {
		return activatedPort(os.Getenv, firstActivated)
	}
	for _, address := range *f.toolkit.WebListenAddresses {
		if _, port, err := net.SplitHostPort(address); err == nil && port != "0" {
			return port
		}
	}
	return ""
}

// firstActivated is the file by which systemd passes the first socket on
// (sd_listen_fds(3)).
const firstActivated = 3

// activatedPort is the port on which systemd listens for this process, "" if
// it does not, or on no port.
func activatedPort(getenv func(string) string, file int) string {
	if getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return ""
	}
	address, err := unix.Getsockname(file)
	if err != nil {
		return ""
	}
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return strconv.Itoa(a.Port)
	case *unix.SockaddrInet6:
		return strconv.Itoa(a.Port)
	}
	return ""
}
