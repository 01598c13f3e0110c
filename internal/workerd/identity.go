package workerd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker/member"
)

// identity is how a worker process proves who it is, and how it judges who calls it.
type identity struct {
	id       stacyvm.WorkerID
	urls     []*url.URL // of the control planes
	dir      string     // of the certificate, when it is of a pki directory
	pair     *pki.Credentials
	listener *tls.Config // nil: without TLS
	token    func(context.Context) (string, error)
	verifier *auth.WorkerVerifier
	webs     []*http.Client // what it holds connections with
	log      *slog.Logger
}

// openIdentity finds every credential that the worker has, after joining when it has none and was
// given a token for that.
func openIdentity(ctx context.Context, options Options, c config.Config) (*identity, error) {
	i := &identity{id: stacyvm.WorkerID(c.Worker.ID), log: options.Logger}
	var err error
	if i.urls, err = controlPlanes(c.Worker.ControlPlaneURL); err != nil {
		return nil, err
	}
	if err := i.openCertificate(ctx, options, c); err != nil {
		return nil, err
	}
	keys, err := i.openKeys(c)
	if err != nil {
		return nil, err
	}
	if i.token, err = i.openToken(keys, options); err != nil {
		return nil, err
	}
	if i.token == nil && i.pair == nil {
		return nil, stacyvm.Errorf(
			stacyvm.CodeInvalid,
			"worker %s has no credential: set STACYVM_JOIN_TOKEN to what `stacyvm worker join-token` printed on a control plane, or set auth.worker_token_file",
			i.id,
		)
	}
	if i.verifier, err = keys.verifier(i.id, i.pair != nil, c); err != nil {
		return nil, err
	}
	if i.pair != nil {
		// Whoever has to identify itself by a certificate gets no further without; a token serves
		// in its place.
		i.listener = i.pair.Server(keys.any() && !c.Worker.RPCTLS.Enabled)
	}
	return i, nil
}

// controlPlanes reads the list of addresses.
func controlPlanes(list string) (all []*url.URL, err error) {
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
			strings.Trim(u.Path, "/") != "" ||
			u.RawQuery != "" ||
			u.Fragment != "" ||
			u.User != nil {
			return nil, stacyvm.Invalid(
				"worker.control_plane_url",
				"%q is not of the form https://host[:port] (several are separated by commas)",
				text,
			)
		}
		u.Path = ""
		all = append(all, u)
	}
	return all, nil
}

// openCertificate loads the files that are named one by one, or those of the pki directory.
func (i *identity) openCertificate(ctx context.Context, options Options, c config.Config) (err error) {
	failed := pki.Options{Failed: func(err error) { i.log.Error("changed certificates cannot be used", "error", err) }}
	if r := c.Worker.RPCTLS; r.Enabled {
		if r.ClientCAFile == "" {
			return stacyvm.Invalid("worker.rpc_tls.client_ca_file", "is not set: whom would the worker believe?")
		}
		i.pair, err = pki.Load(
			pki.Files{Certificate: r.ServerCertFile, Key: r.ServerKeyFile, Authorities: r.ClientCAFile},
			failed,
		)
		return named("worker.rpc_tls", err)
	}
	dir := c.PKI.Dir
	if dir == "" {
		dir = filepath.Join(c.DataDir, "pki")
	}
	files := pki.WorkerFiles(dir, string(i.id))
	_, err = os.Stat(files.Certificate)
	switch {
	case err == nil && options.JoinToken != "":
		i.log.Info("the worker has joined before: the join token is not needed", "certificate", files.Certificate)
	case errors.Is(err, fs.ErrNotExist) && options.JoinToken != "":
		if err := i.enrol(ctx, options, dir); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist) && c.PKI.Dir == "":
		return nil
	}
	i.dir = dir
	i.pair, err = pki.Load(files, failed)
	return named("pki.dir", err)
}

// named makes an error of the key whose files cannot be used.
func named(key string, err error) error {
	if err == nil {
		return nil
	}
	return stacyvm.Invalid(key, "%v", err)
}

// workKeys are the secrets that a worker shares with control planes.
type workKeys struct {
	own      auth.Secret // the token of this worker alone
	shared   auth.Secret
	signing  auth.Secret
	rotation []auth.Secret
}

// any reports whether a control plane can identify itself by a token.
func (k workKeys) any() bool {
	return k.own != nil || k.shared != nil || k.signing != nil || len(k.rotation) > 0
}

// openKeys reads them from the configuration. What is in a file is read again while the worker
// runs.
func (i *identity) openKeys(c config.Config) (k workKeys, err error) {
	k.own = auth.FixedSecret(c.Auth.WorkerTokens[string(i.id)])
	k.rotation = auth.FixedSecrets(c.Auth.WorkerSigningKeys)
	if k.shared, err = i.openSecret(
		"auth.worker_token_file",
		c.Auth.WorkerTokenFile,
		c.Auth.WorkerToken,
		nil,
	); err != nil {
		return k, err
	}
	k.signing, err = i.openSecret(
		"auth.worker_signing_key_file",
		c.Auth.WorkerSigningKeyFile,
		c.Auth.WorkerSigningKey,
		auth.CheckSigningKey,
	)
	return k, err
}

func (i *identity) openSecret(key, path, text string, check func(string) error) (auth.Secret, error) {
	if path == "" {
		return auth.FixedSecret(text), nil
	}
	file, err := auth.OpenSecretFile(path, auth.SecretFileOptions{Check: check, Failed: func(err error) {
		i.log.Error("a changed secret cannot be used; the one before stays", "key", key, "error", err)
	}})
	if err != nil {
		return nil, stacyvm.Invalid(key, "%v", err)
	}
	return file.Text, nil
}

func (k workKeys) verifier(id stacyvm.WorkerID, certificates bool, c config.Config) (*auth.WorkerVerifier, error) {
	config := auth.WorkerVerifierConfig{
		Audience: auth.AudienceRPC, Worker: id, Shared: k.shared, SigningKey: k.signing, RotationKeys: k.rotation,
		Revoked: c.Auth.WorkerRevokedTokenIDs, Certificates: certificates,
	}
	if k.own != nil {
		config.Tokens = map[stacyvm.WorkerID]auth.Secret{id: k.own}
	}
	return auth.NewWorkerVerifier(config)
}

// openToken finds how the worker's own tokens are made, in this order: a token that is given, a
// control plane that issues them for the administrator's key, the signing key. nil: the
// certificate has to do.
func (i *identity) openToken(k workKeys, options Options) (func(context.Context) (string, error), error) {
	switch {
	case k.own != nil:
		return func(context.Context) (string, error) { return k.own(), nil }, nil
	case k.shared != nil:
		return func(context.Context) (string, error) { return k.shared(), nil }, nil
	case options.AdminKey != nil:
		return i.bootstrap(options)
	case k.signing == nil:
		return nil, nil
	}
	issuer, err := auth.NewWorkerIssuer(k.signing, nil)
	if err != nil && i.pair != nil {
		return nil, nil // the public half, which verifies what control planes show
	}
	if err != nil {
		return nil, fmt.Errorf("auth.%w", err)
	}
	return func(context.Context) (string, error) {
		token, _, err := issuer.Issue(auth.WorkerTokenRequest{WorkerID: i.id, Audience: auth.AudienceControlPlane})
		return token, err
	}, nil
}

// planes makes a client of each control plane, with the worker's credentials.
func (i *identity) planes() (all []member.ControlPlane, err error) {
	for _, at := range i.urls {
		var trusted *tls.Config
		if i.pair != nil {
			trusted = i.pair.OfServer(at.Hostname())
		}
		web := webClient(trusted)
		i.webs = append(i.webs, web)
		c, err := client.New(
			at.String(),
			client.Options{WorkerID: string(i.id), WorkerToken: i.token, HTTPClient: web},
		)
		if err != nil {
			return nil, stacyvm.Invalid("worker.control_plane_url", "%v", err)
		}
		all = append(all, plane{c, at.String()})
	}
	return all, nil
}

// close cuts the connections to control planes.
func (i *identity) close() {
	for _, web := range i.webs {
		web.CloseIdleConnections()
	}
}

// bootstrap asks control planes for the worker's tokens, with the administrator's key.
func (i *identity) bootstrap(options Options) (func(context.Context) (string, error), error) {
	b := &issued{life: options.TokenTTL}
	for _, at := range i.urls {
		var trusted *tls.Config
		if i.pair != nil {
			trusted = i.pair.OfServer(at.Hostname())
		}
		web := webClient(trusted)
		i.webs = append(i.webs, web)
		c, err := client.New(at.String(), client.Options{AdminKey: options.AdminKey(), HTTPClient: web})
		if err != nil {
			return nil, stacyvm.Invalid("worker.control_plane_url", "%v", err)
		}
		b.ask = append(b.ask, c.IssueWorkerToken)
	}
	b.request = client.WorkerTokenRequest{
		WorkerID: string(i.id),
		TTL:      options.TokenTTL.String(),
		Audience: string(auth.AudienceControlPlane),
	}
	return b.token, nil
}
