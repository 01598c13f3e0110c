package auth

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// MaxRotationKeys bounds the keys that only verify, and so what one forged token costs.
const MaxRotationKeys = 16

// Secret gives a secret's present text. It may change between calls: see SecretFile.
type Secret func() string

// FixedSecret is one that does not change; an empty text is no secret.
func FixedSecret(text string) Secret {
	if text == "" {
		return nil
	}
	return func() string { return text }
}

// FixedSecrets is FixedSecret for each of a list, such as the configuration's.
func FixedSecrets(texts []string) []Secret {
	secrets := make([]Secret, 0, len(texts))
	for _, text := range texts {
		secrets = append(secrets, FixedSecret(text))
	}
	return secrets
}

// WorkerVerifierConfig says which worker credentials one side accepts. A control plane and a
// worker each have their own: each is one audience.
type WorkerVerifierConfig struct {
	Audience WorkerAudience
	// Worker is the only one that is served, as a worker's own listener wants it; "" is any.
	Worker stacyvm.WorkerID
	// Shared is one static token for all workers, for staging: whoever has it can pass for each of
	// them. nil: none.
	Shared Secret
	// Tokens are static tokens of one worker each. Shared is refused for those that have one.
	Tokens map[stacyvm.WorkerID]Secret
	// SigningKey verifies signed tokens: an HMAC secret, or an Ed25519 key in PEM (a public one is
	// enough). nil: none.
	SigningKey Secret
	// RotationKeys verify too, while keys are changed. At most 16.
	RotationKeys []Secret // see FixedSecrets
	// Revoked are ids of signed tokens and serial numbers (32 hex digits) of certificates that are
	// refused.
	Revoked []string
	// Certificates makes the certificate of a connection a credential by itself, with all eight
	// scopes. Without it a certificate only has to fit to the token.
	Certificates bool
	Now          func() time.Time // nil: time.Now
}

// WorkerCredential is what a caller shows.
type WorkerCredential struct {
	WorkerID stacyvm.WorkerID // the one that the call is about, as claimed
	Token    string
	Peer     *x509.Certificate // the connection's, verified: see PeerCertificate. nil: none
}

// WorkerVerifier judges worker credentials. It is safe for concurrent use.
type WorkerVerifier struct {
	config WorkerVerifierConfig

	mu   sync.Mutex
	ring *keyring
	from [sha256.Size]byte // hash of the texts that ring was made of
}

// NewWorkerVerifier returns CodeInvalid errors that name the field of a secret that cannot be one.
func NewWorkerVerifier(config WorkerVerifierConfig) (*WorkerVerifier, error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	if !config.Audience.Valid() {
		return nil, stacyvm.Invalid("audience", "is none of %s and %s", AudienceControlPlane, AudienceRPC)
	}
	if len(config.RotationKeys) > MaxRotationKeys {
		return nil, stacyvm.Invalid("worker_signing_keys", "are more than %d", MaxRotationKeys)
	}
	if err := checkStatic("worker_token", config.Shared); err != nil {
		return nil, err
	}
	for id, token := range config.Tokens {
		if token == nil || !id.Valid() {
			return nil, stacyvm.Invalid("worker_tokens", "a worker's id or token is missing or malformed")
		}
		if err := checkStatic("worker_tokens", token); err != nil {
			return nil, err
		}
	}
	v := &WorkerVerifier{config: config}
	_, err := v.keys()
	return v, err
}

// checkStatic refuses a static token that could be taken for one of another kind.
func checkStatic(field string, secret Secret) error {
	if secret == nil {
		return nil
	}
	switch token := secret(); {
	case token == "" || len(token) > maxWorkerToken:
		return stacyvm.Invalid(field, "a static token is empty or over %d bytes", maxWorkerToken)
	case strings.HasPrefix(token, tokenFamily) || looksLikeJWT(token):
		return stacyvm.Invalid(field, "a static token has the form of a signed one")
	}
	return nil
}

// Configured reports whether any credential can be accepted; without, a server answers that it is
// not available.
func (v *WorkerVerifier) Configured() bool {
	c := v.config
	return c.Shared != nil || len(c.Tokens) > 0 || c.SigningKey != nil || len(c.RotationKeys) > 0 || c.Certificates
}

// Kind implements Authenticator.
func (v *WorkerVerifier) Kind() Kind { return KindWorker }

// Authenticate implements Authenticator. The token may stand in a header of its own or in
// Authorization.
func (v *WorkerVerifier) Authenticate(shown Shown) (Identity, error) {
	if !v.Configured() {
		return Identity{}, errNotConfigured(KindWorker)
	}
	for _, header := range []struct {
		name   string
		values []string
	}{{"X-Worker-ID", shown.Worker}, {"X-Worker-Token", shown.WorkerToken}, {"Authorization", shown.Authorization}} {
		if len(header.values) > 1 {
			return Identity{}, refused(header.name + " stands twice")
		}
	}
	token, bearer := only(shown.WorkerToken), only(shown.bearers())
	if token != "" && bearer != "" && token != bearer {
		return Identity{}, refused("X-Worker-Token and Authorization hold two tokens")
	}
	worker, err := v.Verify(WorkerCredential{
		WorkerID: stacyvm.WorkerID(only(shown.Worker)), Token: cmp.Or(token, bearer), Peer: shown.Peer,
	})
	if err != nil {
		return Identity{}, err
	}
	return Identity{Principal: worker.Principal(), Worker: worker}, nil
}

// Verify says whose credential it is, or gives a CodeUnauthenticated error, which holds nothing of
// it. A token that is shown has to be right: a good certificate beside it does not help. What the
// identity may do is for WorkerIdentity.Allow.
func (v *WorkerVerifier) Verify(given WorkerCredential) (WorkerIdentity, error) {
	if !given.WorkerID.Valid() {
		return WorkerIdentity{}, refused("no worker is named")
	}
	if v.config.Worker != "" && given.WorkerID != v.config.Worker {
		return WorkerIdentity{}, refused("another worker is named")
	}
	peer, err := v.verifyPeer(given)
	if err != nil {
		return WorkerIdentity{}, err
	}
	switch {
	case given.Token == "" && peer != nil && v.config.Certificates:
		return *peer, nil
	case given.Token == "":
		return WorkerIdentity{}, refused("there is none")
	case len(given.Token) > maxWorkerToken:
		return WorkerIdentity{}, refused("the token is too long")
	case strings.HasPrefix(given.Token, tokenFamily) || looksLikeJWT(given.Token):
		return v.verifySigned(given)
	}
	return v.verifyStatic(given)
}

func (v *WorkerVerifier) verifyStatic(given WorkerCredential) (WorkerIdentity, error) {
	own, has := v.config.Tokens[given.WorkerID]
	shared := same(v.config.Shared, given.Token)
	mine := same(own, given.Token)
	identity := WorkerIdentity{
		WorkerID: given.WorkerID,
		Audience: v.config.Audience,
		Scopes:   WorkerScopes(),
		Method:   MethodStatic,
	}
	switch {
	case has && mine:
		return identity, nil
	case !has && shared:
		identity.Method = MethodShared
		return identity, nil
	}
	return WorkerIdentity{}, refused("the token is not known")
}

// same compares in constant time, through hashes of one length.
func same(secret Secret, given string) bool {
	if secret == nil {
		return false
	}
	return matches(hashed(secret()), given) == 1
}

func (v *WorkerVerifier) verifySigned(given WorkerCredential) (WorkerIdentity, error) {
	ring, err := v.keys()
	if err != nil {
		return WorkerIdentity{}, err
	}
	method, c, ok := MethodSigned, claims{}, false
	if looksLikeJWT(given.Token) {
		method = MethodJWT
		c, ok = openJWT(ring, given.Token)
	} else {
		c, ok = openHMAC(ring.secrets, given.Token)
	}
	if !ok {
		return WorkerIdentity{}, refused("the token is malformed or no known key signed it")
	}
	reason := c.judge(v.config.Now())
	switch {
	case reason != "":
	case c.WorkerID != string(given.WorkerID):
		reason = "the token is another worker's"
	case c.Audience != string(v.config.Audience):
		reason = "the token is for another audience"
	case slices.Contains(v.config.Revoked, c.TokenID):
		reason = "the token is revoked"
	}
	if reason != "" {
		return WorkerIdentity{}, refused(reason)
	}
	return WorkerIdentity{
		WorkerID: given.WorkerID,
		Audience: v.config.Audience,
		Scopes:   grant(c.Scopes),
		Method:   method,
		TokenID:  c.TokenID,
	}, nil
}

// keys gives the keys of this moment. They are parsed anew when one of them changed.
func (v *WorkerVerifier) keys() (*keyring, error) {
	type named struct{ field, text string }
	var texts []named
	from := sha256.New()
	read := func(field string, secret Secret) {
		text := ""
		if secret != nil {
			text = secret()
		}
		texts = append(texts, named{field, text})
		sum := sha256.Sum256([]byte(text))
		from.Write(sum[:])
	}
	if v.config.SigningKey != nil {
		read("worker_signing_key", v.config.SigningKey)
	}
	for _, secret := range v.config.RotationKeys {
		read("worker_signing_keys", secret)
	}
	sum := [sha256.Size]byte(from.Sum(nil))
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ring != nil && v.from == sum {
		return v.ring, nil
	}
	ring := &keyring{publics: map[string]ed25519.PublicKey{}}
	for _, key := range texts {
		if err := ring.read(key.field, key.text); err != nil {
			return nil, err
		}
	}
	v.ring, v.from = ring, sum
	return ring, nil
}
