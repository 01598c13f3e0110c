package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"slices"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Scopes of the two roles that a key can have.
var (
	clientScopes = []string{"read:*", "api:*"}
	adminScopes  = []string{"read:*", "api:*", "operator:*", "admin:*"}
)

// Keys knows the server's API keys, as hashes only. The zero value has no key: then everybody may do everything.
type Keys struct {
	client, admin *[sha256.Size]byte // nil: not set
	fallback      bool
}

// SameKeys reports that clients and administrators would have one key, which would make every client an administrator.
func SameKeys(client, admin string) bool { return client != "" && client == admin }

// NewKeys makes Keys; an empty key is none. With adminFallback and without an admin key, the client key has the admin's
// scopes.
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

// Identity is what a credential stands for.
type Identity struct {
	Scopes []string
	// Credential names the credential for rate limits: "client", "admin", or "" when none was needed.
	Credential string
}

// Shown is what a request shows as its credentials: every value of each header. An empty value is none.
type Shown struct {
	API, Admin []string
	Bearer     []string // tokens of Authorization
}

// Identify judges what a request shows. The admin key counts in both key headers; a bearer counts for nothing, and has to be
// one of the keys. ok is false when a header stands twice, when one of them is wrong although another is right, and when a key
// is needed and there is none: which of several the sender, or a proxy before this server, meant is not for this server to
// guess.
func (k Keys) Identify(shown Shown) (identity Identity, ok bool) {
	if len(shown.API) > 1 || len(shown.Admin) > 1 || len(shown.Bearer) > 1 {
		return Identity{}, false
	}
	apiKey, adminKey, bearer := only(shown.API), only(shown.Admin), only(shown.Bearer)
	// Every comparison is made whatever the others gave, so that the time tells nothing.
	admin := matches(k.admin, adminKey) | matches(k.admin, apiKey)
	client := matches(k.client, apiKey)
	good := right(apiKey, matches(k.admin, apiKey)|client) &
		right(adminKey, matches(k.admin, adminKey)) &
		right(bearer, matches(k.admin, bearer)|matches(k.client, bearer))
	switch {
	case !k.Open() && good == 0:
		return Identity{}, false
	case k.Open():
		return Identity{Scopes: slices.Clone(adminScopes)}, true
	case admin == 1:
		return Identity{Scopes: slices.Clone(adminScopes), Credential: "admin"}, true
	case client == 1 && k.fallback:
		return Identity{Scopes: slices.Clone(adminScopes), Credential: "client"}, true
	case client == 1:
		return Identity{Scopes: slices.Clone(clientScopes), Credential: "client"}, true
	}
	return Identity{}, false
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

// Principal makes the caller of an identity; subject and tenant are what the caller says of itself, which narrows what it
// sees and never widens it.
func (i Identity) Principal(subject, tenant string) stacyvm.Principal {
	return stacyvm.Principal{Subject: subject, Tenant: tenant, Scopes: i.Scopes}
}
