//go:build !amd64 && !arm64

package tools

// syscallNames is empty: on this architecture system calls show as numbers.
var syscallNames map[uint64]string
