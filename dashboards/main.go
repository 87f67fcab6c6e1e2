// Command dashboards writes the dashboards of this folder:
//
//	go run ./dashboards
//
// Dashboards share most of their panels and conventions, which are one place
// each here. Grafana reads the JSON files; nothing is generated where they are
// used.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	_, self, _, _ := runtime.Caller(0)
	for name, d := range all() {
		text, err := marshal(d)
		if err == nil {
			err = os.WriteFile(filepath.Join(filepath.Dir(self), name), text, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func marshal(d *dashboard) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(d)
	return b.Bytes(), err
}
