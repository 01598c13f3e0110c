package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func TestServerFiles(t *testing.T) {
	dir := newDir(t)
	if _, err := pki.ServerFiles(dir); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		t.Errorf("without a certificate: %v", err)
	}
	one := mustIssue(t, dir, pki.Request{Server: []string{"one.test"}})
	mustIssue(t, dir, pki.Request{Worker: "a"})
	if files, err := pki.ServerFiles(dir, "", "other.test"); err != nil || files.Certificate != one.Path || files.Authorities != one.Bundle {
		t.Errorf("the only one: %+v, %v", files, err)
	}
	two := mustIssue(t, dir, pki.Request{Server: []string{"two.test", "127.0.0.1"}})
	if _, err := pki.ServerFiles(dir, "", "other.test"); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		t.Errorf("one of two, without a hint: %v", err)
	}
	files, err := pki.ServerFiles(dir, "other.test", "two.test")
	if err != nil || files.Certificate != two.Path {
		t.Errorf("one of two: %+v, %v", files, err)
	}
	if hosts := load(t, two, dir, nil).Hosts(); !slices.Equal(hosts, []string{"two.test", "127.0.0.1"}) {
		t.Errorf("its hosts are %q", hosts)
	}
}

// foreign makes a certificate as other programs do: with a host name and without a party.
func foreign(t *testing.T, host string) (certificate, authorities string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{host},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, authorities = filepath.Join(t.TempDir(), "worker.pem"), filepath.Join(t.TempDir(), "ca.pem")
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	for path, content := range map[string][]byte{authorities: public, certificate: append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), public...)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, authorities
}

// TestOtherAuthorities: a worker with a certificate of another authority is known by its host
// name, by a control plane that need not have a certificate.
func TestOtherAuthorities(t *testing.T) {
	certificate, authorities := foreign(t, "worker.test")
	server, err := tls.LoadX509KeyPair(certificate, certificate)
	if err != nil {
		t.Fatal(err)
	}
	listener := &tls.Config{Certificates: []tls.Certificate{server}, MinVersion: tls.VersionTLS13}
	control, err := pki.Load(pki.Files{Authorities: authorities}, pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		client *tls.Config
		ok     bool
	}{
		{"its name", control.OfHost("worker.test", "a"), true},
		{"another name", control.OfHost("other.test", "a"), false},
		{"a worker of stacyvm is wanted", control.OfWorker("a"), false},
	} {
		if _, err := connect(t, listener, c.client); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if hosts := control.Hosts(); len(hosts) != 0 {
		t.Errorf("without a certificate its hosts are %q", hosts)
	}
	// A certificate that names another worker of stacyvm is refused, whatever else is in it.
	dir := newDir(t)
	other := load(t, mustIssue(t, dir, pki.Request{Server: []string{"worker.test"}}), dir, func() time.Time { return noon })
	own := load(t, mustIssue(t, dir, pki.Request{Worker: "c"}), dir, func() time.Time { return noon })
	if _, err := connect(t, other.Server(true), own.OfHost("worker.test", "a")); err == nil {
		t.Error("a control plane passed for a worker")
	}
}
