// Package testneed lets a test say what it needs from the machine: it skips with the reason when that is missing, and
// fails instead where STACYVM_TEST_REQUIRE lists the need (comma-separated, or "all"), so that CI cannot pass by skipping.
package testneed

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/bundle"
)

// GVisor needs what the gVisor engine needs: Linux, root and a build that holds the launcher and the guest program.
func GVisor(t testing.TB) {
	t.Helper()
	switch {
	case runtime.GOOS != "linux":
		missing(t, "gvisor", "gVisor runs on Linux only")
	case os.Geteuid() != 0:
		missing(t, "gvisor", "the gVisor engine needs root")
	case bundle.Hash(bundle.Sentry) == "" || bundle.Hash(bundle.Guest) == "":
		missing(t, "gvisor", "this build does not contain the launcher and the guest program: run `make build` first")
	}
}

func missing(t testing.TB, need, reason string) {
	t.Helper()
	required := strings.Split(os.Getenv("STACYVM_TEST_REQUIRE"), ",")
	if slices.Contains(required, need) || slices.Contains(required, "all") {
		t.Fatalf("STACYVM_TEST_REQUIRE lists %s, but %s", need, reason)
	}
	t.Skip(reason)
}
