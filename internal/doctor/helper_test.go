package doctor

import (
	"context"
	"testing"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
)

func must[T any](t *testing.T) func(T, error) T { return daemontest.Must[T](t) }

// running runs a server until the test ends, or until end.
func running(t *testing.T, c config.Config) (address string, end func()) {
	t.Helper()
	return daemontest.Start(t, func(ctx context.Context, ready func(string)) error {
		return daemon.Serve(ctx, daemon.Options{Config: c, Logger: daemontest.Quiet, Ready: ready})
	})
}
