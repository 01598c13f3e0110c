// Package middleware is what happens to every request before its route: ids, panics, hosts,
// origins, credentials, rates and body bounds. It knows no route and no error format: refusals go
// to a Fail.
package middleware

import (
	"net/http"
	"slices"
)

// Middleware wraps a handler.
type Middleware func(http.Handler) http.Handler

// Fail answers a request with an error.
type Fail func(http.ResponseWriter, *http.Request, error)

// Chain wraps a handler; the first middleware sees a request first.
func Chain(handler http.Handler, chain ...Middleware) http.Handler {
	for _, wrap := range slices.Backward(chain) {
		handler = wrap(handler)
	}
	return handler
}
