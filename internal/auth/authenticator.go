package auth

import (
	"crypto/x509"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Kind is a kind of caller. Each has credentials of its own, and none counts where another is
// asked for.
type Kind string

const (
	// KindClient is of users and administrators.
	KindClient Kind = "client"
	// KindWorker is of worker processes.
	KindWorker Kind = "worker"
)

// Shown is what a request shows of who sent it. A transport fills in what it has, each value of
// each header, and judges nothing.
type Shown struct {
	API, Admin          []string          // keys of clients and administrators
	Authorization       []string          // in the form of HTTP, "Bearer TOKEN"; other schemes are a proxy's
	Worker, WorkerToken []string          // a worker's id, as claimed, and its token where it is not in Authorization
	Peer                *x509.Certificate // the connection's, verified: see PeerCertificate. nil: none
}

// bearers gives the tokens of Authorization. The name of a scheme has no case.
func (s Shown) bearers() (tokens []string) {
	for _, value := range s.Authorization {
		if scheme, token, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Bearer") {
			tokens = append(tokens, strings.TrimSpace(token))
		}
	}
	return tokens
}

// Authenticator judges one form of credential of one kind of caller. It is safe for concurrent
// use.
type Authenticator interface {
	Kind() Kind
	// Authenticate says who calls. It returns CodeUnauthenticated when the request does not show
	// its form of credential, or shows anything that is wrong beside it, and CodeUnavailable when
	// there is none that it could accept.
	Authenticate(shown Shown) (Identity, error)
}

// Authenticators are asked in turn: the first that accepts a request tells who sent it.
type Authenticators []Authenticator

// Authenticate says who calls where one kind of caller is asked for. Otherwise it returns the error
// of the last authenticator of this kind that could have accepted something, and CodeUnavailable
// when there is none.
func (list Authenticators) Authenticate(kind Kind, shown Shown) (Identity, error) {
	err := errNotConfigured(kind)
	for _, one := range list {
		if one.Kind() != kind {
			continue
		}
		identity, refused := one.Authenticate(shown)
		if refused == nil {
			return identity, nil
		}
		if stacyvm.CodeOf(refused) != stacyvm.CodeUnavailable || stacyvm.CodeOf(err) == stacyvm.CodeUnavailable {
			err = refused
		}
	}
	return Identity{}, err
}

func errNotConfigured(kind Kind) error {
	return stacyvm.Errorf(stacyvm.CodeUnavailable, "no credential of %ss is configured here", kind)
}

// Identity is what a credential stands for.
type Identity struct {
	// Principal is the caller as the credential says. An empty subject or tenant is one that the
	// credential does not name.
	Principal stacyvm.Principal
	// Credential names the credential for rate limits: "client", "admin", or "" when none was
	// needed.
	Credential string
	// Worker is what a worker's credential tells beside; zero for others.
	Worker WorkerIdentity
}

// As gives the caller that says a subject and a tenant of itself, which are names (see CheckName).
// They narrow what the credential leaves open and never change what it names: that is
// CodeForbidden.
func (i Identity) As(subject, tenant string) (stacyvm.Principal, error) {
	p := i.Principal
	for _, part := range []struct {
		named *string
		says  string
	}{{&p.Subject, subject}, {&p.Tenant, tenant}} {
		switch {
		case part.says == "" || part.says == *part.named:
		case *part.named == "":
			*part.named = part.says
		default:
			return stacyvm.Principal{}, stacyvm.Errorf(
				stacyvm.CodeForbidden,
				"the credential is of another user or tenant",
			)
		}
	}
	return p, nil
}

// maxName bounds an owner's or tenant's name, in characters.
const maxName = 128

// CheckName says why a text is no name of an owner or a tenant, as a CodeInvalid error of the
// field. None is one.
func CheckName(field, name string) error {
	bad := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == '/' || r == '\\' }
	if utf8.ValidString(name) && utf8.RuneCountInString(name) <= maxName && !strings.ContainsFunc(name, bad) {
		return nil
	}
	return stacyvm.Invalid(
		field,
		"must have at most %d characters and no white space, control character, / or \\",
		maxName,
	)
}
