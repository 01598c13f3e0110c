// Package testneed lets a test say what it needs from the machine: it skips with the reason when
// that is missing, and fails instead where STACYVM_TEST_REQUIRE lists the need (comma-separated,
// or "all"), so that CI cannot pass by skipping. Every skip goes through it and is written to the
// file that STACYVM_TEST_SKIPPED names, for scripts/test.sh to show.
package testneed

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/bundle"
)

// leftOut is why a test that has what it needs is skipped all the same: `make check` is the same
// for root and for others.
const leftOut = "-short leaves it out"

// GVisor needs what the gVisor engine needs: Linux, root and a build that holds the launcher and
// the guest program. -short leaves it out.
func GVisor(t testing.TB) {
	t.Helper()
	switch {
	case testing.Short():
		Missing(t, "gvisor", leftOut)
	case runtime.GOOS != "linux":
		Missing(t, "gvisor", "gVisor runs on Linux only")
	case os.Geteuid() != 0:
		Missing(t, "gvisor", "the gVisor engine needs root")
	case bundle.Hash(bundle.Sentry) == "" || bundle.Hash(bundle.Guest) == "":
		Missing(t, "gvisor", "this build does not contain the launcher and the guest program: run `make build` first")
	}
}

// Root needs root, for what the purpose says. -short leaves it out.
func Root(t testing.TB, purpose string) {
	t.Helper()
	switch {
	case testing.Short():
		Missing(t, "root", leftOut)
	case os.Geteuid() != 0:
		Missing(t, "root", "only root may "+purpose)
	}
}

// Patience needs more time than one has between two edits. -short leaves it out.
func Patience(t testing.TB) {
	t.Helper()
	if testing.Short() {
		Missing(t, "patience", leftOut)
	}
}

// Program needs a program in PATH and gives its path.
func Program(t testing.TB, name string) (path string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name, err.Error())
	}
	return path
}

// Missing ends the test, which lacks what need names: as skipped, or as failed where the need is
// required.
func Missing(t testing.TB, need, reason string) {
	t.Helper()
	required := strings.Split(os.Getenv("STACYVM_TEST_REQUIRE"), ",")
	if slices.Contains(required, need) || slices.Contains(required, "all") {
		t.Fatalf("STACYVM_TEST_REQUIRE lists %s, but %s", need, reason)
	}
	if list := os.Getenv("STACYVM_TEST_SKIPPED"); list != "" {
		if err := note(list, t.Name()+": "+reason); err != nil {
			t.Fatal(err)
		}
	}
	t.Skip(reason)
}

// note appends a line; packages' tests run side by side.
func note(path, line string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintln(file, line)
	return err
}

// Often is how much of something a test does: usually, or, with STACYVM_TEST_LONG set, what a
// night allows.
func Often(usually, thoroughly int) int {
	if os.Getenv("STACYVM_TEST_LONG") != "" {
		return thoroughly
	}
	return usually
}
