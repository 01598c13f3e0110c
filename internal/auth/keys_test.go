package auth_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/auth"
)

func TestIdentify(t *testing.T) {
	const client, admin = "the client's key", "the admin's key"
	both, clientOnly := auth.NewKeys(client, admin, true), auth.NewKeys(client, "", true)
	for _, c := range []struct {
		name             string
		keys             auth.Keys
		apiKey, adminKey string
		ok               bool
		admin            bool // has the admin's scopes
		credential       string
	}{
		{"open", auth.NewKeys("", "", true), "", "", true, true, ""},
		{"zero value", auth.Keys{}, "anything", "", true, true, ""},
		{"none given", both, "", "", false, false, ""},
		{"wrong", both, "x", "x", false, false, ""},
		{"prefix", both, client[:5], "", false, false, ""},
		{"client", both, client, "", true, false, "client"},
		{"client as admin", both, "", client, false, false, ""},
		{"client beside a wrong admin key", both, client, "x", true, false, "client"},
		{"admin", both, "", admin, true, true, "admin"},
		{"admin as client", both, admin, "", true, true, "admin"},
		{"admin beside a wrong client key", both, "x", admin, true, true, "admin"},
		{"fallback", clientOnly, client, "", true, true, "client"},
		{"no fallback", auth.NewKeys(client, "", false), client, "", true, false, "client"},
		{"no admin key is not an empty one", clientOnly, "", "", false, false, ""},
		{"admin key alone asks too", auth.NewKeys("", admin, true), "", "", false, false, ""},
	} {
		identity, ok := c.keys.Identify(c.apiKey, c.adminKey)
		p := identity.Principal("ada", "ours")
		if ok != c.ok || p.May("admin:x") != c.admin || identity.Credential != c.credential || p.May("api:exec") != c.ok {
			t.Errorf("%s: ok %v, %+v", c.name, ok, p)
		}
		if ok && (p.Subject != "ada" || p.Tenant != "ours") {
			t.Errorf("%s: principal %+v", c.name, p)
		}
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	const secret = "a key that nobody may read"
	if text := fmt.Sprintf("%v %+v %#v", auth.NewKeys(secret, secret, true), auth.NewKeys(secret, secret, true), auth.NewKeys(secret, secret, true)); strings.Contains(text, secret) {
		t.Errorf("printed %s", text)
	}
}
