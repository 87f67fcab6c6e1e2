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
