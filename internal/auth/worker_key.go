package auth

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// minSigningKey is the least length of an HMAC key, in bytes: who has one token may guess at its
// key without asking anybody.
const minSigningKey = 32

// signingKey is either an HMAC secret or an Ed25519 key, never both: the kind of the key decides
// which tokens it can verify.
type signingKey struct {
	secret  []byte
	public  ed25519.PublicKey
	private ed25519.PrivateKey // nil: it only verifies
	id      string             // of an Ed25519 key: its thumbprint, the token's kid
}

// CheckSigningKey says why a text is no signing key: an HMAC secret of at least 32 bytes, or an
// Ed25519 key in PEM, private or public. The error holds nothing of it.
func CheckSigningKey(text string) error {
	_, err := parseSigningKey(text)
	return err
}

func parseSigningKey(text string) (signingKey, error) {
	text = strings.TrimSpace(text)
	if strings.Contains(text, "-----BEGIN") {
		return parsePEM(text) // and never as a secret: public keys are known to everybody
	}
	if len(text) < minSigningKey {
		return signingKey{}, fmt.Errorf("is shorter than %d bytes", minSigningKey)
	}
	return signingKey{secret: []byte(text)}, nil
}

func parsePEM(text string) (signingKey, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || !strings.HasPrefix(text, "-----BEGIN") || len(rest) > 0 || len(block.Headers) > 0 {
		return signingKey{}, errors.New("is not one PEM block and nothing else")
	}
	switch block.Type {
	case "PRIVATE KEY":
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if private, ok := key.(ed25519.PrivateKey); ok {
				public := private.Public().(ed25519.PublicKey)
				return signingKey{public: public, private: private, id: thumbprint(public)}, nil
			}
		}
	case "PUBLIC KEY":
		if key, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			if public, ok := key.(ed25519.PublicKey); ok {
				return signingKey{public: public, id: thumbprint(public)}, nil
			}
		}
	}
	return signingKey{}, errors.New(
		"is a PEM block, but not an Ed25519 key: make one with `openssl genpkey -algorithm ed25519`",
	)
}

// thumbprint names a public key as RFC 7638 does.
func thumbprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(
		[]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(key) + `"}`),
	)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// keyring holds the keys that verify.
type keyring struct {
	secrets [][]byte
	publics map[string]ed25519.PublicKey // by thumbprint
}

// read adds the key in text; field names it in the CodeInvalid error.
func (r *keyring) read(field, text string) error {
	key, err := parseSigningKey(text)
	switch {
	case err != nil:
		return stacyvm.Invalid(field, "a key %s", err)
	case key.secret != nil:
		r.secrets = append(r.secrets, key.secret)
	default:
		r.publics[key.id] = key.public
	}
	return nil
}
