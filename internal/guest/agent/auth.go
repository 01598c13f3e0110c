package agent

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"

	"connectrpc.com/connect"
)

// digest is what the agent keeps of its secret.
type digest [sha256.Size]byte

func (a *Agent) setSecret(secret string) error {
	if len(secret) < shortestSecret || len(secret) > longestSecret {
		return errors.New("secret: must have 32 to 1024 bytes")
	}
	sum := digest(sha256.Sum256([]byte(secret)))
	a.secret.Store(&sum)
	return nil
}

// authorised compares in constant time: both sides have the same length.
func (a *Agent) authorised(r *http.Request) bool {
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	sum := sha256.Sum256([]byte(secret))
	return ok && subtle.ConstantTimeCompare(sum[:], a.secret.Load()[:]) == 1
}

// guarded lets a request through that shows the secret. The request ends with the agent.
func (a *Agent) guarded(next http.Handler) http.Handler {
	errorWriter := connect.NewErrorWriter()
	refuse := func(w http.ResponseWriter, r *http.Request, code connect.Code, text string, status int) {
		if errorWriter.IsSupported(r) {
			_ = errorWriter.Write(w, r, connect.NewError(code, errors.New(text))) // the caller has gone
			return
		}
		http.Error(w, text, status)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.authorised(r) {
			refuse(w, r, connect.CodeUnauthenticated, "the secret is missing or wrong", http.StatusUnauthorized)
			return
		}
		admit(r.Context())
		if !a.enter() {
			refuse(w, r, connect.CodeUnavailable, "the guest program closes", http.StatusServiceUnavailable)
			return
		}
		defer a.requests.Done()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(a.ctx, cancel)()
		out := newAnswer(w, r)
		next.ServeHTTP(out, r.WithContext(context.WithValue(ctx, answerKey{}, out)))
		out.release()
	})
}
