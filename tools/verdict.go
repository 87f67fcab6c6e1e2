package tools

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bpf_tools_exporter/tools/backend"
)

// A Verdict is what has come of a self-test.
type Verdict struct {
	// Result is "" where none was made.
	Result Result
	// Reason says in one line what was done and seen, or why the test could
	// not be made.
	Reason string
}

// Result of a self-test.
type Result string

// The results of self-tests.
const (
	Pending Result = "pending" // the source serves and has not printed yet
	Passed  Result = "passed"
	Failed  Result = "failed"
	Skipped Result = "skipped" // it cannot be made here, or there is none
)

// verdictFormat changes with the workloads, or with what they prove.
const verdictFormat = 2

// verdictFile is the file in the state directory.
const verdictFile = "selftest.json"

// verdicts remember which sources have proven that they count right, in a file
// too: until the kernel, the program or the definition changes, they need not
// do so again. A failure is not remembered beyond the process, as the machine
// may have been at fault.
type verdicts struct {
	dir    string // "" keeps no file
	kernel string

	mu     sync.Mutex
	passed map[string]record // by tool and source
}

type record struct {
	Program string    `json:"program"`
	Version string    `json:"version"`
	Digest  string    `json:"digest"`
	Time    time.Time `json:"time"`
}

type verdictState struct {
	Format int               `json:"format"`
	Kernel string            `json:"kernel"`
	Passed map[string]record `json:"passed"`
}

// newVerdicts reads the file. One that others could have written, or that makes
// no sense, is as good as none.
func newVerdicts(dir string) *verdicts {
	v := &verdicts{dir: dir, kernel: kernelBuild(), passed: make(map[string]record)}
	state, err := readVerdicts(filepath.Join(dir, verdictFile))
	if dir != "" && err == nil && state.Format == verdictFormat && state.Kernel == v.kernel && state.Passed != nil {
		v.passed = state.Passed
	}
	return v
}

// kernelBuild tells a kernel from another build of the same release.
func kernelBuild() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Version[:]) + " " + unix.ByteSliceToString(u.Machine[:])
}

func readVerdicts(file string) (*verdictState, error) {
	if err := backend.Trusted(file); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	var state verdictState
	return &state, json.Unmarshal(text, &state)
}

// remember keeps what has passed.
func (v *verdicts) remember(name string, r record) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.passed[name] = r
	if v.dir == "" {
		return nil
	}
	text, err := json.MarshalIndent(verdictState{Format: verdictFormat, Kernel: v.kernel, Passed: v.passed}, "", "  ")
	if err != nil {
		return err
	}
	return writeState(v.dir, verdictFile, append(text, '\n'))
}

// writeState replaces a file of the state directory at once.
func writeState(dir, name string, text []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, name+".")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}

// knows tells whether just this has passed.
func (v *verdicts) knows(name, digest string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return digest != "" && v.passed[name].Digest == digest
}

// testName names a source of a tool in the file.
func testName(d *Definition, s *Source) string {
	for i := range d.Sources {
		if d.Sources[i] == s {
			return fmt.Sprintf("%s/%s/%d", d.Name, s.Backend, i)
		}
	}
	return d.Name + "/" + s.Backend
}

// testDigest changes with all that a verdict depends on, but for the kernel: the
// definition, scripts with their options, and the program.
func testDigest(d *Definition, s *Source, options map[string]string, path, version string) string {
	script, err := d.Script(s, options)
	if err != nil {
		return ""
	}
	file := backend.Identify(path)
	text, err := json.Marshal([]any{d.Name, d.Fields, d.Metrics, d.SelfTest, s, script, options, path, version, file.Size, file.Modified})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
