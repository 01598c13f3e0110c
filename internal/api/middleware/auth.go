package middleware

import (
	"context"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Headers that say who calls.
const (
	KeyHeader      = "X-API-Key"
	AdminKeyHeader = "X-Admin-API-Key"
	UserHeader     = "X-User-ID"
	TenantHeader   = "X-Tenant-ID"
)

type identityKey struct{}

// identified is what Identify found out.
type identified struct {
	auth.Identity
	ok bool
}

func identityOf(ctx context.Context) identified {
	found, _ := ctx.Value(identityKey{}).(identified)
	return found
}

// Known reports whether the request came with what its server asks for; without keys every request does.
func Known(ctx context.Context) bool { return identityOf(ctx).ok }

// Identify judges the credential and refuses nobody yet.
func Identify(keys auth.Keys) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			identity, ok := keys.Identify(auth.Shown{API: r.Header.Values(KeyHeader), Admin: r.Header.Values(AdminKeyHeader), Bearer: bearers(r)})
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, identified{identity, ok})))
		})
	}
}

// bearers are the tokens that Authorization holds; other schemes are a proxy's. The name of a scheme has no case.
func bearers(r *http.Request) (tokens []string) {
	for _, value := range r.Header.Values("Authorization") {
		if scheme, token, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Bearer") {
			tokens = append(tokens, strings.TrimSpace(token))
		}
	}
	return tokens
}

// Require refuses who is not known, unless the request is public, and puts the principal into the context.
func Require(public func(*http.Request) bool, fail Fail) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			found := identityOf(r.Context())
			if !found.ok {
				if !public(r) {
					fail(w, r, stacyvm.Errorf(stacyvm.CodeUnauthenticated, "one valid %s is needed, and no wrong credential beside it", KeyHeader))
					return
				}
				next.ServeHTTP(w, r) // without a principal: it may do nothing
				return
			}
			user, tenant := r.Header.Get(UserHeader), r.Header.Get(TenantHeader)
			for header, value := range map[string]string{UserHeader: user, TenantHeader: tenant} {
				if !plainName(value) {
					fail(w, r, stacyvm.Invalid(header, "must have at most %d characters and no white space, control character, / or \\", maxName))
					return
				}
			}
			next.ServeHTTP(w, r.WithContext(auth.With(r.Context(), found.Principal(user, tenant))))
		})
	}
}

// maxName bounds an owner's or tenant's name, in characters.
const maxName = 128

func plainName(name string) bool {
	return utf8.ValidString(name) && utf8.RuneCountInString(name) <= maxName && !strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == '/' || r == '\\'
	})
}
