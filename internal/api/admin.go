package api

import (
	"net/http"
	"time"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// adminsOnly refuses everybody else on the routes of administrators, those that only read too, and
// has every call audited, refused ones too. Who has no key at all got no further than to here.
func (a *api) adminsOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(raw http.ResponseWriter, r *http.Request) {
		scope := accessTo(r.URL.Path).scope
		if scope == "" {
			next.ServeHTTP(raw, r)
			return
		}
		w, began := middleware.NewWriter(raw), time.Now()
		defer func() { a.auditAdmin(r, w.Status, time.Since(began)) }()
		if !auth.From(r.Context()).May(scope) {
			a.fail(w, r, errNoAdmin)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *api) auditAdmin(r *http.Request, status int, took time.Duration) {
	caller := auth.From(r.Context())
	if status == 0 { // it panicked, which is answered further out
		status = http.StatusInternalServerError
	}
	a.Service.AuditAdmin(r.Context(), stacyvm.AdminCall{
		Actor:      caller.Subject,
		Method:     r.Method,
		Path:       r.URL.Path,
		Status:     status,
		Duration:   took,
		RequestID:  middleware.RequestID(r.Context()),
		RemoteAddr: r.RemoteAddr,
		UserAgent:  r.UserAgent(),
		TenantID:   caller.Tenant,
	})
}
