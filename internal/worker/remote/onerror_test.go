package remote_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
)

// TestOnErrorSeesEveryCall calls every method of a client of a worker that is not there: its owner
// is asked each time what the caller is told.
func TestOnErrorSeesEveryCall(t *testing.T) {
	told := errors.New("told")
	seen := 0
	c, err := remote.NewClient(remote.ClientConfig{ID: here, URL: "http://127.0.0.1:1", OnError: func(err error) error {
		if seen++; stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			t.Errorf("the owner got %v", err)
		}
		return told
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, ref := t.Context(), stacyvm.Ref{ID: stacyvm.NewSandboxID()}
	calls := map[string]func() error{
		"Create":    func() error { _, err := c.Create(ctx, ref, worker.CreateRequest{}); return err },
		"Destroy":   func() error { return c.Destroy(ctx, ref) },
		"Expire":    func() error { return c.Expire(ctx, ref, time.Now()) },
		"Inventory": func() error { _, err := c.Inventory(ctx); return err },
		"Providers": func() error { _, err := c.Providers(ctx); return err },
		"Guest":     func() error { _, err := c.Guest(ctx, ref, guest.ScopeExec); return err },
		"DialPort":  func() error { _, err := c.DialPort(ctx, ref, 80); return err },
	}
	for name, call := range calls {
		before := seen
		if err := call(); !errors.Is(err, told) || seen != before+1 {
			t.Errorf("%s: the caller got %v; the owner was asked %d times", name, err, seen-before)
		}
	}
}
