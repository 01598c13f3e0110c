package auth

import (
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// errNoToken is of what cannot be read as a signed token.
var errNoToken = stacyvm.Invalid("token", "is no signed worker token")

// WorkerTokenRequest says what a token is to hold.
type WorkerTokenRequest struct {
	WorkerID stacyvm.WorkerID
	Audience WorkerAudience // "": AudienceControlPlane
	Scopes   []string       // none: all eight
	TTL      time.Duration  // 0: WorkerTokenDefault; at least a second, at most WorkerTokenMax
	// NotBefore is after how long it becomes valid, within TTL; 0: at once.
	NotBefore time.Duration
	TokenID   string // "": a random one
}

// WorkerIssuer signs worker tokens: EdDSA JWTs with an Ed25519 key, stacyvm-worker-v1 tokens with
// any other. It is safe for concurrent use.
type WorkerIssuer struct {
	key Secret
	now func() time.Time
}

// NewWorkerIssuer makes an issuer; now may be nil. It returns CodeInvalid errors when the key
// cannot sign.
func NewWorkerIssuer(key Secret, now func() time.Time) (*WorkerIssuer, error) {
	if now == nil {
		now = time.Now
	}
	i := &WorkerIssuer{key: key, now: now}
	_, err := i.signingKey()
	return i, err
}

func (i *WorkerIssuer) signingKey() (signingKey, error) {
	if i.key == nil {
		return signingKey{}, stacyvm.Invalid("worker_signing_key", "is not set")
	}
	key, err := parseSigningKey(i.key())
	switch {
	case err != nil:
		return key, stacyvm.Invalid("worker_signing_key", "%s", err)
	case key.secret == nil && key.private == nil:
		return key, stacyvm.Invalid("worker_signing_key", "is the public half, which cannot sign")
	}
	return key, nil
}

// Issue makes a token. It returns CodeInvalid errors that name the field.
func (i *WorkerIssuer) Issue(r WorkerTokenRequest) (token string, says WorkerClaims, err error) {
	key, err := i.signingKey()
	if err != nil {
		return "", WorkerClaims{}, err
	}
	c, err := r.claims(i.now())
	if err != nil {
		return "", WorkerClaims{}, err
	}
	if key.private != nil {
		token, err = sealJWT(key, c)
	} else {
		token, err = sealHMAC(key.secret, c)
	}
	if err != nil {
		return "", WorkerClaims{}, stacyvm.Wrap(stacyvm.CodeInternal, err, "the token could not be signed")
	}
	if len(token) > maxWorkerToken {
		return "", WorkerClaims{}, stacyvm.Invalid("scopes", "are too many for one token")
	}
	return token, c.public(), nil
}

// claims checks a request and fills in what it leaves out.
func (r WorkerTokenRequest) claims(now time.Time) (claims, error) {
	if r.Audience == "" {
		r.Audience = AudienceControlPlane
	}
	if r.TTL == 0 {
		r.TTL = WorkerTokenDefault
	}
	if r.TokenID == "" {
		r.TokenID = newTokenID()
	}
	switch {
	case !r.WorkerID.Valid():
		return claims{}, stacyvm.Invalid("worker_id", "must be 1 to 64 letters, digits, '.', '_' or '-'")
	case !r.Audience.Valid():
		return claims{}, stacyvm.Invalid("audience", "must be %s or %s", AudienceControlPlane, AudienceRPC)
	case r.TTL < time.Second || r.TTL > WorkerTokenMax:
		return claims{}, stacyvm.Invalid("ttl", "must be between 1s and %s", WorkerTokenMax)
	case r.NotBefore < 0 || r.NotBefore >= r.TTL:
		return claims{}, stacyvm.Invalid("not_before", "must be less than the token's life")
	case !tokenID.MatchString(r.TokenID):
		return claims{}, stacyvm.Invalid("token_id", "must be 1 to 64 letters, digits, '.', '_' or '-'")
	}
	scopes, err := askedScopes(r.Scopes)
	if err != nil {
		return claims{}, err
	}
	c := claims{
		WorkerID: string(r.WorkerID), TokenID: r.TokenID, Audience: string(r.Audience), Scopes: scopes,
		IssuedAt: now.Unix(), ExpiresAt: now.Unix() + int64(r.TTL/time.Second),
	}
	if r.NotBefore > 0 {
		c.NotBefore = now.Add(r.NotBefore).Unix()
	}
	return c, nil
}

// askedScopes refuses what grant would drop: who asks for it expects something of it.
func askedScopes(asked []string) ([]string, error) {
	if len(asked) == 0 {
		return nil, nil
	}
	for _, scope := range asked {
		if scope != leaseSpelling && !slices.Contains(WorkerScopes(), scope) {
			return nil, stacyvm.Invalid("scopes", "%.64q is no scope of a worker", scope)
		}
	}
	return grant(asked), nil
}
