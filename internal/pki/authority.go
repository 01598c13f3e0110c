package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path/filepath"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// authorityLife is how long an authority is good for: rotate it long before.
	authorityLife = 10 * 365 * 24 * time.Hour
	// backdate allows for clocks that are behind.
	backdate = 5 * time.Minute
)

// authority is a certificate that signs others, with its key.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// newAuthority makes one, self-signed.
func newAuthority(now time.Time) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	serial := newSerial()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "stacyvm authority " + hex.EncodeToString(serial.Bytes())[:8]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs parties, not authorities
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	certificate, err := x509.ParseCertificate(raw)
	return authority{certificate, key}, err
}

// newSerial makes 128 random bits; the highest is 1, so that the number always has 32 hex digits.
func newSerial() *big.Int {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // it ends the program rather than fail
	raw[0] |= 0x80
	return new(big.Int).SetBytes(raw[:])
}

// encode gives certificate and key as one PEM text.
func encode(certificate *x509.Certificate, key crypto.Signer) ([]byte, error) {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(
		encodeCertificate(certificate),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), nil
}

func encodeCertificate(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

// readAuthority reads one with its key.
func (d *directory) readAuthority(name string) (authority, error) {
	content, err := readPEM(d.join(name), true)
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.vacant(bundleFile, false) != nil:
		return authority{}, stacyvm.Errorf(
			stacyvm.CodeNotFound,
			"%s does not exist: the key of the authority in %s is on another machine; do this there",
			d.join(name),
			d.join(bundleFile),
		)
	case errors.Is(err, fs.ErrNotExist):
		return authority{}, stacyvm.Errorf(
			stacyvm.CodeNotFound,
			"%s does not exist: make it with `stacyvm pki init %s`",
			d.join(name),
			d.path,
		)
	case err != nil:
		return authority{}, unusable(err)
	}
	found, err := parseAuthority(content)
	if err != nil {
		return authority{}, unusable(fmt.Errorf("%s: %w", d.join(name), err))
	}
	return found, nil
}

func parseAuthority(content []byte) (authority, error) {
	errNone := errors.New("is not the certificate and key of an authority")
	first, rest := pem.Decode(content)
	if first == nil || first.Type != "CERTIFICATE" {
		return authority{}, errNone
	}
	second, rest := pem.Decode(rest)
	if second == nil || second.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return authority{}, errNone
	}
	certificate, err := x509.ParseCertificate(first.Bytes)
	if err != nil || !certificate.IsCA {
		return authority{}, errNone
	}
	secret, err := x509.ParsePKCS8PrivateKey(second.Bytes)
	key, ok := secret.(*ecdsa.PrivateKey)
	if err != nil || !ok || !key.PublicKey.Equal(certificate.PublicKey) {
		return authority{}, errNone
	}
	return authority{certificate, key}, nil
}

// Init makes a new authority in a directory, which is made when it is missing. It returns a
// CodeConflict error when there is one already, or the bundle of one whose key is elsewhere, and
// force is not set: with force the old one is lost, and so is the trust in all that it signed.
func Init(dir string, force bool, now time.Time) error {
	if err := makeDirectory(dir); err != nil {
		return err
	}
	d, err := openDirectory(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.vacant(authorityFile, force); err != nil {
		return err
	}
	if d.vacant(bundleFile, force) != nil {
		return stacyvm.Errorf(
			stacyvm.CodeConflict,
			"%s holds an authority whose key is elsewhere, which this machine would not trust any more: --force replaces it",
			d.join(bundleFile),
		)
	}
	made, err := newAuthority(now)
	if err != nil {
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the authority could not be made")
	}
	return d.install(made, nil, force)
}

// install writes the bundle first: what it holds too much after a crash was never used.
func (d *directory) install(active authority, former []*x509.Certificate, replace bool) error {
	content, err := encode(active.certificate, active.key)
	if err != nil {
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the authority could not be written")
	}
	if err := d.writeBundle(active, former); err != nil {
		return err
	}
	return d.place(authorityFile, content, 0o600, replace)
}

// writeBundle writes what everybody is to trust, the active authority first.
func (d *directory) writeBundle(active authority, former []*x509.Certificate) error {
	bundle := encodeCertificate(active.certificate)
	for _, certificate := range former {
		if !certificate.Equal(active.certificate) {
			bundle = append(bundle, encodeCertificate(certificate)...)
		}
	}
	return d.place(bundleFile, bundle, 0o644, true)
}

// former lists the replaced authorities that have not expired.
func (d *directory) former(now time.Time) ([]*x509.Certificate, error) {
	paths, err := filepath.Glob(d.join(formerFiles))
	if err != nil {
		return nil, unusable(err)
	}
	slices.Sort(paths)
	var found []*x509.Certificate
	for _, path := range paths {
		one, err := d.readAuthority(filepath.Base(path))
		if err != nil {
			return nil, err
		}
		if now.Before(one.certificate.NotAfter) {
			found = append(found, one.certificate)
		}
	}
	return found, nil
}
