package middleware

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	corsMethods = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
	corsHeaders = "Content-Type, X-API-Key, X-Admin-API-Key, X-Request-ID, X-User-ID, X-Tenant-ID, Authorization, Idempotency-Key"
	corsExposed = "X-Request-ID, X-RateLimit-Limit, X-RateLimit-Remaining, Retry-After, Idempotent-Replayed, X-Process-ID, X-Next-Cursor"
)

// Origin decides what web pages may do. Pages of the allowed origins ("*" is all) get CORS
// headers; every other page's request that changes something or opens a stream is refused.
// Preflights are answered here, before authentication.
func Origin(allowed []string, fail Fail) Middleware {
	all := slices.Contains(allowed, "*")
	protection := http.NewCrossOriginProtection()
	for _, origin := range allowed {
		if origin != "*" {
			_ = protection.AddTrustedOrigin(origin) // one that is malformed matches no browser's
		}
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			origin := r.Header.Get("Origin")
			if values := r.Header.Values("Origin"); len(values) > 1 || len(values) == 1 && !oneOrigin(origin) {
				fail(
					w,
					r,
					stacyvm.Errorf(stacyvm.CodeForbidden, "Origin: must be one scheme and host, as browsers send it"),
				)
				return
			}
			known := origin != "" && (all || slices.Contains(allowed, origin))
			switch {
			case all:
				w.Header().Set("Access-Control-Allow-Origin", "*")
			case len(allowed) > 0:
				w.Header().Add("Vary", "Origin")
				if known {
					w.Header().Set("Access-Control-Allow-Origin", origin)
				}
			}
			if known {
				w.Header().Set("Access-Control-Expose-Headers", corsExposed)
			}
			switch {
			case r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "":
				preflight(w, known)
			case !all && crossOrigin(protection, r):
				fail(
					w,
					r,
					stacyvm.Errorf(
						stacyvm.CodeForbidden,
						"Origin: web pages of other origins may not do this; see server.cors_allowed_origins",
					),
				)
			default:
				next.ServeHTTP(w, r)
			}
		})
	}
}

// oneOrigin reports what a browser sends: null, or scheme://host[:port] and nothing else, such as
// user information that looks like a host.
func oneOrigin(origin string) bool {
	if origin == "null" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && origin == u.Scheme+"://"+u.Host
}

func preflight(w http.ResponseWriter, known bool) {
	if !known {
		http.Error(w, "this origin is not allowed", http.StatusForbidden)
		return
	}
	w.Header().Set("Access-Control-Allow-Methods", corsMethods)
	w.Header().Set("Access-Control-Allow-Headers", corsHeaders)
	w.Header().Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}

// crossOrigin reports a browser's request from a foreign page. One that opens a stream is judged
// like one that changes something: a page can read a WebSocket without any CORS header.
func crossOrigin(protection *http.CrossOriginProtection, r *http.Request) bool {
	judged := r
	if r.Header.Get("Upgrade") != "" || strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		judged = r.Clone(r.Context())
		judged.Method = http.MethodPost
	}
	return protection.Check(judged) != nil
}
