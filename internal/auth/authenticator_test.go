package auth_test

import (
	"testing"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// fixed is an authenticator that always says the same.
type fixed struct {
	kind auth.Kind
	name string
	err  error
}

func (f fixed) Kind() auth.Kind { return f.kind }

func (f fixed) Authenticate(auth.Shown) (auth.Identity, error) {
	return auth.Identity{Credential: f.name}, f.err
}

// TestAuthenticators are asked in their order. What is not configured hides no other's refusal.
func TestAuthenticators(t *testing.T) {
	refuse := func(code stacyvm.Code) error { return stacyvm.Errorf(code, "no") }
	yes := func(name string) fixed { return fixed{kind: auth.KindClient, name: name} }
	no := fixed{kind: auth.KindClient, err: refuse(stacyvm.CodeUnauthenticated)}
	off := fixed{kind: auth.KindClient, err: refuse(stacyvm.CodeUnavailable)}
	other := fixed{kind: auth.KindWorker, name: "worker"}
	for name, c := range map[string]struct {
		list auth.Authenticators
		who  string
		code stacyvm.Code
	}{
		"none":                {nil, "", stacyvm.CodeUnavailable},
		"of another kind":     {auth.Authenticators{other}, "", stacyvm.CodeUnavailable},
		"the first":           {auth.Authenticators{other, yes("a"), yes("b")}, "a", ""},
		"the next":            {auth.Authenticators{no, off, yes("b")}, "b", ""},
		"refused":             {auth.Authenticators{no, other}, "", stacyvm.CodeUnauthenticated},
		"refused, then off":   {auth.Authenticators{no, off}, "", stacyvm.CodeUnauthenticated},
		"off, then refused":   {auth.Authenticators{off, no}, "", stacyvm.CodeUnauthenticated},
		"nothing is accepted": {auth.Authenticators{off, off}, "", stacyvm.CodeUnavailable},
	} {
		got, err := c.list.Authenticate(auth.KindClient, auth.Shown{})
		if got.Credential != c.who || stacyvm.CodeOf(err) != c.code {
			t.Errorf("%s: %q, %v", name, got.Credential, err)
		}
	}
}
