package pki_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// request makes a certificate request that asks for far more than a worker may be.
func request(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "an authority", Organization: []string{"everybody"}},
		DNSNames: []string{"control.example.org"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 5)}, EmailAddresses: []string{"a@example.org"},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "stacyvm", Path: "/server/control.example.org"}, {Scheme: "spiffe", Host: "stacyvm", Path: "/worker/b"}},
		ExtraExtensions: []pkix.Extension{
			// basic constraints: an authority
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}},
			// key usage: signs certificates
			{Id: []int{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}},
		},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw})
}

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestSign: of a request nothing but the key gets into the certificate.
func TestSign(t *testing.T) {
	dir := newDir(t)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{newKey(t, elliptic.P256()), edwards} {
		signed, authorities, until, err := pki.Sign(dir, "a", request(t, key), noon)
		if err != nil {
			t.Fatal(err)
		}
		block, rest := pem.Decode(signed)
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil || len(rest) > 0 || string(authorities) != content(t, filepath.Join(dir, "ca-bundle.pem")) {
			t.Fatalf("%v, %d bytes more, authorities %s", err, len(rest), authorities)
		}
		party, err := pki.PartyOf(leaf)
		if err != nil || party != (pki.Party{Role: pki.RoleWorker, Name: "a"}) || len(leaf.URIs) != 1 {
			t.Errorf("it names %+v in %v, %v", party, leaf.URIs, err)
		}
		if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.Subject.Names) != 0 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
			t.Errorf("it holds what was asked for: %+v", leaf)
		}
		if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
			t.Error("it is for another key")
		}
		if !leaf.NotAfter.Equal(until) || until.Sub(noon) != pki.LeafLife || !leaf.NotBefore.Before(noon) {
			t.Errorf("it is good from %s to %s, said was %s", leaf.NotBefore, leaf.NotAfter, until)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(authorities)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: noon, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	dir := newDir(t)
	good := request(t, newKey(t, elliptic.P256()))
	heavy, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	forged, _ := pem.Decode(good)
	forged.Bytes[len(forged.Bytes)-1] ^= 1
	empty := t.TempDir()
	for name, c := range map[string]struct {
		dir, worker string
		request     []byte
		at          time.Duration
		code        stacyvm.Code
		field       string
	}{
		"nothing":              {dir, "a", nil, 0, stacyvm.CodeInvalid, "csr"},
		"no PEM":               {dir, "a", []byte("x"), 0, stacyvm.CodeInvalid, "csr"},
		"two requests":         {dir, "a", append(append([]byte{}, good...), good...), 0, stacyvm.CodeInvalid, "csr"},
		"a certificate":        {dir, "a", []byte(content(t, filepath.Join(dir, "ca-bundle.pem"))), 0, stacyvm.CodeInvalid, "csr"},
		"damaged":              {dir, "a", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged.Bytes[:100]}), 0, stacyvm.CodeInvalid, "csr"},
		"another's signature":  {dir, "a", pem.EncodeToMemory(forged), 0, stacyvm.CodeInvalid, "csr"},
		"RSA":                  {dir, "a", request(t, heavy), 0, stacyvm.CodeInvalid, "csr"},
		"another curve":        {dir, "a", request(t, newKey(t, elliptic.P384())), 0, stacyvm.CodeInvalid, "csr"},
		"no worker":            {dir, "", good, 0, stacyvm.CodeInvalid, "worker"},
		"a path for a worker":  {dir, "../a", good, 0, stacyvm.CodeInvalid, "worker"},
		"no authority":         {empty, "a", good, 0, stacyvm.CodeNotFound, ""},
		"an expired authority": {dir, "a", good, 11 * 365 * 24 * time.Hour, stacyvm.CodeConflict, ""},
	} {
		signed, _, _, err := pki.Sign(c.dir, c.worker, c.request, noon.Add(c.at))
		if stacyvm.CodeOf(err) != c.code || len(signed) > 0 {
			t.Errorf("%s: %s, %v", name, signed, err)
		}
		if c.field != "" && !fieldIs(err, c.field) {
			t.Errorf("%s: %v does not name %s", name, err, c.field)
		}
	}
	if files, err := os.ReadDir(empty); err != nil || len(files) > 0 {
		t.Errorf("a refusal left %v, %v", files, err)
	}
}

// TestSignNeverOutlivesTheAuthority: near its end certificates are shorter.
func TestSignNeverOutlivesTheAuthority(t *testing.T) {
	dir := newDir(t)
	end := certificates(t, filepath.Join(dir, "ca-bundle.pem"))[0].NotAfter
	_, _, until, err := pki.Sign(dir, "a", request(t, newKey(t, elliptic.P256())), end.Add(-time.Hour))
	if err != nil || !until.Equal(end) {
		t.Errorf("good until %s, the authority until %s, %v", until, end, err)
	}
}

func fieldIs(err error, field string) bool {
	known, ok := errors.AsType[*stacyvm.Error](err)
	return ok && known.Field == field
}
