package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// promtool finds nothing to complain about.
func TestLivePromtool(t *testing.T) {
	needLive(t, "/usr/bin/promtool")
	e := startExporter(t)
	runSessions(t, uniqueName("srv"), uniqueName("cli"), "127.0.0.1", 10, 1000, 1000)
	hostileExecs(t, e)
	check := exec.Command("/usr/bin/promtool", "check", "metrics")
	check.Stdin = strings.NewReader(e.mustGet(t, "/metrics"))
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// A real Prometheus scrapes the exporter and computes from native histograms.
func TestLivePrometheus(t *testing.T) {
	needLive(t, "/usr/bin/prometheus")
	e := startExporter(t)
	prometheus := startPrometheus(t, e)
	device := loopDevice(t, 32<<20)
	eventually(t, time.Minute, "Prometheus knows a p99", func() error {
		directIO(t, device, 50, 50)
		up, err := query(prometheus, "up")
		if err != nil || up != 1 {
			return fmt.Errorf("up is %v: %w", up, err)
		}
		p99, err := query(prometheus, "histogram_quantile(0.99, sum(rate(bpf_biolatency_seconds[1m])))")
		if err != nil {
			return err
		}
		// No NaN, and no more than the classic buckets know.
		if !(p99 > 1e-6 && p99 < 10) {
			return fmt.Errorf("p99 is %v s", p99)
		}
		t.Logf("p99 of block I/O: %v s", p99)
		return nil
	})
}

// startPrometheus runs one that scrapes the exporter every second, with native
// histograms, and returns its address.
func startPrometheus(t *testing.T, e *exporter) string {
	t.Helper()
	return startPrometheusWith(t, e, "", "--enable-feature=native-histograms")
}

// startPrometheusWith is startPrometheus with other flags and more of a
// configuration.
func startPrometheusWith(t *testing.T, e *exporter, more string, flags ...string) string {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	config := filepath.Join(dir, "prometheus.yml")
	target := strings.TrimPrefix(e.url, "http://")
	text := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nscrape_configs: [{job_name: bpf_tools, static_configs: [{targets: ['%s']}]}]\n%s", target, more)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	log := new(logBuffer)
	cmd := exec.Command("/usr/bin/prometheus", append([]string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"),
		"--web.listen-address=" + address}, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of Prometheus:\n%s", log)
		}
	})
	return address
}

// query returns the one value of an instant query.
func query(address, expression string) (float64, error) {
	answer, err := http.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(expression))
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	var reply struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return 0, fmt.Errorf("%s: %w", body, err)
	}
	if len(reply.Data.Result) != 1 {
		return 0, fmt.Errorf("%s: want one result", body)
	}
	text, _ := reply.Data.Result[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}
