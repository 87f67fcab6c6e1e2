package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// nativeBuckets are the counts of a native histogram by bucket: that of index i
// ends at 2^(i/8), the one before it is its lower bound (schema 3).
type nativeBuckets map[int]float64

func decodeNative(h *dto.Histogram) nativeBuckets {
	buckets := make(nativeBuckets)
	index, delta, running := 0, 0, int64(0)
	for _, span := range h.PositiveSpan {
		index += int(span.GetOffset())
		for range span.GetLength() {
			running += h.PositiveDelta[delta]
			buckets[index] += float64(running)
			index++
			delta++
		}
	}
	return buckets
}

// upTo counts what lies in buckets that end at 2^(index/8) at most.
func (b nativeBuckets) upTo(index int) float64 {
	var sum float64
	for i, n := range b {
		if i <= index {
			sum += n
		}
	}
	return sum
}

// minus returns what came on top of earlier buckets.
func (b nativeBuckets) minus(earlier nativeBuckets) nativeBuckets {
	rise := make(nativeBuckets)
	for i, n := range b {
		if n != earlier[i] {
			rise[i] = n - earlier[i]
		}
	}
	return rise
}

// quantile interpolates as Prometheus does, exponentially within a bucket.
func (b nativeBuckets) quantile(q float64) float64 {
	rank := q * b.upTo(math.MaxInt)
	for _, i := range slices.Sorted(maps.Keys(b)) {
		if rank <= b[i] {
			return math.Exp2((float64(i) - 1 + rank/b[i]) / 8)
		}
		rank -= b[i]
	}
	return math.NaN()
}

// Each histogram is native, of schema 3, and classic in one, of the same
// observations.
func TestLiveNativeHistograms(t *testing.T) {
	needLive(t)
	e := startExporter(t)
	runSessions(t, uniqueName("srv"), uniqueName("cli"), "127.0.0.1", 50, 1000, 1000)
	device := loopDevice(t, 32<<20)
	directIO(t, device, 300, 200)
	scrape := e.scrapeProtobuf(t)
	for _, name := range []string{durations, biolatency} {
		if len(scrape.series(name, nil)) == 0 {
			t.Errorf("no series of %s", name)
		}
		for _, series := range scrape.series(name, nil) {
			checkBothForms(t, fmt.Sprintf("%s%v", name, series.Label), series.Histogram)
		}
	}
}

func checkBothForms(t *testing.T, name string, h *dto.Histogram) {
	t.Helper()
	native := decodeNative(h)
	total := float64(h.GetSampleCount())
	if h.GetSchema() != 3 || h.GetZeroCount()+uint64(native.upTo(math.MaxInt)) != h.GetSampleCount() || total == 0 {
		t.Errorf("%s: schema %d, native count %v and %d zeros, classic count %v: want schema 3 and the same",
			name, h.GetSchema(), native.upTo(math.MaxInt), h.GetZeroCount(), total)
	}
	if len(h.Bucket) != 27 && len(h.Bucket) != 28 {
		t.Errorf("%s: %d classic buckets, want 27, from 2^-20 s to 2^6 s", name, len(h.Bucket))
	}
	for i, bucket := range h.Bucket {
		if math.IsInf(bucket.GetUpperBound(), 1) {
			continue
		}
		exponent := i - 20
		if bucket.GetUpperBound() != math.Exp2(float64(exponent)) {
			t.Errorf("%s: classic bucket %d ends at %v, want 2^%d", name, i, bucket.GetUpperBound(), exponent)
		}
		if want := native.upTo(8*exponent) + float64(h.GetZeroCount()); float64(bucket.GetCumulativeCount()) != want {
			t.Errorf("%s: %d up to 2^%d s, native %v", name, bucket.GetCumulativeCount(), exponent, want)
		}
	}
	// The sum lies between what the bounds of the buckets allow for; the unit of
	// counting is 3.5 ppm off.
	var low, high float64
	for i, n := range native {
		low, high = low+n*math.Exp2(float64(i-1)/8), high+n*math.Exp2(float64(i)/8)
	}
	if sum := h.GetSampleSum(); sum < low*0.9999 || sum > high*1.0001 {
		t.Errorf("%s: sum %v, want within %v and %v", name, sum, low, high)
	}
}

// Sessions of known durations: the quantiles of the native buckets are within
// 5 % of those that the client measured. Every session of this machine is in the
// histogram, so a measurement with others in it is repeated.
func TestLiveQuantiles(t *testing.T) {
	needLive(t)
	e := startExporter(t)
	const n, shortest, longest = 200, 20, 1000 // milliseconds
	var lengths []string
	for i := range n {
		lengths = append(lengths, fmt.Sprintf("%.3f", shortest*math.Pow(float64(longest)/shortest, float64(i)/(n-1))))
	}
	outbound := labels{"direction": "outbound"}
	read := func() nativeBuckets {
		buckets := make(nativeBuckets)
		for _, series := range e.scrapeProtobuf(t).series(durations, outbound) {
			maps.Copy(buckets, decodeNative(series.Histogram))
		}
		return buckets
	}
	var faults []string
	for range attempts {
		before := read()
		var truth []float64
		for _, word := range strings.Fields(runHelper(t, uniqueName("paced"), "tcp-paced", lengths...)) {
			seconds, err := strconv.ParseFloat(word, 64)
			if err != nil {
				t.Fatal(err)
			}
			truth = append(truth, seconds)
		}
		slices.Sort(truth)
		faults = compareQuantiles(t, read().minus(before), truth)
		if len(faults) == 0 {
			return
		}
		t.Log(faults)
	}
	t.Errorf("%q", faults)
}

func compareQuantiles(t *testing.T, got nativeBuckets, truth []float64) (faults []string) {
	t.Helper()
	if n := got.upTo(math.MaxInt); n != float64(len(truth)) {
		return []string{fmt.Sprintf("%v sessions, want %d", n, len(truth))}
	}
	for _, q := range []float64{0.5, 0.9, 0.99} {
		want := truth[int(math.Ceil(q*float64(len(truth))))-1]
		value := got.quantile(q)
		t.Logf("p%v: %.4f s, measured %.4f s: %+.1f %%", q*100, value, want, 100*(value/want-1))
		if math.Abs(value/want-1) > 0.05 {
			faults = append(faults, fmt.Sprintf("p%v is %v, want within 5 %% of %v", q*100, value, want))
		}
	}
	return faults
}
