package auth_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// TestScopes: each list of scopes × each scope that a method may ask for, for both kinds of signed
// tokens.
func TestScopes(t *testing.T) {
	v := accepting(t)
	type list struct {
		listed any
		grants []string
	}
	lists := []list{
		{nil, auth.WorkerScopes()}, {[]string{}, auth.WorkerScopes()}, {auth.WorkerScopes(), auth.WorkerScopes()},
		{[]string{"worker:leases"}, []string{"worker:lease"}}, {[]string{"worker:lease", "worker:leases"}, []string{"worker:lease"}},
		{[]string{"worker:exec", "admin:*", "api:exec"}, []string{"worker:exec"}},
		{[]string{""}, nil}, {[]string{"*"}, nil}, {[]string{"worker:*"}, nil}, {[]string{"admin:*", "read:*"}, nil}, {[]string{"Worker:exec", "worker:exec ", "exec", "worker:", "worker:leasess"}, nil},
	}
	for _, scope := range auth.WorkerScopes() {
		lists = append(lists, list{[]string{scope}, []string{scope}})
	}
	if len(auth.WorkerScopes()) != 8 {
		t.Fatalf("scopes %q", auth.WorkerScopes())
	}
	for _, l := range lists {
		claims := signedClaims().with("scopes", l.listed)
		for _, token := range []string{sign(secretA, claims), keyA.jwt(keyA.header(), asJWT(claims))} {
			identity, err := v.Verify(auth.WorkerCredential{WorkerID: "worker-a", Token: token})
			if err != nil {
				t.Fatal(err)
			}
			for _, asked := range append(auth.WorkerScopes(), "worker:leases", "worker:*", "admin:x", "read:sandboxes", "") {
				err, principal := identity.Allow(asked), identity.Principal()
				want := slices.Contains(l.grants, asked)
				if want != (err == nil) || want != principal.May(asked) || err != nil && stacyvm.CodeOf(err) != stacyvm.CodeForbidden {
					t.Errorf("%v: %q: %v, as principal %v", l.listed, asked, err, principal.May(asked))
				}
			}
		}
	}
	if err := (auth.WorkerIdentity{}).Allow(auth.ScopeStatus); stacyvm.CodeOf(err) != stacyvm.CodeForbidden {
		t.Errorf("the zero identity: %v", err)
	}
}

// TestIssue: what is issued is as the wire format says and is accepted; what is malformed is not
// issued.
func TestIssue(t *testing.T) {
	for name, key := range map[string]string{"signed": secretA, "jwt": keyA.privatePEM()} {
		issuer, err := auth.NewWorkerIssuer(auth.FixedSecret(key), atNoon)
		if err != nil {
			t.Fatal(err)
		}
		token, says, err := issuer.Issue(auth.WorkerTokenRequest{
			WorkerID: "worker-a", Scopes: []string{"worker:leases", "worker:exec"}, TTL: 15 * time.Minute, NotBefore: 20 * time.Second, TokenID: goodID,
		})
		if err != nil {
			t.Fatal(err)
		}
		want := auth.WorkerClaims{
			WorkerID: "worker-a", TokenID: goodID, Audience: auth.AudienceControlPlane, Scopes: []string{"worker:lease", "worker:exec"},
			IssuedAt: noon, NotBefore: noon.Add(20 * time.Second), ExpiresAt: noon.Add(15 * time.Minute),
		}
		read, err := auth.InspectWorkerToken(token)
		if diff := cmp.Diff(want, says) + cmp.Diff(want, read); diff != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, diff)
		}
		identity, err := accepting(t).Verify(auth.WorkerCredential{WorkerID: "worker-a", Token: token})
		if err != nil || identity.TokenID != goodID || len(identity.Scopes) != 2 {
			t.Errorf("%s: %+v, %v", name, identity, err)
		}
		first, says, _ := issuer.Issue(auth.WorkerTokenRequest{WorkerID: "w", Audience: auth.AudienceRPC})
		second, _, _ := issuer.Issue(auth.WorkerTokenRequest{WorkerID: "w", Audience: auth.AudienceRPC})
		if first == second || len(says.TokenID) != 32 || says.Audience != auth.AudienceRPC || says.ExpiresAt.Sub(says.IssuedAt) != auth.WorkerTokenDefault || says.Scopes != nil {
			t.Errorf("%s: by default %+v", name, says)
		}
	}
}

func TestIssueRefuses(t *testing.T) {
	issuer, err := auth.NewWorkerIssuer(auth.FixedSecret(secretA), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field string
		r     auth.WorkerTokenRequest
	}{
		{"worker_id", auth.WorkerTokenRequest{}}, {"worker_id", auth.WorkerTokenRequest{WorkerID: "a b"}}, {"worker_id", auth.WorkerTokenRequest{WorkerID: "../a"}},
		{"ttl", auth.WorkerTokenRequest{WorkerID: "w", TTL: auth.WorkerTokenMax + 1}}, {"ttl", auth.WorkerTokenRequest{WorkerID: "w", TTL: -1}}, {"ttl", auth.WorkerTokenRequest{WorkerID: "w", TTL: time.Millisecond}},
		{"audience", auth.WorkerTokenRequest{WorkerID: "w", Audience: "worker:all"}}, {"token_id", auth.WorkerTokenRequest{WorkerID: "w", TokenID: "a.b/c"}},
		{"scopes", auth.WorkerTokenRequest{WorkerID: "w", Scopes: []string{"admin:*"}}}, {"scopes", auth.WorkerTokenRequest{WorkerID: "w", Scopes: []string{"worker:exec", ""}}},
		{"not_before", auth.WorkerTokenRequest{WorkerID: "w", NotBefore: -1}}, {"not_before", auth.WorkerTokenRequest{WorkerID: "w", NotBefore: auth.WorkerTokenDefault}},
	} {
		token, _, err := issuer.Issue(c.r)
		if known, ok := errors.AsType[*stacyvm.Error](err); token != "" || !ok || known.Code != stacyvm.CodeInvalid || known.Field != c.field {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
	for name, key := range badSigningKeys() {
		if name != "public half" && auth.CheckSigningKey(key) == nil {
			t.Errorf("%s is taken for a key", name)
		}
		_, err := auth.NewWorkerIssuer(auth.FixedSecret(key), atNoon)
		if stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
			t.Errorf("%s: %v", name, err)
			continue
		}
		mustHide(t, name, err, "")
	}
}

// badSigningKeys are texts that cannot sign.
func badSigningKeys() map[string]string {
	return map[string]string{
		"none": "", "short": secretA[:31], "public half": keyA.publicPEM(), "two keys": keyA.privatePEM() + keyB.privatePEM(), "a key and text": keyA.privatePEM() + "x", "text and a key": "x\n" + keyA.privatePEM(),
		"half a key": keyA.privatePEM()[:60], "another PEM": encodePEM("CERTIFICATE", []byte(secretA), nil), "an empty key": encodePEM("PRIVATE KEY", nil, nil), "a public key under the wrong name": strings.ReplaceAll(keyA.publicPEM(), "PUBLIC", "PRIVATE"),
	}
}

// TestVerifierRefusesToBeMade: a verifier whose secrets could be mistaken for something else is
// not made.
func TestVerifierRefusesToBeMade(t *testing.T) {
	fixed := auth.FixedSecret
	configs := map[string]auth.WorkerVerifierConfig{
		"no audience":         {Audience: "x"},
		"signed shared token": {Shared: fixed(sign(secretA, signedClaims()))},
		"JWT as a token":      {Tokens: map[stacyvm.WorkerID]auth.Secret{"w": fixed(keyA.jwt(keyA.header(), jwtClaims()))}},
		"huge token":          {Shared: fixed(strings.Repeat("x", 5<<10))},
		"no own token":        {Tokens: map[stacyvm.WorkerID]auth.Secret{"w": nil}},
		"empty own token":     {Tokens: map[stacyvm.WorkerID]auth.Secret{"w": func() string { return "" }}},
		"bad worker":          {Tokens: map[stacyvm.WorkerID]auth.Secret{"a/b": fixed("x")}},
		"too many keys":       {RotationKeys: slices.Repeat([]auth.Secret{fixed(secretA)}, 17)},
	}
	for name, key := range badSigningKeys() {
		if name != "public half" {
			configs["rotation key: "+name] = auth.WorkerVerifierConfig{RotationKeys: []auth.Secret{fixed(key)}}
			configs["signing key: "+name] = auth.WorkerVerifierConfig{SigningKey: func() string { return key }}
		}
	}
	for name, config := range configs {
		if config.Audience == "" {
			config.Audience = auth.AudienceRPC
		}
		if _, err := auth.NewWorkerVerifier(config); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		} else {
			mustHide(t, name, err, "")
		}
	}
}

func TestConfigured(t *testing.T) {
	if newVerifier(t, auth.WorkerVerifierConfig{}).Configured() {
		t.Error("nothing is configured")
	}
	for name, config := range map[string]auth.WorkerVerifierConfig{
		"shared": {Shared: auth.FixedSecret("x")}, "own": {Tokens: map[stacyvm.WorkerID]auth.Secret{"w": auth.FixedSecret("x")}},
		"key": {SigningKey: auth.FixedSecret(secretA)}, "rotation": {RotationKeys: []auth.Secret{auth.FixedSecret(secretA)}}, "certificates": {Certificates: true},
	} {
		if !newVerifier(t, config).Configured() {
			t.Errorf("%s: is not configured", name)
		}
	}
}

// TestOwnTokenOverridesShared: for a worker with a token of its own the shared one is refused, and
// every token is its worker's.
func TestOwnTokenOverridesShared(t *testing.T) {
	v := newVerifier(t, auth.WorkerVerifierConfig{Shared: auth.FixedSecret("shared"), Tokens: map[stacyvm.WorkerID]auth.Secret{"a": auth.FixedSecret("a's"), "b": auth.FixedSecret("b's")}})
	for token, accepts := range map[string]string{"shared": "c d", "a's": "a", "b's": "b", "none": ""} {
		for _, worker := range []stacyvm.WorkerID{"a", "b", "c", "d"} {
			identity, err := v.Verify(auth.WorkerCredential{WorkerID: worker, Token: token})
			if want := slices.Contains(strings.Fields(accepts), string(worker)); want != (err == nil) || want != (identity.WorkerID == worker) {
				t.Errorf("%s as %s: %+v, %v", token, worker, identity, err)
			}
		}
	}
}

// TestCertificates: what a certificate names must fit, alone and beside a token.
func TestCertificates(t *testing.T) {
	const named = "spiffe://stacyvm/"
	authority := certificate(named + "worker/worker-a")
	authority.IsCA = true
	for _, c := range []struct {
		name         string
		certificate  *x509.Certificate
		alone, token bool // accepted from worker-a, by itself and beside a good token
	}{
		{"its own", certificate(named + "worker/worker-a"), true, true},
		{"none", nil, false, true},
		{"of somebody else's domain", certificate("spiffe://example.org/worker/worker-a"), false, true},
		{"without a name", certificate(), false, true},
		{"another worker's", certificate(named + "worker/worker-b"), false, false},
		{"a control plane's", certificate(named + "server/worker-a"), false, false},
		{"of two workers", certificate(named+"worker/worker-a", named+"worker/worker-b"), false, false},
		{"of a worker twice", certificate(named+"worker/worker-a", named+"worker/worker-a"), false, false},
		{"with an unknown role", certificate(named + "admin/worker-a"), false, false},
		{"with a longer path", certificate(named + "worker/worker-a/x"), false, false},
		{"with an empty id", certificate(named + "worker/"), false, false},
		{"with a query", certificate(named + "worker/worker-a?x=y"), false, false},
		{"with a fragment", certificate(named + "worker/worker-a#x"), false, false},
		{"with a port", certificate("spiffe://stacyvm:80/worker/worker-a"), false, false},
		{"with a user", certificate("spiffe://x@stacyvm/worker/worker-a"), false, false},
		{"in another spelling", certificate("SPIFFE://STACYVM/worker/worker-a"), false, false},
		{"with escapes", certificate(named + "worker/worker%2Da"), false, false},
		{"of an authority", authority, false, false},
	} {
		for _, allowed := range []bool{true, false} {
			v := newVerifier(t, auth.WorkerVerifierConfig{SigningKey: auth.FixedSecret(secretA), Certificates: allowed})
			identity, err := v.Verify(auth.WorkerCredential{WorkerID: "worker-a", Peer: c.certificate})
			if want := c.alone && allowed; want != (err == nil) || want && identity.Method != auth.MethodCertificate {
				t.Errorf("%s, alone, allowed %v: %+v, %v", c.name, allowed, identity, err)
			}
			identity, err = v.Verify(auth.WorkerCredential{WorkerID: "worker-a", Peer: c.certificate, Token: sign(secretA, signedClaims())})
			if c.token != (err == nil) || c.token && identity.Method != auth.MethodSigned {
				t.Errorf("%s, with a token: %+v, %v", c.name, identity, err)
			}
			_, err = v.Verify(auth.WorkerCredential{WorkerID: "worker-a", Peer: c.certificate, Token: sign(secretB, signedClaims())})
			mustRefuse(t, c.name+", with a bad token", err, auth.WorkerCredential{})
		}
	}
}

func TestPeerCertificateIsVerified(t *testing.T) {
	own := certificate("spiffe://stacyvm/worker/worker-a")
	for name, state := range map[string]*tls.ConnectionState{"no TLS": nil, "nothing": {}, "not verified": {PeerCertificates: []*x509.Certificate{own}}, "empty chain": {VerifiedChains: [][]*x509.Certificate{{}}}} {
		if auth.PeerCertificate(state) != nil {
			t.Errorf("%s: is taken for a proof", name)
		}
	}
	if auth.PeerCertificate(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{own}}}) != own {
		t.Error("the verified certificate is not found")
	}
}

// TestKeyFileRotates: a key that is replaced in its file is used without a restart, while others
// verify.
func TestKeyFileRotates(t *testing.T) {
	clock := &clock{now: noon}
	path := filepath.Join(t.TempDir(), "key")
	replaceFile(t, path, secretA, noon)
	file, err := auth.OpenSecretFile(path, auth.SecretFileOptions{Now: clock.read, Check: auth.CheckSigningKey})
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, auth.WorkerVerifierConfig{SigningKey: file.Text})
	issuer, err := auth.NewWorkerIssuer(file.Text, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	accepts := func(token string) bool {
		_, err := v.Verify(auth.WorkerCredential{WorkerID: "worker-a", Token: token})
		return err == nil
	}
	old, now := sign(secretA, signedClaims()), keyA.jwt(keyA.header(), jwtClaims())
	if !accepts(old) || accepts(now) {
		t.Fatal("the first key is not the one in use")
	}
	replaceFile(t, path, keyA.privatePEM(), noon.Add(time.Minute))
	if !accepts(old) {
		t.Error("the file is looked at more often than its interval")
	}
	clock.advance(auth.SecretLook)
	var verifying sync.WaitGroup
	for range 8 {
		verifying.Go(func() {
			if accepts(old) || !accepts(now) {
				t.Error("the new key is not the one in use")
			}
		})
	}
	verifying.Wait()
	if token, _, err := issuer.Issue(auth.WorkerTokenRequest{WorkerID: "worker-a"}); err != nil || !accepts(token) || strings.HasPrefix(token, "stacyvm-worker-") {
		t.Errorf("issued %v with the new key", err)
	}
	replaceFile(t, path, "too short", noon.Add(2*time.Minute))
	clock.advance(auth.SecretLook)
	if !accepts(now) {
		t.Error("a bad key drove out a good one")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	clock.advance(time.Hour)
	if !accepts(now) {
		t.Error("a missing file drove out a good key")
	}
}

func TestWorkerSecretsDoNotPrint(t *testing.T) {
	v := newVerifier(t, auth.WorkerVerifierConfig{Shared: auth.FixedSecret(secretC), SigningKey: auth.FixedSecret(secretA), Tokens: map[stacyvm.WorkerID]auth.Secret{"w": auth.FixedSecret(secretB)}, RotationKeys: auth.FixedSecrets([]string{secretB})})
	issuer, err := auth.NewWorkerIssuer(auth.FixedSecret(secretA), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []any{v, issuer} {
		text := fmt.Sprintf("%v %+v %#v", value, value, value)
		if strings.Contains(text, secretA) || strings.Contains(text, secretB) || strings.Contains(text, secretC) {
			t.Errorf("printed %s", text)
		}
	}
}
