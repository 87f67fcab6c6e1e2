package tools

import (
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

func numbered(n int) Event {
	return Event{Fields: Fields{{"n", "int"}}, Values: []string{strconv.Itoa(n)}}
}

func numbers(events []Event) []string {
	all := []string{}
	for _, e := range events {
		all = append(all, e.Values[0])
	}
	return all
}

func TestRingOrder(t *testing.T) {
	for _, c := range []struct {
		add, ask int
		want     []string
	}{
		{0, 5, []string{}},
		{1, 5, []string{"0"}},
		{2, 1, []string{"1"}},
		{3, 5, []string{"2", "1", "0"}},
		{4, 5, []string{"3", "2", "1"}},
		{5, 2, []string{"4", "3"}},
		{7, 3, []string{"6", "5", "4"}},
		{3, 0, []string{}},
		{3, -1, []string{}},
	} {
		r := NewRing(3)
		for n := range c.add {
			r.Add(numbered(n))
		}
		if got := numbers(r.Recent(c.ask)); !slices.Equal(got, c.want) {
			t.Errorf("after %d, Recent(%d) is %v, want %v", c.add, c.ask, got, c.want)
		}
	}
}

// A follower that does not read misses events and holds nobody up.
func TestRingFollowers(t *testing.T) {
	r := NewRing(10)
	r.Add(numbered(-1)) // before anybody follows
	stalled, endStalled := r.Follow()
	reader, endReader := r.Follow()
	for n := range 500 {
		r.Add(numbered(n))
		if e := <-reader; e.Values[0] != strconv.Itoa(n) {
			t.Fatalf("event %s comes as number %d", e.Values[0], n)
		}
	}
	endReader()
	endReader() // twice is once
	if _, open := <-reader; open {
		t.Error("the channel is open after the end")
	}
	r.Add(numbered(500))
	endStalled()
	var got []string
	for e := range stalled {
		got = append(got, e.Values[0])
	}
	if len(got) != 64 || got[0] != "0" || got[63] != "63" {
		t.Errorf("the stalled follower has %d events: %v", len(got), got)
	}
}

func TestRingConcurrency(t *testing.T) {
	r := NewRing(100)
	var adders, others sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		adders.Add(1)
		go func() {
			defer adders.Done()
			for n := range 2000 {
				r.Add(numbered(n))
			}
		}()
		others.Add(2)
		go func() {
			defer others.Done()
			for {
				select {
				case <-stop:
					return
				default:
					r.Recent(50)
				}
			}
		}()
		go func() {
			defer others.Done()
			for {
				events, end := r.Follow()
				select {
				case <-events:
				case <-stop:
					end()
					return
				}
				end()
			}
		}()
	}
	adders.Wait()
	close(stop)
	others.Wait()
	if n := len(r.Recent(1000)); n != 100 {
		t.Errorf("%d events kept, want 100", n)
	}
	if len(r.followers) != 0 {
		t.Errorf("%d followers are left", len(r.followers))
	}
}

func TestEventJSON(t *testing.T) {
	fields := Fields{{"comm", "string"}, {"pid", "int"}, {"seconds", "float"}}
	for _, c := range []struct {
		values []string
		want   string
	}{
		{[]string{"ls", "12", "0.5"}, `"comm":"ls","pid":12,"seconds":0.5`},
		{[]string{"", "0", ""}, `"pid":0`},
		{[]string{"12", "-1", "1e-09"}, `"comm":"12","pid":-1,"seconds":1e-09`},
		{[]string{"new\nline", "18446744073709551615", "0"}, `"comm":"new\nline","pid":18446744073709551615,"seconds":0`},
		{[]string{`","pid":1,"x":"`, "", ""}, `"comm":"\",\"pid\":1,\"x\":\""`},
		{[]string{"\xff\xfe", "", ""}, `"comm":"` + "\uFFFD" + `"`},
		{[]string{"caf\u00e9 <b>&", "", ""}, `"comm":"café <b>&"`},
		{[]string{"\x00\x1b[31m\u2028", "", ""}, `"comm":"\u0000\u001b[31m\u2028"`},
		// What is no number is not taken for one, nor for other JSON.
		{[]string{"", "unknown", "NaN"}, `"pid":"unknown","seconds":"NaN"`},
		{[]string{"", "null", `{"a":1}`}, `"pid":"null","seconds":"{\"a\":1}"`},
		{[]string{"", "true", `"x"`}, `"pid":"true","seconds":"\"x\""`},
		{[]string{"", "007", "+1"}, `"pid":"007","seconds":"+1"`},
		{[]string{"", "0x10", "1."}, `"pid":"0x10","seconds":"1."`},
		{[]string{"", "[1]", " 1"}, `"pid":"[1]","seconds":" 1"`},
		{[]string{"", "1,\"x\":2", "1}"}, `"pid":"1,\"x\":2","seconds":"1}"`},
	} {
		e := Event{Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("", 3600)), Fields: fields, Values: c.values}
		b, err := json.Marshal(e)
		if err != nil {
			t.Errorf("%q: %v", c.values, err)
			continue
		}
		if want := `{"time":"2026-01-02T02:04:05.000006Z",` + c.want + `}`; !sameJSON(b, []byte(want)) {
			t.Errorf("%q:\ngot  %s\nwant %s", c.values, b, want)
		}
	}
}

// sameJSON compares but for how a string is escaped, which json.Marshal
// rewrites.
func sameJSON(a, b []byte) bool {
	var x, y map[string]json.RawMessage
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil || len(x) != len(y) {
		return false
	}
	for key := range x {
		var v, w any
		if json.Unmarshal(x[key], &v) != nil || json.Unmarshal(y[key], &w) != nil || v != w {
			return false
		}
	}
	return true
}
