package auth

import (
	"crypto/tls"
	"crypto/x509"
	"slices"

	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// PeerCertificate gives the certificate with which the other side of a connection proved itself,
// or nil: one that was sent and not verified proves nothing.
func PeerCertificate(state *tls.ConnectionState) *x509.Certificate {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return nil
	}
	return state.VerifiedChains[0][0]
}

// verifyPeer judges the connection's certificate: what it names must be the right party. One that
// names no party of stacyvm says nothing: it gives nil.
func (v *WorkerVerifier) verifyPeer(given WorkerCredential) (*WorkerIdentity, error) {
	if given.Peer == nil {
		return nil, nil
	}
	party, err := pki.PartyOf(given.Peer)
	if err != nil {
		return nil, refused("the certificate's name is malformed")
	}
	if party == (pki.Party{}) {
		return nil, nil
	}
	serial := pki.Serial(given.Peer)
	now := v.config.Now()
	switch {
	case v.config.Audience == AudienceControlPlane && party.Role != pki.RoleWorker,
		v.config.Audience == AudienceRPC && party.Role != pki.RoleServer:
		return nil, refused("the certificate is for another audience")
	case party.Role == pki.RoleWorker && stacyvm.WorkerID(party.Name) != given.WorkerID:
		return nil, refused("the certificate is another worker's")
	case now.Before(given.Peer.NotBefore) || now.After(given.Peer.NotAfter):
		return nil, refused("the certificate is not valid at this time") // connections outlive handshakes
	case slices.Contains(v.config.Revoked, serial):
		return nil, refused("the certificate is revoked")
	}
	return &WorkerIdentity{
		WorkerID: given.WorkerID,
		Audience: v.config.Audience,
		Scopes:   WorkerScopes(),
		Method:   MethodCertificate,
		TokenID:  serial,
	}, nil
}
