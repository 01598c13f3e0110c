package api_test

import (
	"net/http"
	"testing"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// TestAdminCallsAreAudited: each with its outcome, refused ones too; not those of other routes, nor of who has no key.
func TestAdminCallsAreAudited(t *testing.T) {
	f := start(t, withKeys, func(c *control.Config) { c.AuditSync = true })
	for _, headers := range [][]string{{"X-Admin-API-Key", adminKey, "X-User-ID", "root", "User-Agent", "test/1", "X-Request-ID", "r1"}, {"X-API-Key", clientKey, "X-User-ID", "ann"}, nil} {
		f.do("POST", "/api/v1/admin/workers/nobody/drain", nil, headers...)
		f.do("GET", "/api/v1/workers", nil, headers...)
	}
	var calls []stacyvm.AdminCall
	err := f.store.View(t.Context(), func(tx store.Tx) (err error) {
		calls, err = tx.AdminAudit().List(t.Context(), store.AdminFilter{})
		return err
	})
	if err != nil || len(calls) != 2 {
		t.Fatalf("%+v, %v", calls, err)
	}
	refused, missing := calls[0], calls[1]
	if missing.Actor != "root" || missing.Method != "POST" || missing.Path != "/api/v1/admin/workers/nobody/drain" || missing.Status != http.StatusNotFound ||
		missing.RequestID != "r1" || missing.UserAgent != "test/1" || missing.RemoteAddr == "" || missing.Duration <= 0 || missing.CreatedAt.IsZero() {
		t.Errorf("an administrator's call is kept as %+v", missing)
	}
	if refused.Actor != "ann" || refused.Status != http.StatusForbidden {
		t.Errorf("a client's call is kept as %+v", refused)
	}
}
