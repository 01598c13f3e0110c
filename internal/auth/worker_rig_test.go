package auth_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// The wire formats are written down here a second time, so that a change of the product's is
// noticed.

// noon is the clock of these tests.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func atNoon() time.Time { return noon }

const (
	secretA = "an HMAC secret of which nothing may ever be printed"
	secretB = "another HMAC secret, which nobody may see anywhere"
	secretC = "a third HMAC secret that has been retired long ago"
)

// keyPair is a deterministic Ed25519 key.
type keyPair struct{ private ed25519.PrivateKey }

func newKeyPair(seed byte) keyPair {
	return keyPair{ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), ed25519.SeedSize)))}
}

var keyA, keyB, keyC = newKeyPair('a'), newKeyPair('b'), newKeyPair('c')

func (k keyPair) public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

func (k keyPair) privatePEM() string {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	return encodePEM("PRIVATE KEY", der, err)
}

func (k keyPair) publicPEM() string {
	der, err := x509.MarshalPKIXPublicKey(k.public())
	return encodePEM("PUBLIC KEY", der, err)
}

func encodePEM(kind string, der []byte, err error) string {
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func (k keyPair) kid() string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + b64(k.public()) + `"}`))
	return b64(sum[:])
}

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// object is a JSON object.
type object map[string]any

func (o object) with(name string, value any) object {
	changed := maps.Clone(o)
	if changed[name] = value; value == nil {
		delete(changed, name)
	}
	return changed
}

func (o object) encode() string { return b64([]byte(o.text())) }

func (o object) text() string {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// sign makes a stacyvm-worker-v1 token.
func sign(secret string, claims object) string { return signText(secret, claims.encode()) }

func signText(secret, payload string) string {
	return signVersion(secret, "stacyvm-worker-v1", payload)
}

func signVersion(secret, version, payload string) string {
	text := version + "." + payload
	return text + "." + b64(hs256(secret, text))
}

func hs256(secret, text string) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// jwt makes an EdDSA token.
func (k keyPair) jwt(header, claims object) string {
	text := header.encode() + "." + claims.encode()
	return text + "." + b64(ed25519.Sign(k.private, []byte(text)))
}

func (k keyPair) header() object {
	return object{"alg": "EdDSA", "typ": "stacyvm-worker-v1+jwt", "kid": k.kid()}
}

const goodID = "0123456789abcdef0123456789abcdef"

// signedClaims are those of a good stacyvm-worker-v1 token, jwtClaims those of a good JWT.
func signedClaims() object {
	return object{"worker_id": "worker-a", "jti": goodID, "aud": "worker:control-plane", "iat": noon.Unix(), "exp": noon.Unix() + 300}
}

func jwtClaims() object { return asJWT(signedClaims()) }

// asJWT renames what JWTs have a name of their own for.
func asJWT(claims object) object {
	return claims.with("sub", claims["worker_id"]).with("worker_id", nil)
}

// certificate is what TLS would hand over after it verified it.
func certificate(uris ...string) *x509.Certificate {
	made := &x509.Certificate{NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour), SerialNumber: new(big.Int)}
	made.SerialNumber.SetString(goodID, 16)
	for _, text := range uris {
		uri, err := url.Parse(text)
		if err != nil {
			panic(err)
		}
		made.URIs = append(made.URIs, uri)
	}
	return made
}

func newVerifier(t testing.TB, config auth.WorkerVerifierConfig) *auth.WorkerVerifier {
	t.Helper()
	if config.Now == nil {
		config.Now = atNoon
	}
	if config.Audience == "" {
		config.Audience = auth.AudienceControlPlane
	}
	v, err := auth.NewWorkerVerifier(config)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// mustRefuse demands that a credential is refused, without a word of it or of a key.
func mustRefuse(t *testing.T, what string, err error, given auth.WorkerCredential) {
	t.Helper()
	if stacyvm.CodeOf(err) != stacyvm.CodeUnauthenticated {
		t.Errorf("%s: error %v, want code %s", what, err, stacyvm.CodeUnauthenticated)
		return
	}
	mustHide(t, what, err, given.Token)
}

// mustHide demands that an error holds no secret, whole or in part.
func mustHide(t *testing.T, what string, err error, token string) {
	t.Helper()
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		text += fmt.Sprintf(" %v %#v", cause, cause)
	}
	hidden := []string{secretA, secretB, secretC, keyA.privatePEM()[30:60], keyB.privatePEM()[30:60]}
	for part := range strings.SplitSeq(token, ".") {
		if part != "stacyvm-worker-v1" && len(part) > 8 {
			hidden = append(hidden, part[:8], part[len(part)-8:])
		}
	}
	for _, secret := range hidden {
		if strings.Contains(text, secret) {
			t.Errorf("%s: the error tells a secret: %s", what, text)
		}
	}
}
