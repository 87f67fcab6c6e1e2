package output

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseFolded(t *testing.T) {
	keys := func(comm string) []string { return []string{comm} }
	for _, c := range []struct {
		line string
		want Stack
	}{
		{"sh;main;read 7", Stack{keys("sh"), []string{"main", "read"}, nil, 7}},
		{"sh;main;-;entry_SYSCALL_64_[k];ksys_read_[k] 2", Stack{keys("sh"), []string{"main"}, []string{"entry_SYSCALL_64", "ksys_read"}, 2}},
		{"sh;main;-;ksys_read 2", Stack{keys("sh"), []string{"main"}, []string{"ksys_read"}, 2}},
		{"dd;[unknown];entry_SYSCALL_64_after_hwframe;ksys_read 3", Stack{keys("dd"), []string{"[unknown]"}, []string{"entry_SYSCALL_64_after_hwframe", "ksys_read"}, 3}},
		{"kworker/0:1;ret_from_fork_asm;kthread 4", Stack{keys("kworker/0:1"), nil, []string{"ret_from_fork_asm", "kthread"}, 4}},
		{"sh;[Missed User Stack];[Missed Kernel Stack] 9", Stack{keys("sh"), []string{"[Missed User Stack]"}, []string{"[Missed Kernel Stack]"}, 9}},
		{"python3 5", Stack{keys("python3"), nil, nil, 5}},
		{"a b;operator new(int, char) 1\r", Stack{keys("a b"), []string{"operator new(int, char)"}, nil, 1}},
		{"sh;main;;read 1", Stack{keys("sh"), []string{"main", "[unknown]", "read"}, nil, 1}},
		{";main 1", Stack{keys(""), []string{"main"}, nil, 1}},
	} {
		if got, err := ParseFolded([]byte(c.line)); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q:\ngot  %+v, %v\nwant %+v", c.line, got, err, c.want)
		}
	}
	for _, line := range []string{"", "  ", "Sampling at 49 Hertz of all threads by user + kernel stack for 5 secs."} {
		if _, err := ParseFolded([]byte(line)); !errors.Is(err, ErrSkip) {
			t.Errorf("%q: got %v, want ErrSkip", line, err)
		}
	}
	for _, line := range []string{"sh;main", "sh;main -1", "sh;main 1x", " 1", "sh;main 99999999999999999999"} {
		if _, err := ParseFolded([]byte(line)); !errors.Is(err, ErrLine) {
			t.Errorf("%q: got %v, want ErrLine", line, err)
		}
	}
}

func TestFoldedIsBounded(t *testing.T) {
	line := "sh;" + strings.Repeat(strings.Repeat("x", 600)+";", 1000) + "last 1"
	s, err := ParseFolded([]byte(line))
	if err != nil || len(s.User) != maxFrames || s.User[maxFrames-1] != "last" || len(s.User[0]) != maxFrame {
		t.Errorf("%d frames, first of %d bytes, last %q, %v", len(s.User), len(s.User[0]), s.User[len(s.User)-1], err)
	}
}

// stackLine is what bpftrace prints for these keys and values.
func stackLine(entries ...string) []byte {
	return []byte(`{"type": "map", "data": {"@profile_stacks": {` + strings.Join(entries, ", ") + `}}}`)
}

func collect(t *testing.T, line []byte) ([]Stack, error) {
	t.Helper()
	var all []Stack
	err := EachStack(line, 3, func(s Stack) error { all = append(all, s); return nil })
	return all, err
}

func TestEachStack(t *testing.T) {
	keys := []string{"28519", "0", "42"}
	for _, c := range []struct {
		name, key string
		want      Stack
	}{
		{"0.17", `28519,0,42,\n    ksys_read+10\n    entry_SYSCALL_64+5\n,\n    read+1\n    main+2\n`,
			Stack{keys, []string{"main", "read"}, []string{"entry_SYSCALL_64", "ksys_read"}, 3}},
		{"0.23", `28519,0,42,\\n        ksys_read+10\\n,\\n        read+1\\n`, Stack{keys, []string{"read"}, []string{"ksys_read"}, 3}},
		{"no kernel stack", `28519,0,42,,\n    0x77c804\n    main+2\n`, Stack{keys, []string{"main", "[unknown]"}, nil, 3}},
		{"no kernel stack, 0.23", `28519,0,42,\\n,\\n        0x7fe2\\n        0\\n`, Stack{keys, []string{"[unknown]", "[unknown]"}, nil, 3}},
		{"no user stack", `28519,0,42,\n    kthread+3\n,`, Stack{keys, nil, []string{"kthread"}, 3}},
		{"none at all", `28519,0,42,,`, Stack{keys, nil, nil, 3}},
		{"hostile names", `28519,0,42,,\n    a,b\n    +9\",\"1,1,1,,+4\n    x\n,\n    y+0x\n`,
			Stack{keys, []string{"y+0x", ",", "x", `+9","1,1,1,,`, "a,b"}, nil, 3}},
		{"negative comm", `-28519,0,42,,\n    f<int>(a, b)+9\n`, Stack{[]string{"-28519", "0", "42"}, []string{"f<int>(a, b)"}, nil, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			all, err := collect(t, stackLine(`"`+c.key+`": 3`))
			if err != nil || len(all) != 1 || !reflect.DeepEqual(all[0], c.want) {
				t.Errorf("got  %+v, %v\nwant %+v", all, err, c.want)
			}
		})
	}
	if all, err := collect(t, stackLine()); err != nil || len(all) != 0 {
		t.Errorf("empty map: %+v, %v", all, err)
	}
}

// TestStackAfterHighByte has a symbol with bytes above 0x7f: the counts stay
// decimal, and one that is not is no count.
func TestStackAfterHighByte(t *testing.T) {
	all, err := collect(t, stackLine(`"1,0,1,,\n    caf\uffffffc3\uffffffa9+1\n": 11`, `"1,0,1,,\n    b+1\n": 17`))
	if err != nil || len(all) != 2 || all[0].Count != 11 || all[1].Count != 17 || all[0].User[0] != "café" {
		t.Errorf("got %+v, %v", all, err)
	}
	if all, err = collect(t, stackLine(`"1,0,1,,": 1`, `"1,0,2,,": 1d`)); !errors.Is(err, ErrLine) || len(all) != 1 {
		t.Errorf("got %+v, %v", all, err)
	}
}

func TestEachStackRefuses(t *testing.T) {
	whole := string(stackLine(`"1,0,1,,\n    a+1\n": 17`, `"2,0,1,,\n    b+1\n": 1`))
	for end := range len(whole) - 2 {
		if all, err := collect(t, []byte(whole[:end])); !errors.Is(err, ErrLine) || len(all) > 2 {
			t.Errorf("cut at %d: got %+v, %v", end, all, err)
		}
	}
	for _, entry := range []string{`"1,0": 1`, `"1,0,x,,": 1`, `"1,0,1,\n  a": 1`, `"1,0,1,,": -1`, `"1,0,1,,": {}`, `"1,0,1,,": `} {
		if _, err := collect(t, stackLine(entry)); !errors.Is(err, ErrLine) {
			t.Errorf("%s: got %v, want ErrLine", entry, err)
		}
	}
}

// TestFoldedRecordings decodes what real tools printed and compares the sums
// with a golden file.
func TestFoldedRecordings(t *testing.T) {
	const golden = "testdata/folded.golden"
	var got bytes.Buffer
	names, err := filepath.Glob("testdata/folded/*")
	if err != nil || len(names) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, name := range names {
		var samples, user, kernel, unknown, stacks, faults uint64
		comms := make(map[string]bool)
		take := func(s Stack) error {
			stacks, samples = stacks+1, samples+s.Count
			user, kernel = user+uint64(len(s.User)), kernel+uint64(len(s.Kernel))
			comms[s.Keys[0]] = true
			for _, frame := range append(s.User, s.Kernel...) {
				if frame == UnknownFrame {
					unknown++
				}
			}
			return nil
		}
		for _, line := range readLines(t, name) {
			if strings.HasSuffix(name, ".json") {
				if _, ok := MapName(line); !ok {
					continue
				}
				// The recorded key is comm, kstack, ustack.
				line = bytes.ReplaceAll(line, []byte(`"python3,`), []byte(`"1,`))
				for _, comm := range []string{"sha256sum", "dd", "qemu-system-x86", "apt-cache", "bpftrace"} {
					line = bytes.ReplaceAll(line, []byte(`"`+comm+`,`), []byte(`"2,`))
				}
				if err := EachStack(line, 1, take); err != nil {
					faults++
				}
				continue
			}
			s, err := ParseFolded(line)
			switch {
			case err == nil:
				_ = take(s)
			case !errors.Is(err, ErrSkip):
				faults++
			}
		}
		fmt.Fprintf(&got, "%s: %d stacks of %d comms, %d samples, %d user frames, %d kernel frames, %d unknown, %d faults\n",
			filepath.Base(name), stacks, len(comms), samples, user, kernel, unknown, faults)
	}
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	compareLines(t, string(want), got.String())
}

func FuzzParseFolded(f *testing.F) {
	f.Add([]byte("sh;main;-;entry_SYSCALL_64_[k] 2"))
	f.Add([]byte("a;b\xff;c 18446744073709551615"))
	f.Fuzz(func(t *testing.T, line []byte) {
		s, err := ParseFolded(line)
		if err != nil && !errors.Is(err, ErrSkip) && !errors.Is(err, ErrLine) {
			t.Errorf("error %v", err)
		}
		if len(s.User) > maxFrames || len(s.Kernel) > maxFrames || err == nil && len(s.Keys) != 1 {
			t.Errorf("got %+v", s)
		}
	})
}

func FuzzEachStack(f *testing.F) {
	f.Add(stackLine(`"1,0,1,\n  k+1\n,\n    a+1\n": 17`))
	f.Add(stackLine(`"1,0,1,,\n    caf\uffffffc3+1\n": 1d`))
	f.Fuzz(func(t *testing.T, line []byte) {
		err := EachStack(line, 3, func(s Stack) error {
			if len(s.Keys) != 3 || len(s.User) > maxFrames || len(s.Kernel) > maxFrames {
				t.Errorf("got %+v", s)
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrLine) {
			t.Errorf("error %v", err)
		}
	})
}
