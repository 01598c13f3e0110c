// Command stacyvm-sentry is the gVisor launcher: it makes, finds and removes sandboxes for the
// server, over a Unix socket. It links gVisor and nothing of the control plane, so that gVisor can
// re-execute a small program as sentry and gofer, and a fault here takes neither the server nor a
// running sandbox down. It keeps no state that is not on disk: after its death a new launcher
// finds every sandbox again.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"gvisor.dev/gvisor/runsc/cli/maincli"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/launcher"
	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/limits"
	_ "github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/umount" // gVisor's helper
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

func main() {
	if reexecuted(os.Args[0]) {
		debug.SetGCPercent(startGCPercent)
		limits.Enter() // it takes one descriptor of those that closeStrangers closes
		if err := closeStrangers(); err != nil {
			fmt.Fprintln(os.Stderr, "stacyvm-sentry:", err)
			os.Exit(1)
		}
		useFilter()
		startGuard()
		go shrink()
		maincli.Main()
		return
	}
	if len(os.Args) < 2 || os.Args[1] != "launch" {
		fmt.Fprintln(os.Stderr, "usage: stacyvm-sentry launch --dir DIR [--build HASH] [--expire-after DURATION]")
		fmt.Fprintln(os.Stderr, "stacyvm calls this, people need not")
		os.Exit(2)
	}
	flags := flag.NewFlagSet("launch", flag.ExitOnError)
	dir := flags.String("dir", "", "the engine's state directory")
	build := flags.String("build", "", "content hash of this program, told to clients")
	serve := flags.Bool("serve", false, "stay in the foreground; descriptor 3 hears when the socket is open")
	grace := flags.Duration("expire-after", launcher.ExpiryGrace,
		"how long an expired sandbox is left alone after its expiry, and after the last server was connected")
	_ = flags.Parse(os.Args[2:])
	run := daemonize
	if *serve {
		run = serveDir
	}
	if *grace <= 0 {
		fmt.Fprintln(os.Stderr, "stacyvm-sentry: --expire-after must be positive")
		os.Exit(2)
	}
	if err := run(*dir, *build, *grace); err != nil {
		fmt.Fprintln(os.Stderr, "stacyvm-sentry:", err)
		if errors.Is(err, errServed) {
			os.Exit(wire.ExitServed)
		}
		os.Exit(1)
	}
}

// startGCPercent is the collector's percentage while a sandbox's process starts: it would collect
// several times for a few MiB.
const startGCPercent = 400

// settleTime is how long after its start a sandbox's process has done what needs most memory.
const settleTime = 3 * time.Second

// shrink gives back what starting took and serving does not need: some MiB in each of a sandbox's
// two processes.
func shrink() {
	time.Sleep(settleTime)
	debug.SetGCPercent(100)
	debug.FreeOSMemory()
}

// reexecuted tells whether gVisor started this process as one of its own: as sentry and gofer
// under a runsc name, as helper that unmounts /proc under the default one.
func reexecuted(name string) bool {
	return name == "/proc/self/exe" || strings.HasPrefix(filepath.Base(name), "runsc")
}
