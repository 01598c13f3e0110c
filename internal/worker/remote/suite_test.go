package remote_test

import (
	"testing"

	"github.com/stacyvm/stacyvm/internal/worker/workertest"
)

// TestSuite: a worker on another machine keeps every promise that a local one keeps.
func TestSuite(t *testing.T) {
	for name, way := range map[string]func(testing.TB) transport{"mtls": overMTLS, "tokens without TLS": overTokens} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := way(t)
			workertest.Run(t, tr.machine)
		})
	}
}
