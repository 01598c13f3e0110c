package middleware

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const keyHeader = "Idempotency-Key"

// single are the headers that this program reads; each has one meaning only when it stands once.
// Those of credentials are judged by Identify, Origin by Origin.
var single = []string{
	UserHeader, TenantHeader, keyHeader, "Last-Event-ID", "Content-Type", "Content-Encoding", "Upgrade",
}

// Text refuses a request whose path, query or headers hold bytes that are no text or have more
// than one meaning: no store and no route then sees a zero byte or a byte that is not UTF-8, and
// no two readers of a request disagree on it. Bodies are their decoder's.
func Text(fail Fail) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := ambiguous(r); err != nil {
				fail(w, r, err)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

const notText = "must be UTF-8 text without zero bytes"

// ambiguous says what of a request is no text, or stands twice.
func ambiguous(r *http.Request) error {
	if !isText(r.URL.Path) {
		return stacyvm.Invalid("path", notText)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return stacyvm.Invalid("query", "cannot be read: write & between parameters, and other characters as %%XX")
	}
	for name, values := range query {
		switch {
		case !isText(name):
			return stacyvm.Invalid("query", notText)
		case len(values) > 1:
			return stacyvm.Invalid(cut(name), "stands twice")
		case !isText(values[0]):
			return stacyvm.Invalid(cut(name), notText)
		}
	}
	for _, name := range single {
		values := r.Header.Values(name)
		switch {
		case len(values) > 1:
			return stacyvm.Invalid(name, "stands twice")
		case slices.ContainsFunc(values, func(value string) bool { return !isText(value) }):
			return stacyvm.Invalid(name, notText)
		// whoever sends it expects that nothing runs twice
		case name == keyHeader && len(values) == 1 && values[0] == "":
			return stacyvm.Invalid(name, "must not be empty")
		}
	}
	return nil
}

func isText(text string) bool { return utf8.ValidString(text) && !strings.Contains(text, "\x00") }
