package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const opens = "bpf_opensnoop_opens_total"

func TestLiveOpens(t *testing.T) {
	needLive(t)
	e := startExporter(t, "--collector.opensnoop")
	file := filepath.Join(t.TempDir(), "présent, \"file\"\n"+strings.Repeat("n", 60))
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	idleAndBusy(t, e, func(t *testing.T) {
		name := uniqueName("opens")
		runHelper(t, uniqueName("program"), "opens", name, file, "500", file+".missing", "20")
		e.expectCounts(t,
			count{opens, labels{"comm": name, "result": "success"}, 500},
			count{opens, labels{"comm": name, "result": "ENOENT"}, 20},
			count{opens, labels{"comm": name}, 520},
		)
	})
	t.Run("table", func(t *testing.T) {
		name := uniqueName("row")
		eventually(t, 20*time.Second, "the table has the file's whole name", func() error {
			runHelper(t, uniqueName("program"), "opens", name, file, "1", file+".missing", "1")
			events := e.mustGet(t, "/tools/opensnoop/events?n=1000")
			for line := range strings.Lines(events) {
				if strings.Contains(line, name) && strings.Contains(line, strconv.Quote(file)) && strings.Contains(line, `"result":"success"`) {
					return nil
				}
			}
			return fmt.Errorf("no row of %s", name)
		})
	})
	t.Run("storm", func(t *testing.T) {
		const n = 200_000
		name := uniqueName("storm")
		begin := time.Now()
		runHelper(t, uniqueName("program"), "opens", name, file, strconv.Itoa(n), file+".missing", "0")
		t.Logf("%d opens in %s", n, time.Since(begin))
		e.expectCounts(t, count{opens, labels{"comm": name, "result": "success"}, n}, count{opens, labels{"comm": name}, n})
	})
}

// opensHelper opens files under a comm of its own, that of one thread: a name,
// a file and how often, a missing file and how often.
func opensHelper(args []string) error {
	n, missing, err := twoNumbers([]string{args[2], args[4]})
	if err != nil {
		return err
	}
	if err := takeComm(args[0]); err != nil {
		return err
	}
	for range n {
		fd, err := unix.Open(args[1], unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	for range missing {
		if _, err := unix.Open(args[3], unix.O_RDONLY, 0); err != unix.ENOENT {
			return fmt.Errorf("%s: %v, want ENOENT", args[3], err)
		}
	}
	return nil
}
