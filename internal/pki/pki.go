// Package pki is a cluster's own certificate authority and the TLS of both sides: control planes
// and workers prove to each other by certificates who they are. Certificates name parties, not
// machines: a worker is known by its id wherever it runs. The package knows nothing of tokens,
// scopes or HTTP.
//
// A directory holds
//
//	ca.pem            the authority: certificate and key (mode 0600)
//	ca-bundle.pem     what everybody trusts; copy it to every machine
//	ca-former-*.pem   authorities that were replaced, certificate and key
//	worker-ID.pem     a worker's certificate and key (mode 0600); server-NAME.pem a control plane's
//
// A certificate stands in one file with its key, so that a pair is whole or not there.
package pki

import (
	"crypto/x509"
	"encoding/hex"
	"net/url"
	"regexp"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Role is what a party of the cluster is.
type Role string

const (
	// RoleWorker is a worker; its name is the worker's id.
	RoleWorker Role = "worker"
	// RoleServer is a control plane; its name is the first of its host names.
	RoleServer Role = "server"
)

// Party is who a certificate speaks for. The zero Party is none.
type Party struct {
	Role Role
	Name string
}

// domain is the trust domain in the names. It is one for all clusters: what sets them apart is
// their authority.
const domain = "spiffe://stacyvm/"

var partyName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,253}$`)

// URI is the party's name in a certificate, such as spiffe://stacyvm/worker/ID.
func (p Party) URI() string { return domain + string(p.Role) + "/" + p.Name }

// PartyOf reads the party from a certificate's URI names; a certificate without one in stacyvm's
// domain gives the zero Party. It returns a CodeInvalid error when there is more than one, when it
// is not spelled exactly as URI does, or on an authority.
func PartyOf(certificate *x509.Certificate) (party Party, err error) {
	for _, uri := range certificate.URIs {
		if !strings.EqualFold(uri.Scheme, "spiffe") || !strings.EqualFold(uri.Hostname(), "stacyvm") {
			continue
		}
		named, ok := parseParty(uri)
		if !ok || party != (Party{}) || certificate.IsCA {
			return Party{}, stacyvm.Invalid("certificate", "does not name one party")
		}
		party = named
	}
	return party, nil
}

func parseParty(uri *url.URL) (Party, bool) {
	role, name, _ := strings.Cut(strings.TrimPrefix(uri.Path, "/"), "/")
	party := Party{Role: Role(role), Name: name}
	known := party.Role == RoleWorker || party.Role == RoleServer
	return party, known && partyName.MatchString(name) && uri.String() == party.URI()
}

// Serial is a certificate's serial number as 32 or more hex digits.
func Serial(certificate *x509.Certificate) string {
	digits := hex.EncodeToString(certificate.SerialNumber.Bytes())
	return strings.Repeat("0", max(0, 32-len(digits))) + digits
}
