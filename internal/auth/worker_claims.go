package auth

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// WorkerTokenMax is the longest life of a signed worker token.
	WorkerTokenMax = 15 * time.Minute
	// WorkerTokenDefault is its life when nothing else is asked for.
	WorkerTokenDefault = 5 * time.Minute
	// WorkerClockSkew is how far the clocks of those who issue and those who verify may be apart.
	WorkerClockSkew = 30 * time.Second
)

// WorkerClaims is what a signed worker token says.
type WorkerClaims struct {
	WorkerID  stacyvm.WorkerID
	TokenID   string
	Audience  WorkerAudience
	Scopes    []string // as they stand in the token; none: all eight
	IssuedAt  time.Time
	NotBefore time.Time // zero: IssuedAt
	ExpiresAt time.Time
}

// claims are WorkerClaims on the wire; times are seconds since 1970, and 0 is an absent one.
type claims struct {
	WorkerID  string   `json:"worker_id"`
	TokenID   string   `json:"jti"`
	Audience  string   `json:"aud"`
	Scopes    []string `json:"scopes,omitempty"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf,omitempty"`
	ExpiresAt int64    `json:"exp"`
}

// judge says why the claims do not hold at a time, or ""; whom and what they are for is for the
// verifier to compare. It is the same for both kinds of signed tokens.
func (c claims) judge(now time.Time) string {
	const skew, life = int64(WorkerClockSkew / time.Second), int64(WorkerTokenMax / time.Second)
	at := now.Unix()
	switch {
	case !tokenID.MatchString(c.TokenID):
		return "the token has no id by which it could be revoked"
	case c.ExpiresAt <= at:
		return "the token has expired"
	case c.IssuedAt < c.ExpiresAt-life: // also without iat; exp is in the future here, so that nothing overflows
		return "the token lives longer than is allowed"
	case c.IssuedAt > at+skew || c.NotBefore > at+skew:
		return "the token is not valid yet"
	}
	return ""
}

func (c claims) public() WorkerClaims {
	shown := WorkerClaims{
		WorkerID: stacyvm.WorkerID(
			c.WorkerID,
		),
		TokenID:   c.TokenID,
		Audience:  WorkerAudience(c.Audience),
		Scopes:    c.Scopes,
		IssuedAt:  time.Unix(c.IssuedAt, 0).UTC(),
		ExpiresAt: time.Unix(c.ExpiresAt, 0).UTC(),
	}
	if c.NotBefore != 0 {
		shown.NotBefore = time.Unix(c.NotBefore, 0).UTC()
	}
	return shown
}

// newTokenID makes 128 random bits in hex.
func newTokenID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // it ends the program rather than fail
	return hex.EncodeToString(id[:])
}
