package selftest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bpf_tools_exporter/tools/process"
)

const (
	// roleEnv makes the exporter's program do a part of a run.
	roleEnv = "BPF_TOOLS_EXPORTER_SELFTEST"
	planEnv = "BPF_TOOLS_EXPORTER_SELFTEST_PLAN"

	roleFirst  = "first"  // starts the others
	roleExec   = "exec"   // is an exec to be seen
	roleWorker = "worker" // does all that is not an exec
)

// itself is the running program, even if its file has been replaced. It is so
// in each process that executes it.
const itself = "/proc/self/exe"

// timeout bounds a run: on an emulated machine the programs alone take seconds
// to start.
const timeout = 2 * time.Minute

// Run does what the plan says and returns what was done. The error is one line;
// a workload that could not be done is no error, but in Facts.Failed.
func Run(ctx context.Context, p *Plan) (*Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// A link has the comm as its name, and comm is the name that is executed.
	dir, err := os.MkdirTemp("", "bpf_tools_exporter-selftest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	link := filepath.Join(dir, p.Comm)
	if err := os.Symlink(itself, link); err != nil {
		return nil, err
	}
	plan, err := json.Marshal(order{Plan: *p, Link: link, Exporter: os.Getpid()})
	if err != nil {
		return nil, err
	}
	out, err := start(ctx, itself, roleFirst, string(plan), 0)
	if err != nil {
		return nil, err
	}
	facts := newFacts()
	if err := json.Unmarshal([]byte(out), facts); err != nil {
		return nil, fmt.Errorf("the workload's process says %.200q: %w", out, err)
	}
	return facts, nil
}

// order is a plan with the program to run.
type order struct {
	Plan
	Link     string
	Exporter int // its process
}

// start runs the program in a role, which ends with the status, and returns its
// stdout.
func start(ctx context.Context, path, role, plan string, status int) (string, error) {
	var out, faults strings.Builder
	p, err := process.Start(process.Spec{
		Path: path, Env: append(process.DefaultEnv(), roleEnv+"="+role, planEnv+"="+plan), Grace: time.Second,
		Stdout: func(line []byte, _ bool) { out.Write(line) },
		Stderr: func(line []byte, _ bool) {
			if faults.Len() < 400 {
				faults.Write(line)
			}
		},
	})
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		<-p.Done()
		return "", fmt.Errorf("the workload's process does not end: %w", ctx.Err())
	}
	if exit := p.Exit(); exit.Code != status {
		return "", fmt.Errorf("the workload's process: %s: %s", exit, faults.String())
	}
	return out.String(), nil
}

// Main does a part of a run and returns true if that is what this process was
// started for. The exporter's main calls it before anything else.
func Main() bool {
	var o order
	role := os.Getenv(roleEnv)
	if role == "" {
		return false
	}
	if err := json.Unmarshal([]byte(os.Getenv(planEnv)), &o); err != nil {
		fmt.Fprintln(os.Stderr, "plan:", err)
		os.Exit(1)
	}
	switch role {
	case roleFirst:
		first(&o)
	case roleExec:
		fail()
	case roleWorker:
		(&worker{order: &o, facts: newFacts()}).work()
	}
	return true
}

// first starts what is to be seen, as its children, and prints the facts.
func first(o *order) {
	plan := os.Getenv(planEnv)
	type result struct {
		out string
		err error
	}
	worked := make(chan result, 1)
	go func() {
		out, err := start(context.Background(), o.Link, roleWorker, plan, 0)
		worked <- result{out, err}
	}()
	failed := 0
	var fault error
	for range o.Execs {
		if _, err := start(context.Background(), o.Link, roleExec, plan, execStatus); err != nil {
			fault = err
			break
		}
		failed++
	}
	r := <-worked
	facts := newFacts()
	if r.err == nil {
		r.err = json.Unmarshal([]byte(r.out), facts)
	}
	for _, name := range o.Workloads {
		switch {
		case name == "exec" && fault != nil:
			facts.Failed[name] = fault.Error()
		case name == "exec":
			facts.Numbers[name] = map[string]float64{"execs": float64(o.Execs + 1), "failed": float64(failed), "exits": float64(failed)} // the worker's, too
		case r.err != nil:
			facts.Failed[name] = r.err.Error()
		}
	}
	print(facts)
}

func print(facts *Facts) {
	if err := json.NewEncoder(os.Stdout).Encode(facts); err != nil {
		os.Exit(1)
	}
}

// execStatus is the exit status of an exec that is to be seen.
const execStatus = 7
