// Package daemontest starts servers and makes what they and worker processes are configured with,
// for the tests of the composition roots.
package daemontest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// SharedToken and OwnToken are workers' credentials.
const (
	SharedToken = "shared-0123456789abcdef0123456789abcdef"
	OwnToken    = "own-0123456789abcdef0123456789abcdef"
)

// Quiet logs nothing.
var Quiet = slog.New(slog.DiscardHandler)

// Config keeps everything in a directory of the test.
func Config(t *testing.T) config.Config {
	t.Helper()
	c := config.Default()
	c.DataDir = filepath.Join(t.TempDir(), "data")
	return c
}

// Must gives the value of a call that must not fail.
func Must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// WantCode demands an error's code; "": no error.
func WantCode(t *testing.T, err error, want stacyvm.Code) {
	t.Helper()
	if stacyvm.CodeOf(err) != want {
		t.Errorf("got %v, want code %q", err, want)
	}
}

// Level gives the Level of the check with that name, "" without one.
func Level(checks []config.Check, name string) config.Level {
	for _, check := range checks {
		if check.Name == name {
			return check.Level
		}
	}
	return ""
}

// SigningKey makes a signing key and its public half, as PEM.
func SigningKey(t *testing.T) (private, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret := Must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))
	open := Must[[]byte](t)(x509.MarshalPKIXPublicKey(pub))
	return string(
			pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		), string(
			pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: open}),
		)
}

// PKIDir makes an authority with certificates of a control plane and of the worker a.
func PKIDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	now := time.Now()
	if err := pki.Init(dir, false, now); err != nil {
		t.Fatal(err)
	}
	Must[pki.Issued](t)(pki.Issue(dir, pki.Request{Server: []string{"localhost", "127.0.0.1", "plane.test"}}, now))
	Must[pki.Issued](t)(pki.Issue(dir, pki.Request{Worker: "a"}, now))
	return dir
}

// PlaneConfig is of a control plane alone.
func PlaneConfig(t *testing.T) config.Config {
	c := Config(t)
	c.Server.Worker, c.Server.Port = false, 0
	return c
}

// Trusting is a client that believes the authority of a pki directory.
func Trusting(t *testing.T, dir string, protocols ...string) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(Must[[]byte](t)(os.ReadFile(filepath.Join(dir, "ca-bundle.pem")))) {
		t.Fatal("no authority")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(protocols[0] == "HTTP/1.1")
	transport.Protocols.SetHTTP2(protocols[0] == "HTTP/2.0")
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ClientAt makes a client of a server; web nil: one without connections that outlive a call.
func ClientAt(t *testing.T, address string, web *http.Client) *client.Client {
	t.Helper()
	if web == nil {
		web = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	}
	return Must[*client.Client](t)(client.New(address, client.Options{HTTPClient: web}))
}

// Start runs a server until the test ends, or until end. serve is daemon.Serve with its options;
// it calls ready with the server's address.
func Start(
	t *testing.T,
	serve func(ctx context.Context, ready func(address string)) error,
) (address string, end func()) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	addresses, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- serve(ctx, func(address string) { addresses <- address }) }()
	end = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	select {
	case address = <-addresses:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return address, end
}
