package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Enrolment is a worker's new key, for which an authority elsewhere is asked for a certificate.
// The key never leaves.
type Enrolment struct {
	party Party
	key   *ecdsa.PrivateKey
}

// Enrol makes a new key for a worker. It returns a CodeInvalid error when the id is malformed.
func Enrol(worker string) (*Enrolment, error) {
	if !stacyvm.WorkerID(worker).Valid() {
		return nil, stacyvm.Invalid("worker", "must be 1 to 64 letters, digits, '.', '_' or '-'")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInternal, err, "the key could not be made")
	}
	return &Enrolment{Party{RoleWorker, worker}, key}, nil
}

// Request is the certificate request, in PEM. It proves that whoever sends it has the key.
func (e *Enrolment) Request() ([]byte, error) {
	uri, err := url.Parse(e.party.URI())
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInternal, err, "the name could not be written")
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, e.key)
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInternal, err, "the request could not be made")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}), nil
}

// Keep writes the certificate with its key, and the authorities, into a directory, which is made
// when it is missing. What was there for this worker is replaced, the bundle first: until then
// nothing of it was used. CodeUnavailable: the answer is not for this key and worker, or its
// authorities did not sign it, or the directory cannot be written.
func (e *Enrolment) Keep(dir string, certificate, authorities []byte, now time.Time) (Issued, error) {
	leaf, err := e.judge(certificate, authorities, now)
	if err != nil {
		return Issued{}, unusable(fmt.Errorf("the control plane's answer %w", err))
	}
	content, err := encode(leaf, e.key)
	if err != nil {
		return Issued{}, stacyvm.Wrap(stacyvm.CodeInternal, err, "the certificate could not be written")
	}
	if err := makeDirectory(dir); err != nil {
		return Issued{}, err
	}
	d, err := openDirectory(dir)
	if err != nil {
		return Issued{}, err
	}
	defer d.Close()
	if err := d.place(bundleFile, bytes.TrimSpace(authorities), 0o644, true); err != nil {
		return Issued{}, err
	}
	name := e.party.file()
	return Issued{
			Party:    e.party,
			Path:     d.join(name),
			Bundle:   d.join(bundleFile),
			Serial:   Serial(leaf),
			NotAfter: leaf.NotAfter,
		}, d.place(
			name,
			content,
			0o600,
			true,
		)
}

func (e *Enrolment) judge(certificate, authorities []byte, now time.Time) (*x509.Certificate, error) {
	block, rest := pem.Decode(certificate)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("holds no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("holds a damaged certificate: %w", err)
	}
	trusted, err := parseBundle(authorities)
	if err != nil {
		return nil, fmt.Errorf("holds authorities that %w", err)
	}
	_, err = leaf.Verify(
		x509.VerifyOptions{
			Roots:       poolOf(trusted),
			CurrentTime: now,
			KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		},
	)
	if err != nil {
		return nil, fmt.Errorf(
			"holds a certificate that its authorities did not sign, or whose time is not now: %w",
			err,
		)
	}
	party, err := PartyOf(leaf)
	if err != nil || party != e.party || !e.key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("holds the certificate of another party or key")
	}
	return leaf, nil
}

// WorkerFiles are a worker's files in a directory.
func WorkerFiles(dir, worker string) Files {
	return Files{
		Certificate: filepath.Join(dir, Party{RoleWorker, worker}.file()),
		Authorities: filepath.Join(dir, bundleFile),
	}
}

// Life is from when to when the certificate of this moment is good; zero times without one.
func (c *Credentials) Life() (begins, ends time.Time) {
	if leaf := c.present().certificate.Leaf; leaf != nil {
		return leaf.NotBefore, leaf.NotAfter
	}
	return begins, ends
}
