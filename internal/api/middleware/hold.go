package middleware

import (
	"io"
	"net/http"

	"github.com/stacyvm/stacyvm/internal/budget"
)

// BodyCopies is how often the bytes of a body are in memory while it is decoded: in a buffer that
// doubles as it grows, in the form that is validated and in the form that the handler gets.
const BodyCopies = 4

// Hold gives each request an account of the server's memory budget, against its credential's share
// or, without one, its peer's, and counts its body, unless streamed says that its route does not
// keep it. It comes after Identify.
func Hold(b *budget.Budget, streamed func(*http.Request) bool) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			account := b.Open(Caller(r))
			defer account.Close()
			r = r.WithContext(budget.With(r.Context(), account))
			if r.Body != nil && !streamed(r) {
				r.Body = countedBody{budget.NewReader(r.Body, account, BodyCopies), r.Body}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// countedBody is a body of which each byte is kept.
type countedBody struct {
	io.Reader
	io.Closer
}
