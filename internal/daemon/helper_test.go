package daemon

import (
	"context"
	"testing"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
)

func must[T any](t *testing.T) func(T, error) T { return daemontest.Must[T](t) }

// serving runs a control plane until the test ends.
func serving(t *testing.T, c config.Config) (address string) {
	t.Helper()
	address, _ = daemontest.Start(t, serve(c))
	return address
}

func serve(c config.Config) func(context.Context, func(string)) error {
	return func(ctx context.Context, ready func(string)) error {
		return Serve(ctx, Options{Config: c, Logger: daemontest.Quiet, Ready: ready})
	}
}
