package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Fingerprint names an authority: the SHA-256 of its certificate's DER form, in hex.
func Fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// Pinned makes the configuration of the first connection to a control plane, when the caller has
// no bundle yet: the control plane sends its authority along, which must have this fingerprint and
// have signed a control plane's certificate for the host.
func Pinned(fingerprint, host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, ServerName: host,
		InsecureSkipVerify: true, // VerifyConnection verifies instead, against the fingerprint
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyPinned(state.PeerCertificates, strings.ToLower(fingerprint), host, time.Now())
		},
	}
}

func verifyPinned(chain []*x509.Certificate, fingerprint, host string, now time.Time) error {
	for _, authority := range chain {
		if !authority.IsCA || Fingerprint(authority) != fingerprint {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(authority)
		_, err := chain[0].Verify(
			x509.VerifyOptions{
				DNSName:     host,
				Roots:       roots,
				CurrentTime: now,
				KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			},
		)
		if err != nil {
			return err
		}
		party, err := PartyOf(chain[0])
		if err == nil && party.Role != RoleServer {
			err = errors.New("the other side is not a control plane")
		}
		return err
	}
	return fmt.Errorf("the other side's authority does not have the fingerprint %.64s", fingerprint)
}
