package pki_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// FuzzCheckRequest gives anything as a certificate request. It is refused as the caller's fault,
// or its key is of a kind that is taken.
func FuzzCheckRequest(f *testing.F) {
	small, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, key := range []any{small, edwards} {
		raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a"}}, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, true)
		f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}), false)
	}
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"), false)
	f.Fuzz(func(t *testing.T, content []byte, wrap bool) {
		if wrap {
			content = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: content})
		}
		key, err := pki.CheckRequest(content)
		if err != nil {
			if stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
				t.Fatal(err)
			}
			return
		}
		switch key := key.(type) {
		case ed25519.PublicKey:
		case *ecdsa.PublicKey:
			if key.Curve != elliptic.P256() {
				t.Fatalf("curve %s", key.Curve.Params().Name)
			}
		default:
			t.Fatalf("a key of type %T", key)
		}
	})
}
