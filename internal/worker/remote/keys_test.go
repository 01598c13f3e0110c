package remote_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"strings"
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
