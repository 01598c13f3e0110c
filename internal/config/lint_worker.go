package config

import (
	"fmt"
	"slices"

	"github.com/stacyvm/stacyvm/internal/auth"
)

// signed reports that workers show signed tokens.
func (a Auth) signed() bool { return a.WorkerSigningKey != "" || len(a.WorkerSigningKeys) > 0 }

// workerKeys judges the keys that sign worker tokens.
func (l *linter) workerKeys() {
	keys := l.c.Auth
	switch {
	case keys.WorkerSigningKey != "":
		if l.usable("auth.worker_signing_key", keys.WorkerSigningKey) {
			l.secret("auth.worker_signing_key", keys.WorkerSigningKey)
		}
		l.inFile("auth.worker_signing_key_file", keys.WorkerSigningKeyFile, "the signing key")
	case keys.signed():
		l.hard(
			"auth.worker_signing_key",
			"keys that verify are set, but none that signs",
			"set auth.worker_signing_key_file to the active key",
		)
	}
	l.rotation()
	if revoked := len(keys.WorkerRevokedTokenIDs); revoked > 0 {
		l.advise(keys.signed(), "auth.worker_revoked_token_ids",
			fmt.Sprintf("%d token(s) are revoked", revoked),
			"tokens are revoked, but there is no signing key: nothing is verified against the list",
			"set auth.worker_signing_key_file, or remove auth.worker_revoked_token_ids")
	}
}

func (l *linter) rotation() {
	const name = "auth.worker_signing_keys"
	keys := l.c.Auth
	if len(keys.WorkerSigningKeys) == 0 {
		return
	}
	if len(keys.WorkerSigningKeys) > auth.MaxRotationKeys {
		l.fail(
			name,
			fmt.Sprintf(
				"%d keys are more than the %d that tokens are verified with",
				len(keys.WorkerSigningKeys),
				auth.MaxRotationKeys,
			),
			"remove keys whose tokens have expired",
		)
		return
	}
	for _, key := range keys.WorkerSigningKeys {
		if !l.usable(name, key) {
			return
		}
	}
	sorted := slices.Sorted(slices.Values(keys.WorkerSigningKeys))
	twice := len(slices.Compact(sorted)) < len(keys.WorkerSigningKeys)
	switch {
	case keys.WorkerSigningKey != "" && slices.Contains(keys.WorkerSigningKeys, keys.WorkerSigningKey):
		l.warn(name, "the list of keys that only verify holds the active key", "remove the active key from "+name)
	case twice:
		l.warn(name, "the list holds a key twice", "remove the duplicate from "+name)
	default:
		l.pass(name, fmt.Sprintf("%d key(s) verify while keys are rotated", len(keys.WorkerSigningKeys)))
	}
}

// usable fails a key that the server would refuse at its start, so that no token could be verified
// with it.
func (l *linter) usable(name, key string) bool {
	err := auth.CheckSigningKey(key)
	if err != nil {
		l.fail(name, "a key "+err.Error(), freshSecret+", or an Ed25519 key with `openssl genpkey -algorithm ed25519`")
	}
	return err == nil
}

// inFile warns of a secret that stands in the configuration or the environment.
func (l *linter) inFile(name, file, what string) {
	l.advise(
		file != "",
		name,
		what+" is in a file of its own",
		what+" stands in the configuration or the environment",
		"put it into a file that "+name+" names",
	)
}

// workerTokens tells credentials that each worker has for itself, as production needs them, from
// one that all share, which is for staging.
func (l *linter) workerTokens() {
	keys := l.c.Auth
	if keys.WorkerToken != "" {
		l.inFile("auth.worker_token_file", keys.WorkerTokenFile, "the shared worker token")
		if keys.signed() {
			l.warn(
				"auth.worker_token",
				"shared worker token still configured with signed worker tokens",
				"remove auth.worker_token once every worker shows signed tokens",
			)
		}
	}
	const name = "auth.worker_tokens"
	own := len(keys.WorkerTokens)
	switch {
	case keys.signed() && own > 0:
		l.warn(
			name,
			"static worker tokens still configured with signed worker tokens",
			"remove "+name+" once every worker shows signed tokens",
		)
	case keys.signed():
	case own > 0:
		l.pass(name, fmt.Sprintf("%d worker(s) have a credential of their own", own))
	case keys.WorkerToken != "":
		l.warn(
			name,
			"using shared worker token",
			"give each worker a token of its own in "+name+", or set auth.worker_signing_key_file",
		)
	case l.c.PKI.Dir != "":
		l.pass(name, "workers are known by their certificates")
	default:
		l.warn(
			name,
			"no worker credential: no other machine can join",
			"set auth.worker_signing_key_file, or "+name+"; nothing to do with one machine",
		)
	}
}

// workerTLS judges both ends: the same file may serve control planes and workers.
func (l *linter) workerTLS() {
	tls := l.c.Worker.RPCTLS
	const section = "worker.rpc_tls."
	if l.c.PKI.Dir != "" && !tls.Enabled {
		l.pass(section+"enabled", "control planes and workers talk over TLS, with the certificates of pki.dir")
		return
	}
	if !tls.Enabled {
		l.warn(
			section+"enabled",
			"control planes and workers talk in plain text",
			"set pki.dir, or "+section+"enabled to true with certificates; nothing to do with one machine",
		)
		return
	}
	l.pass(section+"enabled", "control planes and workers talk over TLS")
	both := func(a, b string) bool { return a != "" && b != "" }
	l.demand(
		both(tls.ServerCertFile, tls.ServerKeyFile),
		section+"server_cert",
		"the worker's certificate and key are named",
		"the worker's certificate or its key is missing",
		"set "+section+"server_cert_file and server_key_file",
	)
	l.demand(
		tls.ClientCAFile != "",
		section+"client_ca",
		"control planes must show a certificate",
		"control planes need not show a certificate",
		"set "+section+"client_ca_file",
	)
	l.demand(
		tls.CAFile != "",
		section+"ca",
		"workers are verified against the CA that is named",
		"no CA to verify workers with is named",
		"set "+section+"ca_file",
	)
	l.demand(
		both(tls.ClientCertFile, tls.ClientKeyFile),
		section+"client_cert",
		"the control plane's certificate and key are named",
		"the control plane's certificate or its key is missing",
		"set "+section+"client_cert_file and client_key_file",
	)
	l.demand(
		!tls.InsecureSkipVerify,
		section+"insecure_skip_verify",
		"certificates are verified",
		"the certificates of workers are not verified",
		"set "+section+"insecure_skip_verify to false",
	)
}
