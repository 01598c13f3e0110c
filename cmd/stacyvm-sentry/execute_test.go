//go:build bench

package main

import (
	"os"
	"path/filepath"
	"testing"

	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/launcher"
)

// BenchmarkExecute runs `true` in a sandbox by gVisor's own call, without anything of ours inside:
// what a command costs at least. test/bench starts it in the engine's directory, beside the
// product's exec.
func BenchmarkExecute(b *testing.B) {
	id := os.Getenv("STACYVM_BENCH_SANDBOX")
	name := container.FullID{SandboxID: boxName, ContainerID: boxName}
	loaded, err := container.Load(filepath.Join(launcher.Sandboxes, id), name, container.LoadOpts{Exact: true, SkipCheck: true})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		args := control.ExecArgs{Argv: []string{"/bin/true"}, Envv: []string{"PATH=/usr/bin:/bin"}, WorkingDirectory: "/"}
		pid, err := loaded.Execute(&config.Config{}, &args)
		if err != nil {
			b.Fatal(err)
		}
		status, err := loaded.WaitPID(pid)
		if err != nil || status.ExitStatus() != 0 {
			b.Fatalf("exit status %d, %v", status.ExitStatus(), err)
		}
	}
}
