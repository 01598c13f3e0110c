package main

import (
	"os"
	"path/filepath"
	"strings"

	_ "gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/cli/maincli"
)

func main() {
	if b := filepath.Base(os.Args[0]); strings.HasPrefix(b, "runsc") || os.Args[0] == "/proc/self/exe" {
		maincli.Main()
	}
}
