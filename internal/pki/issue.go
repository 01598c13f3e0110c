package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// LeafLife is how long a party's certificate is good for when nothing else is asked for.
	LeafLife = 90 * 24 * time.Hour
	// LeafLifeMax is the longest.
	LeafLifeMax = 365 * 24 * time.Hour
)

// Request says whose certificate is wanted: one of Worker and Server is set.
type Request struct {
	Worker string        // a worker's id
	Server []string      // a control plane's host names and addresses; the first is its name
	Life   time.Duration // 0: LeafLife; at least an hour, at most LeafLifeMax, and never longer than the authority's
	Force  bool          // replaces the party's certificate and key
}

// Issued is a certificate that was made.
type Issued struct {
	Party    Party
	Path     string // certificate and key
	Bundle   string // what the party has to trust
	Serial   string // 32 hex digits; auth.worker_revoked_token_ids refuses it
	NotAfter time.Time
}

var hostName = regexp.MustCompile(`^(?i)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// Issue makes a party's certificate and key in the directory. Both roles call and are called, so
// that a certificate is good for either side of a connection; what sets them apart is the name in
// it. It returns CodeInvalid, CodeConflict and CodeNotFound errors, and CodeUnavailable ones when
// a file is not as it should be.
func Issue(dir string, r Request, now time.Time) (Issued, error) {
	template, party, err := r.template(now)
	if err != nil {
		return Issued{}, err
	}
	d, err := openDirectory(dir)
	if err != nil {
		return Issued{}, err
	}
	defer d.Close()
	name := party.file()
	if err := d.vacant(name, r.Force); err != nil {
		return Issued{}, err
	}
	active, err := d.signing(now)
	if err != nil {
		return Issued{}, err
	}
	if active.certificate.NotAfter.Before(template.NotAfter) {
		template.NotAfter = active.certificate.NotAfter
	}
	content, err := active.sign(template)
	if err != nil {
		return Issued{}, stacyvm.Wrap(stacyvm.CodeInternal, err, "the certificate could not be made")
	}
	return Issued{
		Party:    party,
		Path:     d.join(name),
		Bundle:   d.join(bundleFile),
		Serial:   template.SerialNumber.Text(16),
		NotAfter: template.NotAfter.UTC().Truncate(time.Second),
	}, d.place(name, content, 0o600, r.Force)
}

// template says what the certificate holds: names in the alternative name only.
func (r Request) template(now time.Time) (*x509.Certificate, Party, error) {
	if r.Life == 0 {
		r.Life = LeafLife
	}
	party, names, err := r.party()
	if err != nil {
		return nil, party, err
	}
	if r.Life < time.Hour || r.Life > LeafLifeMax {
		return nil, party, stacyvm.Invalid("ttl", "must be between 1h and %s", LeafLifeMax)
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(r.Life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	uri, err := url.Parse(party.URI())
	if err != nil {
		return nil, party, stacyvm.Wrap(stacyvm.CodeInternal, err, "the name could not be written")
	}
	template.URIs = []*url.URL{uri}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return template, party, nil
}

// Sign makes a worker's certificate for the key in a request (PEM), and gives it with the
// authorities that it is to trust. Of the request nothing but the key counts. Its errors are
// Issue's, and CheckRequest's.
func Sign(
	dir, worker string,
	request []byte,
	now time.Time,
) (certificate, authorities []byte, until time.Time, err error) {
	public, err := CheckRequest(request)
	if err != nil {
		return nil, nil, until, err
	}
	template, _, err := Request{Worker: worker}.template(now)
	if err != nil {
		return nil, nil, until, err
	}
	d, err := openDirectory(dir)
	if err != nil {
		return nil, nil, until, err
	}
	defer d.Close()
	active, err := d.signing(now)
	if err != nil {
		return nil, nil, until, err
	}
	if active.certificate.NotAfter.Before(template.NotAfter) {
		template.NotAfter = active.certificate.NotAfter
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, active.certificate, public, active.key)
	if err != nil {
		return nil, nil, until, stacyvm.Wrap(stacyvm.CodeInternal, err, "the certificate could not be made")
	}
	authorities, err = os.ReadFile(d.join(bundleFile))
	if err != nil {
		return nil, nil, until, unusable(err)
	}
	return pem.EncodeToMemory(
			&pem.Block{Type: "CERTIFICATE", Bytes: raw},
		), authorities, template.NotAfter.UTC().
			Truncate(time.Second),
		nil
}

// signing gives the authority for a signature, after seeing to it that the bundle holds it.
func (d *directory) signing(now time.Time) (authority, error) {
	active, err := d.readAuthority(authorityFile)
	if err != nil {
		return active, err
	}
	if !now.Before(active.certificate.NotAfter) {
		return active, stacyvm.Errorf(
			stacyvm.CodeConflict,
			"the authority has expired: `stacyvm pki rotate %s`",
			d.path,
		)
	}
	return active, d.completeBundle(active, now)
}

// CheckRequest reads a certificate request in PEM and gives its key, which its sender has.
// CodeInvalid: it is none, or its key is of another kind than ECDSA on P-256 and Ed25519.
func CheckRequest(text []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, stacyvm.Invalid("csr", "is not one certificate request in PEM")
	}
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, stacyvm.Invalid("csr", "is damaged")
	}
	key, isECDSA := asked.PublicKey.(*ecdsa.PublicKey)
	_, isEd25519 := asked.PublicKey.(ed25519.PublicKey)
	switch { // the kind first: anybody may ask, and some keys are made to be slow
	case !isEd25519 && (!isECDSA || key.Curve != elliptic.P256()):
		return nil, stacyvm.Invalid("csr", "has a key that is neither ECDSA on P-256 nor Ed25519")
	case asked.CheckSignature() != nil:
		return nil, stacyvm.Invalid("csr", "is not signed with its own key")
	}
	return asked.PublicKey, nil
}

// AuthorityFingerprint is the Fingerprint of a directory's authority. CodeNotFound: there is none.
func AuthorityFingerprint(dir string) (string, error) {
	d, err := openDirectory(dir)
	if err != nil {
		return "", err
	}
	defer d.Close()
	active, err := d.readAuthority(authorityFile)
	if err != nil {
		return "", err
	}
	return Fingerprint(active.certificate), nil
}

// party gives whose certificate is asked for, and the host names in it.
func (r Request) party() (party Party, names []string, err error) {
	switch {
	case (r.Worker == "") == (len(r.Server) == 0):
		return party, nil, stacyvm.Invalid("worker", "give it or --server, and not both")
	case r.Worker != "" && !stacyvm.WorkerID(r.Worker).Valid():
		return party, nil, stacyvm.Invalid("worker", "must be 1 to 64 letters, digits, '.', '_' or '-'")
	case r.Worker != "":
		return Party{RoleWorker, r.Worker}, nil, nil
	}
	for _, name := range r.Server {
		if net.ParseIP(name) == nil && (len(name) > 253 || !hostName.MatchString(name)) {
			return party, nil, stacyvm.Invalid("server", "%.64q is no host name or address", name)
		}
	}
	return Party{RoleServer, strings.ReplaceAll(r.Server[0], ":", "-")}, r.Server, nil
}

// file is the name of the party's file.
func (p Party) file() string { return string(p.Role) + "-" + p.Name + ".pem" }

// sign makes a key and its certificate, as one PEM text.
func (a authority) sign(template *x509.Certificate) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	return encode(certificate, key)
}

// completeBundle writes the bundle anew when it lacks the active authority, as after a crash or a
// copy gone wrong.
func (d *directory) completeBundle(active authority, now time.Time) error {
	content, err := os.ReadFile(filepath.Join(d.path, bundleFile))
	if err == nil && bytes.Contains(content, encodeCertificate(active.certificate)) {
		return nil
	}
	former, err := d.former(now)
	if err != nil {
		return err
	}
	return d.writeBundle(active, former)
}

// makeDirectory makes it private; one that exists stays as it is.
func makeDirectory(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return unusable(err)
	}
	return nil
}
