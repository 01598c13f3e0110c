package daemon

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
)

// trust is what a control plane proves itself with to workers and clients, and what it believes of
// workers.
type trust struct {
	// listener is the API's TLS; nil: plain text.
	listener *tls.Config
	// hosts are the names in the listener's certificate.
	hosts []string
	// expires is when that certificate ends.
	expires time.Time
	// calls makes the TLS of calls to a worker; nil: plain text.
	calls func(stacyvm.WorkerID) *tls.Config
	// certified: the certificate shown in such calls is one of `stacyvm pki`, which workers take
	// for all that is needed.
	certified bool
	// issuer signs the tokens of such calls; nil: static ones are shown, where there are any.
	issuer *auth.WorkerIssuer
	own    map[stacyvm.WorkerID]auth.Secret
	shared auth.Secret
	// workers judges who says to be a worker.
	workers *auth.WorkerVerifier
}

// newTrust reads the certificates and secrets that the configuration names. What it reads from
// files is read again when they change.
func newTrust(c config.Config, log *slog.Logger) (*trust, error) {
	t := &trust{own: map[stacyvm.WorkerID]auth.Secret{}}
	for id, token := range c.Auth.WorkerTokens {
		t.own[stacyvm.WorkerID(id)] = auth.FixedSecret(token)
	}
	var err error
	if t.shared, err = secret(
		"auth.worker_token_file",
		c.Auth.WorkerToken,
		c.Auth.WorkerTokenFile,
		nil,
		log,
	); err != nil {
		return nil, err
	}
	key, err := secret(
		"auth.worker_signing_key_file",
		c.Auth.WorkerSigningKey,
		c.Auth.WorkerSigningKeyFile,
		auth.CheckSigningKey,
		log,
	)
	if err != nil {
		return nil, err
	}
	if err := t.certificates(c, log); err != nil {
		return nil, err
	}
	t.workers, err = auth.NewWorkerVerifier(auth.WorkerVerifierConfig{
		Audience:   auth.AudienceControlPlane,
		Shared:     t.shared,
		Tokens:     t.own,
		SigningKey: key,
		RotationKeys: auth.FixedSecrets(
			c.Auth.WorkerSigningKeys,
		),
		Revoked:      c.Auth.WorkerRevokedTokenIDs,
		Certificates: t.listener != nil,
	})
	if err != nil || key == nil {
		return t, err
	}
	// A public key is enough to verify what workers show; where certificates prove who calls,
	// nothing has to be signed.
	if t.issuer, err = auth.NewWorkerIssuer(key, nil); err != nil && t.calls != nil {
		t.issuer, err = nil, nil
	}
	return t, err
}

// CheckTrust reads the certificates and secrets that the configuration names as a server does.
// expires is when the server's certificate ends; zero: it has none.
func CheckTrust(c config.Config) (expires time.Time, err error) {
	t, err := newTrust(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return expires, err
	}
	return t.expires, nil
}

// secret is one from the configuration, or from its file as it is at each use.
func secret(name, text, path string, check func(string) error, log *slog.Logger) (auth.Secret, error) {
	if path == "" {
		return auth.FixedSecret(text), nil
	}
	file, err := auth.OpenSecretFile(path, auth.SecretFileOptions{Check: check, Failed: func(err error) {
		log.Warn("a secret's file cannot be used; the last good content stays", "key", name, "error", err)
	}})
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, name+": cannot be read")
	}
	return file.Text, nil
}

// certificates loads those of pki.dir, and those of worker.rpc_tls, which replace them in calls to
// workers.
func (t *trust) certificates(c config.Config, log *slog.Logger) error {
	options := pki.Options{Failed: func(err error) {
		log.Warn("certificates cannot be used; the ones before stay", "error", err)
	}}
	if c.PKI.Dir != "" {
		files, err := pki.ServerFiles(c.PKI.Dir, hostOf(c.Server.URL), machineName())
		if err != nil {
			return stacyvm.Wrap(stacyvm.CodeInvalid, err, "pki.dir")
		}
		loaded, err := pki.Load(files, options)
		if err != nil {
			return stacyvm.Wrap(stacyvm.CodeInvalid, err, "pki.dir: the certificates cannot be used")
		}
		t.listener, t.hosts, t.expires = loaded.Server(true), loaded.Hosts(), loaded.Expires()
		t.calls = func(id stacyvm.WorkerID) *tls.Config { return loaded.OfWorker(string(id)) }
		t.certified = true
	}
	rpc := c.Worker.RPCTLS
	switch {
	case !rpc.Enabled, rpc.CAFile == "" && t.calls != nil:
		return nil
	case rpc.CAFile == "":
		return stacyvm.Invalid(
			"worker.rpc_tls.ca_file",
			"is missing: workers' certificates cannot be verified without it",
		)
	}
	loaded, err := pki.Load(
		pki.Files{Certificate: rpc.ClientCertFile, Key: rpc.ClientKeyFile, Authorities: rpc.CAFile},
		options,
	)
	if err != nil {
		return stacyvm.Wrap(stacyvm.CodeInvalid, err, "worker.rpc_tls: the certificates cannot be used")
	}
	t.certified = false
	t.calls = func(id stacyvm.WorkerID) *tls.Config {
		if rpc.ServerName == "" {
			return loaded.OfWorker(string(id))
		}
		return loaded.OfHost(rpc.ServerName, string(id))
	}
	return nil
}

// hostOf is the host in an address; "" of none.
func hostOf(address string) string {
	at, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return at.Hostname()
}

// machineName is this machine's name; "" when it has none.
func machineName() string {
	name, _ := os.Hostname() // without it there is one hint less
	return name
}

// dial makes the client of a worker. It refuses plain text where certificates are configured:
// whoever changed the address would get everything.
func (t *trust) dial(w stacyvm.Worker, onError func(error) error) (caller, error) {
	config := remote.ClientConfig{
		ID:        w.ID,
		URL:       w.Capacity.RPCURL,
		Token:     t.token(w.ID),
		RequestID: middleware.RequestID,
		OnError:   onError,
	}
	if t.calls != nil {
		if at, err := url.Parse(w.Capacity.RPCURL); err != nil || at.Scheme != "https" {
			return nil, stacyvm.Errorf(
				stacyvm.CodeUnavailable,
				"worker %s has an address without TLS, and this server calls workers with TLS alone",
				w.ID,
			)
		}
		config.TLS = t.calls(w.ID)
	}
	// a worker that joined knows no key, and a token that it cannot judge would count against the
	// certificate
	if t.certified {
		config.Token = nil
	}
	return remote.NewClient(config)
}

// token gives the credential of calls to a worker; nil: there is none but a certificate.
func (t *trust) token(id stacyvm.WorkerID) func(context.Context) (string, error) {
	if t.issuer != nil {
		return (&rpcTokens{issuer: t.issuer, worker: id}).token
	}
	static := t.shared
	if own := t.own[id]; own != nil {
		static = own
	}
	if static == nil {
		return nil
	}
	return func(context.Context) (string, error) { return static(), nil }
}

// rpcTokens issues the tokens of calls to one worker, each for half of its life.
type rpcTokens struct {
	issuer *auth.WorkerIssuer
	worker stacyvm.WorkerID

	mu      sync.Mutex
	present string
	issued  time.Time // by the wall clock, as the token's own times are
}

func (r *rpcTokens) token(context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now().Round(0)
	if age := now.Sub(r.issued); age >= 0 && age < auth.WorkerTokenDefault/2 {
		return r.present, nil
	}
	token, _, err := r.issuer.Issue(
		auth.WorkerTokenRequest{
			WorkerID: r.worker,
			Audience: auth.AudienceRPC,
			Scopes:   auth.RPCScopes(),
			TTL:      auth.WorkerTokenDefault,
		},
	)
	if err != nil {
		return "", stacyvm.Wrap(stacyvm.CodeUnavailable, err, "no credential for the worker can be made")
	}
	r.present, r.issued = token, now
	return token, nil
}
