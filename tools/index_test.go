package tools

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func TestNativeIndex(t *testing.T) {
	for schema := range 9 {
		perOctave := 1 << schema
		for n := -60; n <= 60; n++ {
			power := math.Ldexp(1, n)
			// A bound is in its bucket, the next number above it in the next.
			if got, want := NativeIndex(power, schema), n*perOctave; got != want {
				t.Errorf("NativeIndex(2^%d, %d) = %d, want %d", n, schema, got, want)
			}
			if got, want := NativeIndex(power*(1+1e-6), schema), n*perOctave+1; got != want {
				t.Errorf("NativeIndex(above 2^%d, %d) = %d, want %d", n, schema, got, want)
			}
			if got, want := NativeIndex(power*(1-1e-6), schema), n*perOctave; got != want {
				t.Errorf("NativeIndex(below 2^%d, %d) = %d, want %d", n, schema, got, want)
			}
		}
	}
	for _, c := range []struct {
		value float64
		want  int
	}{
		{0.25, -16}, {1, 0}, {1.0905, 1}, {1.0906, 2}, {1.5, 5}, {1e-9, -239}, {3600, 95},
		{0, -1074 * 8}, {-1, -1074 * 8}, {math.SmallestNonzeroFloat64, -1074 * 8}, {math.MaxFloat64, 1024 * 8},
	} {
		if got := NativeIndex(c.value, 3); got != c.want {
			t.Errorf("NativeIndex(%g, 3) = %d, want %d", c.value, got, c.want)
		}
	}
}

// A slot [2^n, 2^(n+1)) us goes to the bucket of schema 0 that ends at 2^(n-19) s.
func TestNearestIndex(t *testing.T) {
	for n := 0; n < 64; n++ {
		if got, want := nearestIndex(math.Ldexp(1e-6, n+1)), n-19; got != want {
			t.Errorf("the slot [2^%d, 2^%d) us goes to 2^%d s, want 2^%d", n, n+1, got, want)
		}
	}
}

// slot3 is what schema3() has to find: floor(8 * log2(units)), in integers, as
// far as it counts.
func slot3(ns uint64) int {
	units := ns * 140737 >> 17
	if units == 0 {
		return 0
	}
	power := new(big.Int).SetUint64(units)
	power.Exp(power, big.NewInt(8), nil)
	return min(power.BitLen()-1, maxSlot)
}

// constants are nanoseconds next to each bound of a slot, and others.
func constants() []uint64 {
	values := []uint64{0, 1, 2, 3, 931, 1000, 1e6, 1e9, 60e9, 3600e9, 1<<50 - 1, 1 << 50}
	for slot := 0; slot <= maxSlot+8; slot++ {
		bound := uint64(math.Exp2(float64(slot)/8) / (1 << 30) * 1e9)
		for d := uint64(0); d < 5; d++ {
			if bound+d >= 2 {
				values = append(values, bound+d-2)
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 5_000 {
		values = append(values, random.Uint64()>>(14+random.UintN(49)))
	}
	return values
}

func TestSchema3(t *testing.T) {
	program, err := tokenize(expandMacros("$slot = schema3($ns);"))
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range constants() {
		slot, err := run(program, ns)
		if err != nil {
			t.Fatal(err)
		}
		if want := slot3(ns); slot != want {
			t.Errorf("schema3(%d) = %d, want %d", ns, slot, want)
		}
	}
}

// The bucket that a slot becomes is the one of the time it was counted for, but
// for what lies within rounding of its bound.
func TestSlotOffset(t *testing.T) {
	for _, ns := range constants() {
		// Half a unit of 2^-30 s is lost below, and 3.5 ppm at all sizes.
		units := float64(ns*140737>>17) / (1 << 30)
		if units == 0 || ns > 1<<40 {
			continue
		}
		got := slot3(ns) - SlotOffset
		if low, high := NativeIndex(units*(1-1e-12), 3), NativeIndex(units*(1+1e-12), 3)+1; got < low || got > high {
			t.Errorf("%d ns: bucket %d, want %d to %d", ns, got, low, high)
		}
		if ns > 1<<22 {
			seconds := float64(ns) / 1e9
			if low, high := NativeIndex(seconds*(1-1e-5), 3), NativeIndex(seconds*(1+1e-5), 3)+1; got < low || got > high {
				t.Errorf("%d ns: bucket %d, want %d to %d", ns, got, low, high)
			}
		}
	}
	if first, last := 0-SlotOffset, maxSlot-SlotOffset; first != NativeIndex(math.Exp2(-30)*1.01, 3) || last != NativeIndex(math.Exp2(11)*0.99, 3) {
		t.Errorf("slots go to the buckets %d to %d", first, last)
	}
}

func TestExpandMacros(t *testing.T) {
	for script, want := range map[string]bool{
		"$slot = schema3($ns);":                 true,
		"  $a1 = schema3($b_2); @x = count();":  true,
		"$slot = schema3($ns)":                  false,
		"$slot = schema3(nsecs);":               false,
		"@x = schema3($ns);":                    false,
		"$slot=schema3($ns);":                   false,
		"// nothing":                            false,
		"$a = schema3($b); $c = schema3($d);":   true,
		"$NS = schema3($SLOT); print($NSLOTS);": true,
	} {
		got := expandMacros(script)
		if expanded := got != script; expanded != want || want && strings.Contains(got, "schema3") {
			t.Errorf("%q becomes %q", script, got)
		}
	}
	if got := expandMacros("$op = operation(args->rwbs);"); !strings.HasPrefix(got, "$op_text = (uint16 *)args->rwbs;") || !strings.Contains(got, "$op = (uint64)4;") {
		t.Errorf("operation becomes\n%s", got)
	}
	got := expandMacros("$NS = schema3($SLOT); print($NSLOTS);")
	if !strings.Contains(got, "($SLOT * 140737)") || !strings.Contains(got, "$NS = $s3_exp * 8;") || !strings.HasSuffix(got, "} print($NSLOTS);") {
		t.Errorf("names that are like the macro's own:\n%s", got)
	}
}

// No script is left with a macro that was not written as it has to be.
func TestBuiltinScriptsExpand(t *testing.T) {
	for _, d := range builtins(t).Tools() {
		for _, s := range d.Sources {
			text, err := d.Script(s, nil)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(text, "schema3(") || strings.Contains(text, "operation(") {
				t.Errorf("%s: a macro is left in\n%s", d.Name, text)
			}
		}
	}
}

// TestSchema3Live has bpftrace and the kernel do the arithmetic.
func TestSchema3Live(t *testing.T) {
	bpftrace := needBPFtrace(t)
	values := []uint64{0, 1, 2, 3, 15, 931, 932, 1023, 1000, 4096, 65535, 1e6, 123456789, 1e9, 1<<32 + 1, 60e9, 3600e9, 1<<41 - 1, 1 << 45, 1 << 46}
	for slot := 9; slot <= maxSlot; slot += 9 {
		values = append(values, uint64(math.Exp2(float64(slot)/8)/(1<<30)*1e9))
	}
	for len(values) > 0 {
		n := min(12, len(values))
		liveSlots(t, bpftrace, values[:n])
		values = values[n:]
	}
}

func liveSlots(t *testing.T, bpftrace string, values []uint64) {
	t.Helper()
	var probe strings.Builder
	args := []string{"-B", "line", "SCRIPT"}
	for i, ns := range values {
		fmt.Fprintf(&probe, "  $ns%d = (uint64)$%d;\n  $slot%d = schema3($ns%d);\n  printf(\"%d %%d\\n\", $slot%d);\n", i, i+1, i, i, i, i)
		args = append(args, strconv.FormatUint(ns, 10))
	}
	script := t.TempDir() + "/slots.bt"
	if err := os.WriteFile(script, []byte("interval:ms:1\n{\n"+expandMacros(probe.String())+"  exit();\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args[2] = script
	got := make(map[int]int)
	row := regexp.MustCompile(`^(\d+) (\d+)$`)
	out := runProgram(t, bpftrace, args...)
	for _, line := range strings.Split(out, "\n") {
		if m := row.FindStringSubmatch(line); m != nil {
			i, _ := strconv.Atoi(m[1])
			got[i], _ = strconv.Atoi(m[2])
		}
	}
	for i, ns := range values {
		slot, ok := got[i]
		if !ok {
			t.Fatalf("no slot for %d ns:\n%s", ns, out)
		}
		if want := slot3(ns); slot != want {
			t.Errorf("%d ns: slot %d, want %d", ns, slot, want)
		}
	}
}
