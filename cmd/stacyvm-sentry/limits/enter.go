package limits

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/process"
)

// Enter runs in every process that gVisor starts for a sandbox, before gVisor's own code: it moves
// the process into the sandbox's groups and tells the sentry what the guest shall see. gVisor
// re-executes each process once it has given up the host's files; only the first time there is
// something to do.
func Enter() {
	command := slices.IndexFunc(os.Args, func(word string) bool { return word == "boot" || word == "gofer" })
	bundle := process.BundleArgument(os.Args)
	if command < 0 || bundle == "" || slices.Contains(os.Args, "--setup-root=false") {
		return
	}
	if err := enter(bundle, command); err != nil {
		fmt.Fprintln(os.Stderr, "enter limits:", err)
		os.Exit(1)
	}
}

func enter(bundle string, command int) error {
	text, err := os.ReadFile(filepath.Join(bundle, file))
	if err != nil {
		return err
	}
	var own Limits
	if err := json.Unmarshal(text, &own); err != nil {
		return err
	}
	for _, procs := range own.Procs {
		if err := os.WriteFile(procs, []byte("0"), 0); err != nil {
			return err
		}
	}
	if os.Args[command] != "boot" {
		return nil
	}
	os.Args = guestLimits(os.Args, command, own)
	return keepGroupFiles(bundle, own)
}

// guestLimits puts the size of the machine that the guest shall see on the sentry's command line.
func guestLimits(args []string, command int, own Limits) []string {
	var extra []string
	if own.CPUs > 0 {
		extra = append(extra, "--cpu-num", strconv.Itoa(own.CPUs))
	}
	// The second decides how large a memory file system may be that has no size: half of it.
	for _, name := range []string{"--total-memory", "--total-host-memory"} {
		if memory := slices.Index(args, name); memory >= 0 && own.MemoryBytes > 0 {
			args[memory+1] = strconv.FormatInt(own.MemoryBytes, 10)
		}
	}
	return slices.Insert(slices.Clone(args), command+1, extra...)
}
