package middleware

import (
	"context"
	"net/http"
	"strings"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Headers with which a worker says who it is. The token may also stand in Authorization, as a bearer's.
const (
	WorkerHeader      = "X-Worker-ID"
	WorkerTokenHeader = "X-Worker-Token"
)

type workerKey struct{}

// Worker lets through to the routes of workers who shows a credential of one, and makes the worker the principal: no other key
// counts there. A nil verifier, or one without any key, makes them unavailable.
func Worker(verifier *auth.WorkerVerifier, ofWorkers func(*http.Request) bool, fail Fail) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !ofWorkers(r) {
				next.ServeHTTP(w, r)
				return
			}
			if verifier == nil || !verifier.Configured() {
				fail(w, r, stacyvm.Errorf(stacyvm.CodeUnavailable, "no credential of workers is configured here"))
				return
			}
			identity, err := verifier.Verify(auth.WorkerCredential{
				WorkerID: stacyvm.WorkerID(r.Header.Get(WorkerHeader)), Token: workerToken(r), Peer: auth.PeerCertificate(r.TLS),
			})
			if err != nil {
				fail(w, r, err)
				return
			}
			ctx := context.WithValue(auth.With(r.Context(), identity.Principal()), workerKey{}, identity)
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

func workerToken(r *http.Request) string {
	if token := r.Header.Get(WorkerTokenHeader); token != "" {
		return token
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// WorkerIdentity is the worker that calls; the zero value elsewhere.
func WorkerIdentity(ctx context.Context) auth.WorkerIdentity {
	identity, _ := ctx.Value(workerKey{}).(auth.WorkerIdentity)
	return identity
}
