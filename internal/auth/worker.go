package auth

import (
	"regexp"
	"slices"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// WorkerAudience says who may be shown a worker credential. One credential has one.
type WorkerAudience string

const (
	// AudienceControlPlane is of what a worker shows to a control plane.
	AudienceControlPlane WorkerAudience = "worker:control-plane"
	// AudienceRPC is of what a control plane shows to a worker.
	AudienceRPC WorkerAudience = "worker:rpc"
)

// Valid reports whether it is one of the two.
func (a WorkerAudience) Valid() bool { return a == AudienceControlPlane || a == AudienceRPC }

// WorkerMethod says by which kind of credential a worker was identified.
type WorkerMethod string

const (
	// MethodShared is the one static token of all workers.
	MethodShared WorkerMethod = "shared"
	// MethodStatic is a static token of this worker alone.
	MethodStatic WorkerMethod = "static"
	// MethodSigned is a stacyvm-worker-v1 token, signed with a secret that both sides know.
	MethodSigned WorkerMethod = "signed"
	// MethodJWT is a token signed with an Ed25519 key, of which the verifying side needs the
	// public half only.
	MethodJWT WorkerMethod = "jwt"
	// MethodCertificate is the certificate of a TLS connection.
	MethodCertificate WorkerMethod = "mtls"
)

// WorkerIdentity is what a worker credential stands for.
type WorkerIdentity struct {
	// WorkerID is the worker that the credential serves: with AudienceControlPlane the caller
	// itself, with AudienceRPC the one that is called.
	WorkerID stacyvm.WorkerID
	Audience WorkerAudience
	Scopes   []string // of the eight; none: may do nothing
	Method   WorkerMethod
	// TokenID is the id that revokes it: a signed token's jti, a certificate's serial number in
	// hex; "" of a static token.
	TokenID string
}

// Allow gives nil when the identity holds the scope, else a CodeForbidden error.
func (i WorkerIdentity) Allow(scope string) error {
	if slices.Contains(i.Scopes, scope) {
		return nil
	}
	return stacyvm.Errorf(stacyvm.CodeForbidden, "the worker credential does not have the scope %s", scope)
}

// Principal makes the caller for the context and the audit.
func (i WorkerIdentity) Principal() stacyvm.Principal {
	return stacyvm.Principal{Subject: "worker:" + string(i.WorkerID), Scopes: i.Scopes}
}

// grant gives the scopes that a list in a credential stands for. No list is all eight; what is
// none of the eight is dropped, so that a list without any of them grants nothing.
func grant(listed []string) []string {
	if len(listed) == 0 {
		return WorkerScopes()
	}
	granted := make([]string, 0, len(listed))
	for _, scope := range listed {
		if scope == leaseSpelling {
			scope = ScopeLease
		}
		if slices.Contains(WorkerScopes(), scope) && !slices.Contains(granted, scope) {
			granted = append(granted, scope)
		}
	}
	return granted
}

// tokenID is the form of tokens' ids.
var tokenID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// refused is the error of a credential that is not accepted. The reason holds nothing of the
// credential.
func refused(reason string) error {
	return stacyvm.Errorf(stacyvm.CodeUnauthenticated, "worker credential: %s", reason)
}
