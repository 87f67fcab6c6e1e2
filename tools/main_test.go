package tools

import (
	"os"
	"testing"

	"bpf_tools_exporter/tools/selftest"
)

// A self-test runs this program again.
func TestMain(m *testing.M) {
	if selftest.Main() {
		return
	}
	os.Exit(m.Run())
}
