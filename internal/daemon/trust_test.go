package daemon

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	sharedToken = "shared-0123456789abcdef0123456789abcdef"
	ownToken    = "own-0123456789abcdef0123456789abcdef"
	hmacKey     = "hmac-0123456789abcdef0123456789abcdef"
)

var quiet = slog.New(slog.DiscardHandler)

// ed25519Key makes a signing key and its public half, as PEM.
func ed25519Key(t *testing.T) (private, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))
	open := must[[]byte](t)(x509.MarshalPKIXPublicKey(pub))
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: open}))
}

// pkiDir makes an authority with certificates of a control plane and of the worker a.
func pkiDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	now := time.Now()
	if err := pki.Init(dir, false, now); err != nil {
		t.Fatal(err)
	}
	must[pki.Issued](t)(pki.Issue(dir, pki.Request{Server: []string{"localhost", "127.0.0.1", "plane.test"}}, now))
	must[pki.Issued](t)(pki.Issue(dir, pki.Request{Worker: "a"}, now))
	return dir
}

func at(url string) stacyvm.Worker {
	return stacyvm.Worker{ID: "a", Capacity: stacyvm.Capacity{RPCURL: url}}
}

// TestTokensTowardWorkers: which credential a worker is called with, and that the worker takes it.
func TestTokensTowardWorkers(t *testing.T) {
	private, public := ed25519Key(t)
	tests := []struct {
		name   string
		auth   config.Auth
		method auth.WorkerMethod // "": no token
		worker auth.WorkerVerifierConfig
	}{
		{"shared", config.Auth{WorkerToken: sharedToken}, auth.MethodShared, auth.WorkerVerifierConfig{Shared: auth.FixedSecret(sharedToken)}},
		{"its own before the shared one", config.Auth{WorkerToken: sharedToken, WorkerTokens: map[string]string{"a": ownToken}}, auth.MethodStatic,
			auth.WorkerVerifierConfig{Tokens: map[stacyvm.WorkerID]auth.Secret{"a": auth.FixedSecret(ownToken)}}},
		{"another's own", config.Auth{WorkerTokens: map[string]string{"b": ownToken}}, "", auth.WorkerVerifierConfig{}},
		{"HMAC before static ones", config.Auth{WorkerSigningKey: hmacKey, WorkerTokens: map[string]string{"a": ownToken}}, auth.MethodSigned,
			auth.WorkerVerifierConfig{SigningKey: auth.FixedSecret(hmacKey)}},
		{"Ed25519", config.Auth{WorkerSigningKey: private}, auth.MethodJWT, auth.WorkerVerifierConfig{SigningKey: auth.FixedSecret(public)}},
		{"none", config.Auth{}, "", auth.WorkerVerifierConfig{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trust := must[*trust](t)(newTrust(config.Config{Auth: tt.auth}, quiet))
			give := trust.token("a")
			if (give == nil) != (tt.method == "") {
				t.Fatalf("there is a token: %v", give != nil)
			}
			if give == nil {
				return
			}
			tt.worker.Audience, tt.worker.Worker = auth.AudienceRPC, "a"
			verifier := must[*auth.WorkerVerifier](t)(auth.NewWorkerVerifier(tt.worker))
			token := must[string](t)(give(t.Context()))
			identity, err := verifier.Verify(auth.WorkerCredential{WorkerID: "a", Token: token})
			if err != nil || identity.Method != tt.method {
				t.Fatalf("the worker says %+v, %v", identity, err)
			}
			for _, scope := range rpcScopes {
				if err := identity.Allow(scope); err != nil {
					t.Error(err)
				}
			}
			if tt.method == auth.MethodSigned || tt.method == auth.MethodJWT {
				wantCode(t, identity.Allow(auth.ScopeLease), stacyvm.CodeForbidden) // what it cannot need
			}
		})
	}
}

// TestTokensAreReissued at half of their life, so that none expires on its way.
func TestTokensAreReissued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trust := must[*trust](t)(newTrust(config.Config{Auth: config.Auth{WorkerSigningKey: hmacKey}}, quiet))
		verifier := must[*auth.WorkerVerifier](t)(auth.NewWorkerVerifier(auth.WorkerVerifierConfig{Audience: auth.AudienceRPC, SigningKey: auth.FixedSecret(hmacKey)}))
		give, tokens := trust.token("a"), map[string]bool{}
		for range 100 {
			token := must[string](t)(give(context.Background()))
			tokens[token] = true
			time.Sleep(10 * time.Second)
			must[auth.WorkerIdentity](t)(verifier.Verify(auth.WorkerCredential{WorkerID: "a", Token: token}))
		}
		if len(tokens) != 7 { // 1,000 s by 150 s
			t.Errorf("%d tokens in 1,000 s", len(tokens))
		}
	})
}

// TestSecretFilesTowardWorkers are read again while the server runs.
func TestSecretFilesTowardWorkers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(sharedToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	trust := must[*trust](t)(newTrust(config.Config{Auth: config.Auth{WorkerToken: sharedToken, WorkerTokenFile: path}}, quiet))
	give := trust.token("a")
	if token := must[string](t)(give(t.Context())); token != sharedToken {
		t.Errorf("it gives %q", token)
	}
	if err := os.WriteFile(path, []byte(ownToken), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); must[string](t)(give(t.Context())) != ownToken; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the changed file is not read")
		}
	}
}

// TestAddressesOfWorkers: with certificates nothing goes out in plain text, and without none are pretended.
func TestAddressesOfWorkers(t *testing.T) {
	dir := pkiDir(t)
	bundle := filepath.Join(dir, "ca-bundle.pem")
	tests := []struct {
		name   string
		config config.Config
		url    string
		code   stacyvm.Code
	}{
		{"plain text without certificates", config.Config{}, "http://10.0.0.7:7424", ""},
		{"TLS without certificates", config.Config{}, "https://10.0.0.7:7424", stacyvm.CodeInvalid},
		{"no address", config.Config{}, "ftp://x", stacyvm.CodeInvalid},
		{"TLS with a pki directory", config.Config{PKI: config.PKI{Dir: dir}}, "https://10.0.0.7:7424", ""},
		{"plain text with a pki directory", config.Config{PKI: config.PKI{Dir: dir}}, "http://10.0.0.7:7424", stacyvm.CodeUnavailable},
		{"plain text with single files", config.Config{Worker: config.Worker{RPCTLS: config.RPCTLS{Enabled: true, CAFile: bundle}}}, "http://10.0.0.7:7424", stacyvm.CodeUnavailable},
		{"TLS with single files", config.Config{Worker: config.Worker{RPCTLS: config.RPCTLS{Enabled: true, CAFile: bundle, ServerName: "w.test"}}}, "https://10.0.0.7:7424", ""},
		{"files that are off", config.Config{Worker: config.Worker{RPCTLS: config.RPCTLS{CAFile: bundle}}}, "http://10.0.0.7:7424", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trust := must[*trust](t)(newTrust(tt.config, quiet))
			client, err := trust.dial(at(tt.url), nil)
			wantCode(t, err, tt.code)
			if err == nil {
				if err := client.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestTrustRefuses what would leave a gap.
func TestTrustRefuses(t *testing.T) {
	dir, empty := pkiDir(t), t.TempDir()
	open := filepath.Join(empty, "open")
	if err := os.WriteFile(open, []byte(sharedToken), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]config.Config{
		"a pki directory without a certificate":       {PKI: config.PKI{Dir: empty}},
		"TLS toward workers without their authority":  {Worker: config.Worker{RPCTLS: config.RPCTLS{Enabled: true}}},
		"a certificate that is not there":             {Worker: config.Worker{RPCTLS: config.RPCTLS{Enabled: true, CAFile: filepath.Join(dir, "ca-bundle.pem"), ClientCertFile: filepath.Join(empty, "x")}}},
		"a short signing key":                         {Auth: config.Auth{WorkerSigningKey: "short"}},
		"a token that everybody can read":             {Auth: config.Auth{WorkerToken: sharedToken, WorkerTokenFile: open}},
		"a static token that looks like a signed one": {Auth: config.Auth{WorkerToken: "stacyvm-worker-v1.x"}},
	} {
		if _, err := newTrust(c, quiet); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), sharedToken) {
			t.Errorf("%s: the error holds the secret", name)
		}
	}
}

// TestPublicKeyAlone: with certificates a control plane may verify tokens that it cannot make.
func TestPublicKeyAlone(t *testing.T) {
	private, public := ed25519Key(t)
	if _, err := newTrust(config.Config{Auth: config.Auth{WorkerSigningKey: public}}, quiet); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		t.Errorf("without certificates: %v", err)
	}
	trust := must[*trust](t)(newTrust(config.Config{PKI: config.PKI{Dir: pkiDir(t)}, Auth: config.Auth{WorkerSigningKey: public}}, quiet))
	if trust.token("a") != nil {
		t.Error("a public key signs")
	}
	token, _, err := must[*auth.WorkerIssuer](t)(auth.NewWorkerIssuer(auth.FixedSecret(private), nil)).Issue(auth.WorkerTokenRequest{WorkerID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	must[auth.WorkerIdentity](t)(trust.workers.Verify(auth.WorkerCredential{WorkerID: "a", Token: token}))
}

// TestDoctorOfACluster tells of certificates that end soon, and of credentials that cannot be used.
func TestDoctorOfACluster(t *testing.T) {
	dir := pkiDir(t)
	c := config.Config{PKI: config.PKI{Dir: dir}}
	now := time.Now()
	for in, want := range map[time.Duration]config.Level{0: config.Pass, 80 * 24 * time.Hour: config.Warn, 91 * 24 * time.Hour: config.Fail} {
		if got := level(doctorTrust(c, now.Add(in)), "pki.dir"); got != want {
			t.Errorf("in %s: %s", in, got)
		}
	}
	c.Auth.WorkerSigningKey = "short"
	if got := level(doctorTrust(c, now), "cluster.credentials"); got != config.Fail {
		t.Errorf("a short key: %s", got)
	}
	if checks := doctorTrust(config.Config{}, now); len(checks) != 0 {
		t.Errorf("one machine alone: %+v", checks)
	}
	if err := os.Remove(filepath.Join(dir, "server-localhost.pem")); err != nil {
		t.Fatal(err)
	}
	if checks := doctorTrust(config.Config{PKI: config.PKI{Dir: dir}}, now); len(checks) != 0 {
		t.Errorf("a worker's machine: %+v", checks)
	}
	alone := planeConfig(t)
	if got := level(Doctor(t.Context(), alone, false), "engines"); got != config.Pass {
		t.Errorf("a control plane alone: %s", got)
	}
}
