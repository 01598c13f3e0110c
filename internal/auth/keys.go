package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"slices"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Keys knows the server's API keys, as hashes only. The zero value has no key: then everybody may
// do everything.
type Keys struct {
	client, admin *[sha256.Size]byte // nil: not set
	fallback      bool
}

// SameKeys reports that clients and administrators would have one key, which would make every
// client an administrator.
func SameKeys(client, admin string) bool { return client != "" && client == admin }

// NewKeys makes Keys; an empty key is none. With adminFallback and without an admin key, the
// client key has the admin's scopes.
func NewKeys(client, admin string, adminFallback bool) Keys {
	return Keys{client: hashed(client), admin: hashed(admin), fallback: adminFallback && admin == ""}
}

func hashed(key string) *[sha256.Size]byte {
	if key == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(key))
	return &sum
}

// Open reports that no key is set.
func (k Keys) Open() bool { return k.client == nil && k.admin == nil }

// Kind implements Authenticator.
func (k Keys) Kind() Kind { return KindClient }

// Authenticate implements Authenticator. The admin key counts in both key headers; a bearer counts
// for nothing, and has to be one of the keys. A request is refused when a header stands twice,
// when one of them is wrong although another is right, and when a key is needed and there is none:
// which of several the sender, or a proxy before this server, meant is not for this server to
// guess. No key names a subject or a tenant: whoever holds one chooses both.
func (k Keys) Authenticate(shown Shown) (Identity, error) {
	bearers := shown.bearers()
	if len(shown.API) > 1 || len(shown.Admin) > 1 || len(bearers) > 1 {
		return Identity{}, errNoKey
	}
	apiKey, adminKey, bearer := only(shown.API), only(shown.Admin), only(bearers)
	// Every comparison is made whatever the others gave, so that the time tells nothing.
	admin := matches(k.admin, adminKey) | matches(k.admin, apiKey)
	client := matches(k.client, apiKey)
	good := right(apiKey, matches(k.admin, apiKey)|client) &
		right(adminKey, matches(k.admin, adminKey)) &
		right(bearer, matches(k.admin, bearer)|matches(k.client, bearer))
	switch {
	case !k.Open() && good == 0:
		return Identity{}, errNoKey
	case k.Open():
		return keyIdentity("", adminScopes), nil
	case admin == 1:
		return keyIdentity("admin", adminScopes), nil
	case client == 1 && k.fallback:
		return keyIdentity("client", adminScopes), nil
	case client == 1:
		return keyIdentity("client", clientScopes), nil
	}
	return Identity{}, errNoKey
}

var errNoKey = stacyvm.Errorf(
	stacyvm.CodeUnauthenticated,
	"one valid X-API-Key is needed, and no wrong credential beside it",
)

func keyIdentity(credential string, scopes []string) Identity {
	return Identity{Principal: stacyvm.Principal{Scopes: slices.Clone(scopes)}, Credential: credential}
}

// only gives the one value of a header, "" without one.
func only(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// right is 1 for what matches and for what is not shown.
func right(shown string, matches int) int {
	if shown == "" {
		return 1
	}
	return matches
}

// matches compares hashes, which have one length, in constant time.
func matches(want *[sha256.Size]byte, given string) int {
	sum := sha256.Sum256([]byte(given))
	if want == nil || given == "" {
		return 0
	}
	return subtle.ConstantTimeCompare(want[:], sum[:])
}
