package output

import "testing"

func TestLosses(t *testing.T) {
	for _, tt := range []struct {
		line string
		n    uint64
		ok   bool
	}{
		{"Lost 12 events", 12, true},
		{"Lost 12 events on CPU #3!", 12, true},
		{"lost 12 events on CPU #3", 12, true},
		{"Possibly lost 7 samples", 7, true},
		{`{"type": "lost_events", "data": {"events": 7}}`, 7, true},
		{`{"type": "lost_events", "count": 9, "data": {"events": 9}}`, 9, true},
		{"Lost 18446744073709551615 events", 1<<64 - 1, true},
		{"Lost 18446744073709551616 events", 0, false},
		{"", 0, false},
		{"Lost", 0, false},
		{"Lost  events", 0, false},
		{"Lost 12", 0, false},
		{"Lost -1 events", 0, false},
		{"Lost 1e3 events", 0, false},
		{"Lost 12 events ", 0, false},
		{" Lost 12 events", 0, false},
		{"Lost 12 events on CPU #", 0, false},
		{"Lost 12 events on CPU #x", 0, false},
		{"Lost 12 events on CPU #3!!", 0, false},
		{"Possibly lost 7 events", 0, false},
		{"Possibly lost 7 samples on CPU #1", 0, false},
		{"sh               1      1        0 /bin/echo Lost 12 events", 0, false},
		{"true             1      1        0 /bin/true Lost 12 events on CPU #3!", 0, false},
		{`{"type": "printf", "data": "Lost 12 events"}`, 0, false},
		{`{"type": "printf", "data": "{\"type\": \"lost_events\", \"data\": {\"events\": 7}}"}`, 0, false},
		{`{"type": "attached_probes", "data": {"probes": 5}}`, 0, false},
		{`{"type": "lost_events", "data": {"events": 7}`, 0, false},
	} {
		n, ok := Losses([]byte(tt.line))
		if ok != tt.ok || ok && n != tt.n {
			t.Errorf("%q: got %d, %v", tt.line, n, ok)
		}
	}
}

func FuzzLosses(f *testing.F) {
	f.Add([]byte("Lost 12 events on CPU #3!"))
	f.Add([]byte("Possibly lost 7 samples"))
	f.Add([]byte(`{"type": "lost_events", "data": {"events": 7}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if n, ok := Losses(line); !ok && n != 0 {
			t.Errorf("%d without ok", n)
		}
		if _, ok := Losses(append([]byte("sh "), line...)); ok {
			t.Error("counted within a row")
		}
	})
}
