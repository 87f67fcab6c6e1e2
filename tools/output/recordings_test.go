package output

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// tableSpecs are tried in order; the first pattern that the recording's BACKEND/NAME matches serves.
var tableSpecs = []struct {
	pattern, spec string
	headers       []string
}{
	{"libbpf/execsnoop-TUxq.*", "time/8 uid:int/5 comm/16 pid:int/6 ppid:int/6 ret:int args...", []string{"TIME UID PCOMM PID PPID RET ARGS"}},
	{"bcc/execsnoop-TUxq.*", "time/8 uid:int/5 comm/16 pid:int/7 ppid:int/7 ret:int args...", []string{"TIME UID COMM PID PPID RET ARGS"}},
	{"*/execsnoop*", "comm/16 pid:int ppid:int ret:int args...", []string{"PCOMM PID PPID RET ARGS", "COMM PID PPID RET ARGS"}},
	{"libbpf/tcplife-sTw.*", "time pid:int/7 comm/16 laddr:addr lport:int raddr:addr rport:int tx_kb:float rx_kb:float ms:float",
		[]string{"TIME(s) PID COMM LADDR LPORT RADDR RPORT TX_KB RX_KB MS"}},
	{"libbpf/tcplife*", "pid:int comm/16 laddr:addr lport:int raddr:addr rport:int tx_kb:float rx_kb:float ms:float",
		[]string{"PID COMM LADDR LPORT RADDR RPORT TX_KB RX_KB MS"}},
	{"bcc/tcplife*", "pid:int comm/10c laddr:addr lport:int raddr:addr rport:int tx_kb:int rx_kb:int ms:float",
		[]string{"PID COMM LADDR LPORT RADDR RPORT TX_KB RX_KB MS"}},
	{"bcc/tcpretrans-c.*", "laddr _ raddr count:int", []string{"Tracing retransmits ...", "LADDR:LPORT RADDR:RPORT RETRANSMITS"}},
	{"bcc/tcpretrans*", "time pid:int ip:int laddr+lport:hostport kind:oneof(R>,L>) raddr+rport:hostport state",
		[]string{"Tracing retransmits ...", "TIME PID IP LADDR:LPORT T> RADDR:RPORT STATE"}},
	{"*/cachestat-T-*", "time hits:int misses:int dirties:int ratio:percent buffers:int cached:int",
		[]string{"TIME HITS MISSES DIRTIES HITRATIO BUFFERS_MB CACHED_MB"}},
	{"*/cachestat*", "hits:int misses:int dirties:int ratio:percent buffers:int cached:int",
		[]string{"HITS MISSES DIRTIES HITRATIO BUFFERS_MB CACHED_MB"}},
}

// TestRecordings decodes what real tools printed and compares the sums of everything with a golden file.
func TestRecordings(t *testing.T) {
	const golden = "testdata/recordings.golden"
	var got bytes.Buffer
	err := fs.WalkDir(os.DirFS("testdata/recordings"), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fmt.Fprintf(&got, "%s:\n", name)
		lines := readLines(t, filepath.Join("testdata/recordings", name))
		summariseLosses(&got, lines)
		backend := path.Base(path.Dir(name))
		switch {
		case strings.HasSuffix(name, ".err"):
		case strings.HasSuffix(name, ".json.out"):
			summariseBPFtrace(&got, lines)
		case backend == "bpftrace":
		case strings.HasPrefix(path.Base(name), "biolatency"):
			summariseLog2(&got, lines)
		default:
			summariseColumns(t, &got, path.Join(backend, path.Base(name)), lines)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
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

func compareLines(t *testing.T, want, got string) {
	t.Helper()
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		if i >= len(w) || i >= len(g) || w[i] != g[i] {
			t.Fatalf("line %d of the golden file: got %q, want %q", i+1, g[min(i, len(g)-1)], w[min(i, len(w)-1)])
		}
	}
}

func readLines(t testing.TB, name string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(data, []byte("\n"))
	return lines[:len(lines)-1]
}

func summariseLosses(w *bytes.Buffer, lines [][]byte) {
	for _, line := range lines {
		if n, ok := Losses(line); ok {
			fmt.Fprintf(w, "\tlost %d: %s\n", n, line)
		}
	}
}

func summariseColumns(t *testing.T, w *bytes.Buffer, name string, lines [][]byte) {
	c := decoderFor(t, name)
	sums := make([]float64, len(c.Names()))
	var rows, skipped int
	var first, values []string
	for _, line := range lines {
		row, err := c.Decode(line, nil)
		if errors.Is(err, ErrSkip) {
			skipped++
			continue
		}
		if err != nil {
			fmt.Fprintf(w, "\t%v\n", err)
			continue
		}
		if rows++; first == nil {
			first = row
		}
		values = row
		for i, v := range row {
			n, _ := strconv.ParseFloat(v, 64)
			sums[i] += n
		}
	}
	fmt.Fprintf(w, "\trows %d, skipped %d\n", rows, skipped)
	if rows > 0 {
		fmt.Fprintf(w, "\tnames %s\n\tsums %.2f\n\tfirst %q\n\tlast %q\n", c.Names(), sums, first, values)
	}
}

func decoderFor(t testing.TB, name string) Decoder {
	t.Helper()
	if !strings.HasPrefix(path.Base(name), "ext4slower-c-") {
		return columnsFor(t, name)
	}
	c, err := NewCSV("task pid:int type:oneof(R,W,O,F) latency_us:float file", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func columnsFor(t testing.TB, name string) *Columns {
	t.Helper()
	for _, s := range tableSpecs {
		if ok, err := path.Match(s.pattern, name); err != nil || !ok {
			continue
		}
		c, err := NewColumns(s.spec, s.headers)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Fatalf("no columns for %s", name)
	return nil
}

func summariseLog2(w *bytes.Buffer, lines [][]byte) {
	l := NewLog2(func(h Histogram) {
		var sum uint64
		for _, s := range h.Slots {
			sum += s.Count
		}
		fmt.Fprintf(w, "\t%v %s to %d: %d\n", h.Section, h.Unit, h.Slots[len(h.Slots)-1].High, sum)
	})
	for _, line := range lines {
		if err := l.Line(line); err != nil {
			fmt.Fprintf(w, "\t%v\n", err)
		}
	}
	if err := l.Flush(); err != nil {
		fmt.Fprintf(w, "\t%v\n", err)
	}
}

func summariseBPFtrace(w *bytes.Buffer, lines [][]byte) {
	kinds := map[MessageKind]int{}
	var printed int
	for _, line := range lines {
		m, err := ParseBPFtrace(line)
		if err != nil {
			fmt.Fprintf(w, "\t%v\n", err)
			continue
		}
		kinds[m.Kind]++
		printed += len(m.Data)
	}
	fmt.Fprintf(w, "\tkinds %v, printed %d\n", kinds, printed)
}

func recordings(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata/recordings", pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("no recordings match %s: %v", pattern, err)
	}
	return names
}
