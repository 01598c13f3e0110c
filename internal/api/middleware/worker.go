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

// shownAs is what a worker's credential was judged to be.
type shownAs struct {
	identity auth.WorkerIdentity
	err      error
}

// IdentifyWorker judges the credential of who asks on the routes of workers, and refuses nobody yet. A nil verifier, or one without any
// key, makes these routes unavailable.
func IdentifyWorker(verifier *auth.WorkerVerifier, ofWorkers func(*http.Request) bool) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if ofWorkers(r) {
				r = r.WithContext(context.WithValue(r.Context(), workerKey{}, judge(verifier, r)))
			}
			next.ServeHTTP(w, r)
		})
	}
}

func judge(verifier *auth.WorkerVerifier, r *http.Request) (as shownAs) {
	if verifier == nil || !verifier.Configured() {
		return shownAs{err: stacyvm.Errorf(stacyvm.CodeUnavailable, "no credential of workers is configured here")}
	}
	for _, name := range []string{WorkerHeader, WorkerTokenHeader, "Authorization"} {
		if len(r.Header.Values(name)) > 1 {
			return shownAs{err: stacyvm.Errorf(stacyvm.CodeUnauthenticated, "%s stands twice", name)}
		}
	}
	if token, bearer := r.Header.Get(WorkerTokenHeader), strings.Join(bearers(r), ""); token != "" && bearer != "" && token != bearer {
		return shownAs{err: stacyvm.Errorf(stacyvm.CodeUnauthenticated, "%s and Authorization hold two tokens", WorkerTokenHeader)}
	}
	as.identity, as.err = verifier.Verify(auth.WorkerCredential{
		WorkerID: stacyvm.WorkerID(r.Header.Get(WorkerHeader)), Token: workerToken(r), Peer: auth.PeerCertificate(r.TLS),
	})
	return as
}

// RequireWorker lets nobody but workers through to the routes of workers, and makes the worker the principal: no other key counts
// there. It comes after Require.
func RequireWorker(ofWorkers func(*http.Request) bool, fail Fail) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !ofWorkers(r) {
				next.ServeHTTP(w, r)
				return
			}
			as, _ := r.Context().Value(workerKey{}).(shownAs)
			if as.err != nil {
				fail(w, r, as.err)
				return
			}
			next.ServeHTTP(w, r.WithContext(auth.With(r.Context(), as.identity.Principal())))
		})
	}
}

func workerToken(r *http.Request) string {
	if token := r.Header.Get(WorkerTokenHeader); token != "" {
		return token
	}
	return strings.Join(bearers(r), "")
}

// WorkerIdentity is the worker that calls; the zero value elsewhere.
func WorkerIdentity(ctx context.Context) auth.WorkerIdentity {
	as, _ := ctx.Value(workerKey{}).(shownAs)
	return as.identity
}
