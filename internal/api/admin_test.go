package api_test

import (
	"encoding/csv"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// TestAdminCallsAreAudited: each with its outcome, refused ones too; not those of other routes,
// nor of who has no key.
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

// TestAdminAudit: administrators read who called, by each of the filters, in pages, and as a table
// in which nothing that a caller wrote is a formula. Others do not.
func TestAdminAudit(t *testing.T) {
	f := start(t, withKeys, func(c *control.Config) { c.AuditSync = true })
	call := func(method, path string, headers ...string) response {
		return f.do(method, "/api/v1/admin"+path, nil, append(headers, "X-Admin-API-Key", adminKey)...)
	}
	call("POST", "/workers/nobody/drain", "X-User-ID", "=cmd()", "User-Agent", "@evil\",1")
	call("GET", "/workers", "X-User-ID", "ann")
	call("GET", "/workers", "X-User-ID", "ann", "X-Tenant-ID", "acme")
	const recorded = 3
	read := func(query string, headers ...string) (calls []client.AdminCall) {
		t.Helper()
		call("GET", "/audit?"+query, append(headers, "X-User-ID", "reader")...).into(t, &calls)
		return calls
	}
	all := read("")
	if len(all) != recorded || !slices.IsSortedFunc(all, func(a, b client.AdminCall) int { return int(b.ID - a.ID) }) {
		t.Fatalf("all: %+v", all)
	}
	first := all[recorded-1]
	if first.Actor != "=cmd()" || first.Method != "POST" || first.Path != "/api/v1/admin/workers/nobody/drain" || first.Status != 404 || first.RequestID == "" ||
		first.RemoteAddr == "" || first.UserAgent != "@evil\",1" || first.CreatedAt.IsZero() || all[0].TenantID != "acme" {
		t.Errorf("%+v", all)
	}
	for query, want := range map[string]int{
		"limit=1": 1, "limit=9999": -1, "actor=ann": 2, "method=post": 1, "status=404": 1, "path=nobody": 1, "path=nobody&actor=ann": 0,
		"before=" + strconv.FormatInt(all[0].ID, 10): recorded - 1,
	} {
		if got := read(query); want >= 0 && len(got) != want || want < 0 && len(got) < recorded {
			t.Errorf("%s: %+v", query, got)
		}
	}
	if got := read("", "X-Tenant-ID", "acme"); len(got) != 1 || got[0].TenantID != "acme" {
		t.Errorf("of one tenant: %+v", got)
	}
	table := call("GET", "/audit?format=csv&path=nobody")
	rows, err := csv.NewReader(strings.NewReader(table.text)).ReadAll()
	if err != nil || len(rows) != 2 || strings.Join(rows[0], " ") != "id created_at actor method path status duration_ms request_id remote_addr user_agent" ||
		rows[1][2] != "'=cmd()" || rows[1][9] != "'@evil\",1" {
		t.Errorf("%v, %q", err, table.text)
	}
	if table.Header.Get("Content-Type") != "text/csv" || table.Header.Get("Content-Disposition") != `attachment; filename="stacyvm-admin-audit.csv"` {
		t.Errorf("%v", table.Header)
	}
	if refused := f.do("GET", "/api/v1/admin/audit", nil, "X-API-Key", clientKey); refused.StatusCode != http.StatusForbidden {
		t.Errorf("a client reads it: %d", refused.StatusCode)
	}
}
