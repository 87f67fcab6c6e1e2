// Command spin keeps so many threads running, in a function that is found by its
// name in a profile.
package main

import (
	"os"
	"runtime"
	"strconv"
)

var sink uint64

//go:noinline
func spinForTheFlameGraph() {
	for i := uint64(0); ; i++ {
		sink += i
	}
}

func main() {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	runtime.GOMAXPROCS(n + 1)
	for range n - 1 {
		go spinForTheFlameGraph()
	}
	spinForTheFlameGraph()
}
