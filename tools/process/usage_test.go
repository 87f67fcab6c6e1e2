package process

import (
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	var out collector
	spec := shell("echo 12345; n=0; while [ $n -lt 300000 ]; do n=$((n+1)); done; echo; exec sleep 1000")
	spec.Stdout = out.add
	begin := time.Now()
	p := start(t, spec)
	out.await(t, 2)
	u, err := p.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if u.StdoutBytes != 7 || u.UserSeconds <= 0 || u.ResidentBytes == 0 {
		t.Errorf("%+v", u)
	}
	if u.LastOutput.Before(begin) || u.LastOutput.After(time.Now()) {
		t.Errorf("last output at %v, started at %v", u.LastOutput, begin)
	}

	stop(t, p)
	final, err := p.Usage()
	if err != nil || final.UserSeconds <= 0 || final.ResidentBytes != 0 ||
		final.StdoutBytes != 7 || final.LastOutput != u.LastOutput {
		t.Errorf("final %+v, %v, after %+v", final, err, u)
	}
}

func TestUsageOfQuietProcess(t *testing.T) {
	p := start(t, Spec{Path: "/bin/sleep", Args: []string{"1000"}})
	if u, err := p.Usage(); err != nil || u.StdoutBytes != 0 || !u.LastOutput.IsZero() {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestParseStat(t *testing.T) {
	const tail = " S 1 9 9 0 -1 4194304 100 0 0 0 1234 56 0 0 20 0 1 0 100 0 0"
	for _, c := range []struct {
		stat         string
		user, system float64
		fails        bool
	}{
		{stat: "9 (sleep)" + tail, user: 12.34, system: 0.56},
		{stat: "9 (a b) R 1 (2\n)" + tail, user: 12.34, system: 0.56},
		{stat: "9 (a) S 1 9 9 0 -1 0 1 0 0 0 18446744073709551616 0", fails: true},
		{stat: "9 (a) S 1 9 9 0 -1 0 1 0 0 0 0 x", fails: true},
		{stat: "9 (a) S 1 9", fails: true},
		{stat: "9 a", fails: true},
		{stat: "", fails: true},
	} {
		user, system, err := parseStat([]byte(c.stat))
		if user != c.user || system != c.system || (err != nil) != c.fails {
			t.Errorf("%q: %v, %v, %v, want %v, %v", c.stat, user, system, err, c.user, c.system)
		}
	}
}

func TestParseStatm(t *testing.T) {
	for _, c := range []struct {
		statm string
		pages uint64
		fails bool
	}{
		{statm: "600 200 180 5 0 90 0\n", pages: 200},
		{statm: "0 0 0 0 0 0 0\n"},
		{statm: "600", fails: true},
		{statm: "", fails: true},
		{statm: "1 -1", fails: true},
	} {
		size, err := parseStatm([]byte(c.statm))
		if size%4096 != 0 || size > 0 != (c.pages > 0) || (err != nil) != c.fails {
			t.Errorf("%q: %d, %v, want %d pages", c.statm, size, err, c.pages)
		}
	}
}
