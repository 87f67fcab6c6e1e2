// Package prometheus_test checks the rules and examples of this folder with
// Prometheus's own tools.
package prometheus_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// promtool runs it, or skips the test where it is missing; CI has it.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("needs promtool (make deps)")
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("promtool %q: %v\n%s", args, err, out)
	}
}

func TestRules(t *testing.T) {
	promtool(t, "check", "rules", "rules/bpf-tools-recording.yml", "rules/bpf-tools-alerts.yml")
	if testing.Short() {
		t.Skip("a day of evaluations takes a quarter of a minute: not with -short")
	}
	promtool(t, "test", "rules", "rules/bpf-tools-test.yml", "rules/bpf-tools-past-test.yml")
}

type rule struct {
	Alert, Record, Expr, For string
	Labels, Annotations      map[string]string
}

func alerts(t *testing.T) []rule {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	read(t, "rules/bpf-tools-alerts.yml", &file)
	var all []rule
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

func read(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err == nil {
		err = yaml.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// Each alert says how bad it is, what it is, and where it is written what to
// do.
func TestAlerts(t *testing.T) {
	runbooks, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(string(runbooks), -1)
	var names []string
	for _, a := range alerts(t) {
		names = append(names, a.Alert)
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) || a.For == "" {
			t.Errorf("%s: severity %q, for %q", a.Alert, a.Labels["severity"], a.For)
		}
		summary, description := a.Annotations["summary"], a.Annotations["description"]
		if !strings.Contains(summary, "{{ $labels.instance }}") || len(description) < 40 {
			t.Errorf("%s: summary %q, description %q", a.Alert, summary, description)
		}
		if want := "docs/runbooks.md#" + strings.ToLower(a.Alert); a.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
	}
	for _, heading := range headings {
		if !slices.Contains(names, heading[1]) {
			t.Errorf("runbook of %s, which is no alert", heading[1])
		}
	}
	if len(headings) != len(names) {
		t.Errorf("%d alerts, %d runbooks", len(names), len(headings))
	}
}

// Each alert is tested with a case in which it fires and one in which it must
// not.
func TestAlertsAreTested(t *testing.T) {
	var file struct {
		Tests []struct {
			Rules []struct {
				Alert string `yaml:"alertname"`
				Want  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	read(t, "rules/bpf-tools-test.yml", &file)
	var past = file
	read(t, "rules/bpf-tools-past-test.yml", &past)
	file.Tests = append(file.Tests, past.Tests...)
	fires, quiet := make(map[string]bool), make(map[string]bool)
	for _, test := range file.Tests {
		for _, r := range test.Rules {
			if len(r.Want) > 0 {
				fires[r.Alert] = true
			} else {
				quiet[r.Alert] = true
			}
		}
	}
	for _, a := range alerts(t) {
		if !fires[a.Alert] || !quiet[a.Alert] {
			t.Errorf("%s: tested as it fires: %v; as it must not: %v", a.Alert, fires[a.Alert], quiet[a.Alert])
		}
	}
}

// The examples are for Prometheus 3.x; without the one key that is new there they
// are for 2.x, which the promtool of today's distributions reads, with the rules
// and targets that they name. Debian's knows no Kubernetes: its nodes become
// targets.
func TestExamples(t *testing.T) {
	const native = "    scrape_native_histograms: true\n"
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	for name, jobs := range map[string]int{"prometheus.yml": 2, "prometheus-one-host.yml": 2, "prometheus-kubernetes.yml": 1} {
		file := dir + "/examples/" + name
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), native); n != jobs {
			t.Errorf("%s: %d jobs scrape native histograms, want %d", name, n, jobs)
		}
		older := strings.NewReplacer(native, "", "kubernetes_sd_configs:\n      - role: node", "static_configs: [{targets: [localhost:10101]}]").Replace(string(text))
		if err := os.WriteFile(file, []byte(older), 0o644); err != nil {
			t.Fatal(err)
		}
		promtool(t, "check", "config", file)
	}
	var parca map[string]any
	read(t, "examples/parca.yaml", &parca)
}
