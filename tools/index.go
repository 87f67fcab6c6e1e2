package tools

import "math"

// NativeIndex is the native histogram bucket of a schema that holds a value in
// seconds: the least i with value <= 2^(i * 2^-schema).
func NativeIndex(value float64, schema int) int {
	if value <= 0 {
		value = math.SmallestNonzeroFloat64
	}
	scaled := math.Log2(value) * math.Exp2(float64(schema))
	// A power of two, computed, may lie a rounding error above itself.
	if nearest := math.Round(scaled); math.Abs(scaled-nearest) < 1e-9 {
		return int(nearest)
	}
	return int(math.Ceil(scaled))
}

// nearestIndex is the bucket of schema 0 whose upper bound is nearest to one
// given in seconds: 2^n us goes to 2^(n-20) s, whose bound is 4.6 % lower.
func nearestIndex(bound float64) int {
	return int(math.Round(math.Log2(bound)))
}

// The least width of a bucket of a linear histogram may lie in these bounds.
const minWidth, maxWidth = 1.0, 0x1p50

// MaxDoublings is how often the buckets of a linear histogram may double.
const MaxDoublings = 63

// linearIndex is the bucket of a linear histogram that holds a value: from
// index * width * 2^doublings on, with as few doublings as it takes.
func linearIndex(value, width float64) (doublings, index int) {
	n := math.Floor(value / width)
	for ; n >= LinearBuckets && doublings < MaxDoublings; doublings++ {
		n = math.Floor(n / 2)
	}
	return doublings, int(min(n, LinearBuckets-1))
}
