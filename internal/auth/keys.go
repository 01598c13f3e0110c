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

// Identify judges the two key headers. The admin key counts in either of them. ok is false when a key is needed and none
// of those given is right.
func (k Keys) Identify(apiKey, adminKey string) (identity Identity, ok bool) {
	// Every comparison is made whatever the others gave, so that the time tells nothing.
	admin := matches(k.admin, adminKey) | matches(k.admin, apiKey)
	client := matches(k.client, apiKey)
	switch {
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
