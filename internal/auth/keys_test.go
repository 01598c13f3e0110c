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
		{"client beside a wrong admin key", both, client, "x", false, false, ""},
		{"client beside the admin key", both, client, admin, true, true, "admin"},
		{"client key twice", both, client, client, false, false, ""},
		{"client beside an admin key that nobody set", clientOnly, client, "x", false, false, ""},
		{"admin", both, "", admin, true, true, "admin"},
		{"admin as client", both, admin, "", true, true, "admin"},
		{"admin beside a wrong client key", both, "x", admin, false, false, ""},
		{"fallback", clientOnly, client, "", true, true, "client"},
		{"no fallback", auth.NewKeys(client, "", false), client, "", true, false, "client"},
		{"no admin key is not an empty one", clientOnly, "", "", false, false, ""},
		{"admin key alone asks too", auth.NewKeys("", admin, true), "", "", false, false, ""},
	} {
		identity, err := c.keys.Authenticate(auth.Shown{API: []string{c.apiKey}, Admin: []string{c.adminKey}})
		ok := err == nil
		p, err := identity.As("ada", "ours")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if ok != c.ok || p.May("admin:x") != c.admin || identity.Credential != c.credential || p.May("api:exec") != c.ok {
			t.Errorf("%s: ok %v, %+v", c.name, ok, p)
		}
		if ok && (p.Subject != "ada" || p.Tenant != "ours") {
			t.Errorf("%s: principal %+v", c.name, p)
		}
	}
}

// TestIdentifyRefusesWhatIsShownTwice: two values of one header are no credential, whatever they
// are, and a wrong bearer beside a good key is wrong.
func TestIdentifyRefusesWhatIsShownTwice(t *testing.T) {
	const client, admin = "the client's key", "the admin's key"
	keys := auth.NewKeys(client, admin, false)
	for name, c := range map[string]struct {
		shown auth.Shown
		ok    bool
	}{
		"one":                          {auth.Shown{API: []string{client}}, true},
		"two":                          {auth.Shown{API: []string{client, client}}, false},
		"one and a wrong one":          {auth.Shown{API: []string{client, "x"}}, false},
		"one and an empty one":         {auth.Shown{API: []string{client, ""}}, false},
		"two admin keys":               {auth.Shown{Admin: []string{admin, admin}}, false},
		"a key and a wrong bearer":     {auth.Shown{API: []string{client}, Authorization: []string{"Bearer x"}}, false},
		"a key and itself as bearer":   {auth.Shown{API: []string{client}, Authorization: []string{"Bearer " + client}}, true},
		"a key and two bearers":        {auth.Shown{API: []string{client}, Authorization: []string{"Bearer " + client, "Bearer " + client}}, false},
		"a bearer alone":               {auth.Shown{Authorization: []string{"Bearer " + client}}, false},
		"an admin key, a wrong bearer": {auth.Shown{Admin: []string{admin}, Authorization: []string{"Bearer x"}}, false},
	} {
		if _, err := keys.Authenticate(c.shown); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (auth.Keys{}).Authenticate(auth.Shown{API: []string{"a", "b"}}); err == nil {
		t.Error("a server without keys takes two")
	}
	if !auth.SameKeys(client, client) || auth.SameKeys(client, admin) || auth.SameKeys("", "") {
		t.Error("SameKeys")
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	const secret = "a key that nobody may read"
	if text := fmt.Sprintf("%v %+v %#v", auth.NewKeys(secret, secret, true), auth.NewKeys(secret, secret, true), auth.NewKeys(secret, secret, true)); strings.Contains(text, secret) {
		t.Errorf("printed %s", text)
	}
}
