package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/reload"
)

// ReloadLook is how often handshakes look whether a file changed, at most.
const ReloadLook = reload.Look

// Files are what one side of a connection needs.
type Files struct {
	Certificate string // its own certificate; "": none, as a client may have
	Key         string // "": in the same file as the certificate
	Authorities string // the bundle that it trusts
}

// Options are of Load; the zero value will do.
type Options struct {
	// Failed hears of it when changed files cannot be used, once per reason; the ones before stay
	// in use. It must not make a connection.
	Failed func(error)
	Now    func() time.Time // nil: time.Now
}

// Credentials are a party's certificate and whom it trusts, read anew when the files change.
// Connections that are open stay as they are. They are safe for concurrent use.
type Credentials struct {
	files Files
	value *reload.Value[loaded]
	clock func() time.Time
}

// loaded is the files' content of one moment.
type loaded struct {
	certificate *tls.Certificate
	authorities *x509.CertPool
}

// Load reads the files for the first time. Its errors name the paths, for who started the program.
func Load(files Files, options Options) (*Credentials, error) {
	if options.Now == nil {
		options.Now = time.Now
	}
	if files.Key == "" {
		files.Key = files.Certificate
	}
	c := &Credentials{files: files, clock: options.Now}
	var err error
	c.value, err = reload.Open(reload.Config[loaded]{
		Paths: c.paths(), Load: c.load, Failed: options.Failed, Now: options.Now,
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Credentials) paths() []string {
	if c.files.Certificate == "" {
		return []string{c.files.Authorities}
	}
	return []string{c.files.Certificate, c.files.Key, c.files.Authorities}
}

// load reads all files.
func (c *Credentials) load() (loaded, error) {
	authorities, err := readBundle(c.files.Authorities)
	if err != nil {
		return loaded{}, err
	}
	next := loaded{certificate: &tls.Certificate{}, authorities: poolOf(authorities)}
	if c.files.Certificate != "" {
		next.certificate, err = readPair(c.files)
		sendAuthority(next.certificate, authorities)
	}
	return next, err
}

func readPair(files Files) (*tls.Certificate, error) {
	none := &tls.Certificate{}
	certificate, err := readPEM(files.Certificate, false)
	if err != nil {
		return none, err
	}
	key, err := readPEM(files.Key, true)
	if err != nil {
		return none, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return none, fmt.Errorf("%s: %w", files.Certificate, err)
	}
	return &pair, nil
}

// sendAuthority adds the authority to what is sent in handshakes, so that somebody who knows its
// fingerprint alone can check it; see Pinned.
func sendAuthority(pair *tls.Certificate, authorities []*x509.Certificate) {
	for _, authority := range authorities {
		if len(pair.Certificate) == 1 && pair.Leaf.CheckSignatureFrom(authority) == nil {
			pair.Certificate = append(pair.Certificate, authority.Raw)
		}
	}
}

func readBundle(path string) ([]*x509.Certificate, error) {
	content, err := readPEM(path, false)
	if err != nil {
		return nil, err
	}
	found, err := parseBundle(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

// parseBundle takes every certificate of a bundle or none: half a bundle would refuse peers for no
// visible reason.
func parseBundle(content []byte) (found []*x509.Certificate, err error) {
	for content = bytes.TrimSpace(content); len(content) > 0; content = bytes.TrimSpace(content) {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("does not hold certificates alone")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found = append(found, certificate)
	}
	if len(found) == 0 {
		return nil, errors.New("is empty")
	}
	return found, nil
}

func poolOf(certificates []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, certificate := range certificates {
		pool.AddCert(certificate)
	}
	return pool
}

// present gives what the files hold now, or held when they could last be used.
func (c *Credentials) present() loaded { return c.value.Get() }

// Server makes the configuration of a listener: TLS 1.3, a client certificate that one of the
// authorities signed. With optional a client may come without one, and has to show something else.
// Who the client is, auth says.
func (c *Credentials) Server(optional bool) *tls.Config {
	demand := tls.RequireAndVerifyClientCert
	if optional {
		demand = tls.VerifyClientCertIfGiven
	}
	config := c.base()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := c.present()
		config := c.base()
		config.Certificates = []tls.Certificate{*now.certificate}
		config.ClientCAs, config.ClientAuth = now.authorities, demand
		config.SessionTicketsDisabled = true // a resumed session would trust authorities that are retired
		return config, nil
	}
	return config
}

// OfWorker makes the configuration of a connection to a worker. It is known by the id in its
// certificate, whatever its address.
func (c *Credentials) OfWorker(id string) *tls.Config {
	return c.client("", func(party Party) bool { return party == Party{RoleWorker, id} })
}

// OfHost makes the configuration of a connection to a worker that is known by a host name in its
// certificate, as other authorities than stacyvm's give it. A certificate that names a party of
// stacyvm must be the worker's all the same.
func (c *Credentials) OfHost(host, id string) *tls.Config {
	return c.client(host, func(party Party) bool { return party == Party{} || party == Party{RoleWorker, id} })
}

// Hosts are the names and addresses in the party's own certificate.
func (c *Credentials) Hosts() []string {
	leaf := c.present().certificate.Leaf
	if leaf == nil {
		return nil
	}
	hosts := slices.Clone(leaf.DNSNames)
	for _, address := range leaf.IPAddresses {
		hosts = append(hosts, address.String())
	}
	return hosts
}

// Expires is when the party's own certificate ends; zero without one.
func (c *Credentials) Expires() time.Time {
	if leaf := c.present().certificate.Leaf; leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}

// OfServer makes the configuration of a connection to a control plane, whose certificate has to
// name the host or address. A worker's certificate is never accepted for one.
func (c *Credentials) OfServer(host string) *tls.Config {
	return c.client(host, func(party Party) bool { return party.Role == RoleServer })
}

func (c *Credentials) client(host string, right func(Party) bool) *tls.Config {
	config := c.base()
	config.ServerName = host
	config.InsecureSkipVerify = true // VerifyConnection verifies instead, with the authorities of this moment
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.present().certificate, nil }
	config.VerifyConnection = func(state tls.ConnectionState) error { return c.verify(state.PeerCertificates, host, right) }
	return config
}

// verify demands a chain to an authority, the use, the name and the role. An empty host asks for
// no host name.
func (c *Credentials) verify(chain []*x509.Certificate, host string, right func(Party) bool) error {
	if len(chain) == 0 {
		return errors.New("the other side has no certificate")
	}
	between := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		between.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		DNSName: host, Roots: c.present().authorities, Intermediates: between, CurrentTime: c.clock(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return err
	}
	party, err := PartyOf(chain[0])
	if err == nil && !right(party) {
		err = fmt.Errorf("the other side is %s and not who was called", party.URI())
	}
	return err
}

func (c *Credentials) base() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Time: c.clock, NextProtos: []string{"h2", "http/1.1"}}
}
