package remote_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// noon is the clock of those who judge the credentials made here.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const (
	secretA = "an HMAC secret of which nothing may ever be printed"
	secretB = "another HMAC secret, which nobody may see anywhere"
	secretC = "a third HMAC secret that has been retired long ago"

	goodID    = "0123456789abcdef0123456789abcdef"
	revokedID = "ffffffffffffffffffffffffffffffff"
)

// pair is a deterministic Ed25519 key.
type pair struct{ private ed25519.PrivateKey }

func newPair(seed byte) pair {
	return pair{ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), ed25519.SeedSize)))}
}

var keyA, keyB, keyC = newPair('a'), newPair('b'), newPair('c')

func (k pair) privatePEM() string {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	return encodePEM("PRIVATE KEY", der, err)
}

func (k pair) publicPEM() string {
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	return encodePEM("PUBLIC KEY", der, err)
}

func encodePEM(kind string, der []byte, err error) string {
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func encode(claims map[string]any) string {
	raw, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return b64(raw)
}

// sign makes a stacyvm-worker-v1 token of any claims.
func sign(secret string, claims map[string]any) string {
	text := "stacyvm-worker-v1." + encode(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + b64(mac.Sum(nil))
}

// jwt makes an EdDSA token of any claims.
func (k pair) jwt(claims map[string]any) string {
	thumb := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + b64(k.private.Public().(ed25519.PublicKey)) + `"}`))
	text := encode(map[string]any{"alg": "EdDSA", "typ": "stacyvm-worker-v1+jwt", "kid": b64(thumb[:])}) + "." + encode(claims)
	return text + "." + b64(ed25519.Sign(k.private, []byte(text)))
}

// certificate is what TLS would hand over after it verified it.
func certificate(name, serial string) *x509.Certificate {
	uri, err := url.Parse("spiffe://stacyvm/" + name)
	if err != nil {
		panic(err)
	}
	made := &x509.Certificate{
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour), SerialNumber: new(big.Int), URIs: []*url.URL{uri},
	}
	made.SerialNumber.SetString(serial, 16)
	return made
}
