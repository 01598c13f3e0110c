package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const hmacKey = "hmac-0123456789abcdef0123456789abcdef"

func at(url string) stacyvm.Worker {
	return stacyvm.Worker{ID: "a", Capacity: stacyvm.Capacity{RPCURL: url}}
}

// TestTokensTowardWorkers: which credential a worker is called with, and that the worker takes it.
func TestTokensTowardWorkers(t *testing.T) {
	private, public := daemontest.SigningKey(t)
	tests := []struct {
		name   string
		auth   config.Auth
		method auth.WorkerMethod // "": no token
		worker auth.WorkerVerifierConfig
	}{
		{"shared", config.Auth{WorkerToken: daemontest.SharedToken}, auth.MethodShared, auth.WorkerVerifierConfig{Shared: auth.FixedSecret(daemontest.SharedToken)}},
		{"its own before the shared one", config.Auth{WorkerToken: daemontest.SharedToken, WorkerTokens: map[string]string{"a": daemontest.OwnToken}}, auth.MethodStatic,
			auth.WorkerVerifierConfig{Tokens: map[stacyvm.WorkerID]auth.Secret{"a": auth.FixedSecret(daemontest.OwnToken)}}},
		{"another's own", config.Auth{WorkerTokens: map[string]string{"b": daemontest.OwnToken}}, "", auth.WorkerVerifierConfig{}},
		{"HMAC before static ones", config.Auth{WorkerSigningKey: hmacKey, WorkerTokens: map[string]string{"a": daemontest.OwnToken}}, auth.MethodSigned,
			auth.WorkerVerifierConfig{SigningKey: auth.FixedSecret(hmacKey)}},
		{"Ed25519", config.Auth{WorkerSigningKey: private}, auth.MethodJWT, auth.WorkerVerifierConfig{SigningKey: auth.FixedSecret(public)}},
		{"none", config.Auth{}, "", auth.WorkerVerifierConfig{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trust := must[*trust](t)(newTrust(config.Config{Auth: tt.auth}, daemontest.Quiet))
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
			for _, scope := range auth.RPCScopes() {
				if err := identity.Allow(scope); err != nil {
					t.Error(err)
				}
			}
			if tt.method == auth.MethodSigned || tt.method == auth.MethodJWT {
				daemontest.WantCode(t, identity.Allow(auth.ScopeLease), stacyvm.CodeForbidden) // what it cannot need
			}
		})
	}
}

// TestTokensAreReissued at half of their life, so that none expires on its way.
func TestTokensAreReissued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trust := must[*trust](t)(newTrust(config.Config{Auth: config.Auth{WorkerSigningKey: hmacKey}}, daemontest.Quiet))
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
	if err := os.WriteFile(path, []byte(daemontest.SharedToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	trust := must[*trust](t)(newTrust(config.Config{Auth: config.Auth{WorkerToken: daemontest.SharedToken, WorkerTokenFile: path}}, daemontest.Quiet))
	give := trust.token("a")
	if token := must[string](t)(give(t.Context())); token != daemontest.SharedToken {
		t.Errorf("it gives %q", token)
	}
	if err := os.WriteFile(path, []byte(daemontest.OwnToken), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); must[string](t)(give(t.Context())) != daemontest.OwnToken; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the changed file is not read")
		}
	}
}

// TestAddressesOfWorkers: with certificates nothing goes out in plain text, and without none are
// pretended.
func TestAddressesOfWorkers(t *testing.T) {
	dir := daemontest.PKIDir(t)
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
			trust := must[*trust](t)(newTrust(tt.config, daemontest.Quiet))
			client, err := trust.dial(at(tt.url), nil)
			daemontest.WantCode(t, err, tt.code)
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
	dir, empty := daemontest.PKIDir(t), t.TempDir()
	open := filepath.Join(empty, "open")
	if err := os.WriteFile(open, []byte(daemontest.SharedToken), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]config.Config{
		"a pki directory without a certificate":       {PKI: config.PKI{Dir: empty}},
		"TLS toward workers without their authority":  {Worker: config.Worker{RPCTLS: config.RPCTLS{Enabled: true}}},
		"a certificate that is not there":             {Worker: config.Worker{RPCTLS: config.RPCTLS{Enabled: true, CAFile: filepath.Join(dir, "ca-bundle.pem"), ClientCertFile: filepath.Join(empty, "x")}}},
		"a short signing key":                         {Auth: config.Auth{WorkerSigningKey: "short"}},
		"a token that everybody can read":             {Auth: config.Auth{WorkerToken: daemontest.SharedToken, WorkerTokenFile: open}},
		"a static token that looks like a signed one": {Auth: config.Auth{WorkerToken: "stacyvm-worker-v1.x"}},
	} {
		if _, err := newTrust(c, daemontest.Quiet); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), daemontest.SharedToken) {
			t.Errorf("%s: the error holds the secret", name)
		}
	}
}

// TestPublicKeyAlone: with certificates a control plane may verify tokens that it cannot make.
func TestPublicKeyAlone(t *testing.T) {
	private, public := daemontest.SigningKey(t)
	if _, err := newTrust(config.Config{Auth: config.Auth{WorkerSigningKey: public}}, daemontest.Quiet); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		t.Errorf("without certificates: %v", err)
	}
	trust := must[*trust](t)(newTrust(config.Config{PKI: config.PKI{Dir: daemontest.PKIDir(t)}, Auth: config.Auth{WorkerSigningKey: public}}, daemontest.Quiet))
	if trust.token("a") != nil {
		t.Error("a public key signs")
	}
	token, _, err := must[*auth.WorkerIssuer](t)(auth.NewWorkerIssuer(auth.FixedSecret(private), nil)).Issue(auth.WorkerTokenRequest{WorkerID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	must[auth.WorkerIdentity](t)(trust.workers.Verify(auth.WorkerCredential{WorkerID: "a", Token: token}))
}
