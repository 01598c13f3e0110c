package middleware

import (
	"context"
	"net/http"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Headers that say who calls. A worker's token may also stand in Authorization, as a bearer's.
const (
	KeyHeader         = "X-API-Key"
	AdminKeyHeader    = "X-Admin-API-Key"
	UserHeader        = "X-User-ID"
	TenantHeader      = "X-Tenant-ID"
	WorkerHeader      = "X-Worker-ID"
	WorkerTokenHeader = "X-Worker-Token"
)

type identityKey struct{}

// identified is what Identify found out. A request counts against the key that it shows also where
// another kind of caller is asked for.
type identified struct{ client, caller judged }

type judged struct {
	auth.Identity
	ok  bool
	err error
}

func identifiedIn(ctx context.Context) identified {
	found, _ := ctx.Value(identityKey{}).(identified)
	return found
}

// Known reports whether the request came with what its server asks clients for; without keys every
// request does.
func Known(ctx context.Context) bool { return identifiedIn(ctx).client.ok }

// WorkerIdentity is the worker that calls; the zero value elsewhere.
func WorkerIdentity(ctx context.Context) auth.WorkerIdentity {
	return identifiedIn(ctx).caller.Worker
}

// Identify judges the credential that a request's route asks for, and refuses nobody yet.
func Identify(list auth.Authenticators, kind func(*http.Request) auth.Kind) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			shown := auth.Shown{
				API: r.Header.Values(KeyHeader), Admin: r.Header.Values(AdminKeyHeader),
				Worker: r.Header.Values(WorkerHeader), WorkerToken: r.Header.Values(WorkerTokenHeader),
				Authorization: r.Header.Values("Authorization"), Peer: auth.PeerCertificate(r.TLS),
			}
			found := identified{client: judge(list, auth.KindClient, shown)}
			found.caller = found.client
			if wanted := kind(r); wanted != auth.KindClient {
				found.caller = judge(list, wanted, shown)
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, found)))
		})
	}
}

func judge(list auth.Authenticators, kind auth.Kind, shown auth.Shown) judged {
	identity, err := list.Authenticate(kind, shown)
	return judged{identity, err == nil, err}
}

// Require refuses who is not known, unless the request is public, and puts the principal into the
// context.
func Require(public func(*http.Request) bool, fail Fail) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			found := identifiedIn(r.Context()).caller
			switch {
			case found.ok:
			case public(r):
				next.ServeHTTP(w, r) // without a principal: it may do nothing
				return
			default:
				fail(w, r, found.err)
				return
			}
			principal := found.Principal
			if found.Worker.WorkerID == "" { // a worker is itself, whatever it says
				var err error
				if principal, err = narrowed(found.Identity, r.Header); err != nil {
					fail(w, r, err)
					return
				}
			}
			next.ServeHTTP(w, r.WithContext(auth.With(r.Context(), principal)))
		})
	}
}

// narrowed gives the caller as its headers say.
func narrowed(identity auth.Identity, header http.Header) (principal stacyvm.Principal, err error) {
	for _, name := range []string{UserHeader, TenantHeader} {
		if err := auth.CheckName(name, header.Get(name)); err != nil {
			return principal, err
		}
	}
	return identity.As(header.Get(UserHeader), header.Get(TenantHeader))
}
