package auth

import (
	"errors"
	"reflect"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/stacyvm/stacyvm/internal/strictjson"
)

// jwtType is the header's typ: no other token that the key may ever sign passes for one of a
// worker.
const jwtType = "stacyvm-worker-v1+jwt"

// jwtClaims are claims under their registered names; the worker is the subject. The times stand
// before those of the library, which reads them as floating-point numbers, so that a large one
// could become a small one.
type jwtClaims struct {
	jwt.RegisteredClaims
	Scopes    []string `json:"scopes,omitempty"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf,omitempty"`
	ExpiresAt int64    `json:"exp"`
}

// sealJWT makes an EdDSA token whose kid is the key's thumbprint.
func sealJWT(key signingKey, c claims) (string, error) {
	body := jwtClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:  c.WorkerID,
			ID:       c.TokenID,
			Audience: jwt.ClaimStrings{c.Audience},
		},
		Scopes:    c.Scopes,
		IssuedAt:  c.IssuedAt,
		NotBefore: c.NotBefore,
		ExpiresAt: c.ExpiresAt,
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, body)
	token.Header["typ"], token.Header["kid"] = jwtType, key.id
	return token.SignedString(key.private)
}

// looksLikeJWT tells JWTs from static tokens: their header begins with {" in base64.
func looksLikeJWT(token string) bool {
	return strings.HasPrefix(token, "eyJ") && strings.Count(token, ".") == 2
}

// openJWT gives a JWT's claims when a key of the ring signed it. ok says so. What the claims say
// is for judge, as with the other kind of token.
func openJWT(ring *keyring, token string) (c claims, ok bool) {
	var body jwtClaims
	if !canonicalJWT(token) {
		return c, false
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithStrictDecoding(),
		jwt.WithoutClaimsValidation(),
	)
	_, err := parser.ParseWithClaims(token, &body, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		key, known := ring.publics[id]
		// alg, typ, kid: nothing critical is overlooked
		if !known || t.Header["typ"] != jwtType || len(t.Header) != 3 {
			return nil, errors.New("not a worker token of a known key")
		}
		return key, nil
	})
	c, ok = body.wire()
	return c, ok && err == nil
}

// canonicalJWT bounds a token and refuses other spellings of it, and claims and headers with more
// than one meaning.
func canonicalJWT(token string) bool {
	parts := strings.Split(token, ".")
	if len(token) > maxWorkerToken || len(parts) != 3 {
		return false
	}
	for i, t := range []reflect.Type{reflect.TypeFor[map[string]any](), reflect.TypeFor[jwtClaims](), nil} {
		decoded, ok := decodeSegment(parts[i])
		if !ok || t != nil && strictjson.Check(decoded, t) != nil {
			return false
		}
	}
	return true
}

// wire gives the claims; ok is false when there is not one audience.
func (b jwtClaims) wire() (c claims, ok bool) {
	if len(b.Audience) != 1 {
		return claims{}, false
	}
	return claims{
		WorkerID: b.Subject, TokenID: b.ID, Audience: b.Audience[0], Scopes: b.Scopes,
		IssuedAt: b.IssuedAt, NotBefore: b.NotBefore, ExpiresAt: b.ExpiresAt,
	}, true
}

// InspectWorkerToken reads a signed token of either kind without verifying anything: for people
// who look at one. It returns CodeInvalid errors.
func InspectWorkerToken(token string) (WorkerClaims, error) {
	c, ok := claims{}, false
	if looksLikeJWT(token) {
		var body jwtClaims
		if canonicalJWT(token) {
			_, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(token, &body)
			c, ok = body.wire()
			ok = ok && err == nil
		}
	} else {
		c, ok = readHMAC(token)
	}
	if !ok {
		return WorkerClaims{}, errNoToken
	}
	return c.public(), nil
}
