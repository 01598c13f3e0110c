package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	strong  = "0123456789abcdef0123456789abcdef"
	strong2 = "fedcba9876543210fedcba9876543210"
	strong3 = "00112233445566778899aabbccddeeff"
)

// fit is a configuration in which every check passes that can: with PostgreSQL, signed tokens,
// OIDC, TLS and Docker.
func fit() Loaded {
	c := Default()
	c.DataDir = "/var/lib/stacyvm"
	c.Auth.Enabled, c.Auth.APIKey, c.Auth.AdminAPIKey, c.Auth.AdminFallbackEnabled = true, strong, strong2, false
	c.Auth.AdminAuditRetention = 24 * time.Hour
	c.Auth.WorkerSigningKey, c.Auth.WorkerSigningKeyFile = strong3, "/k"
	c.Auth.WorkerSigningKeys, c.Auth.WorkerRevokedTokenIDs = []string{strong}, []string{"x"}
	c.Auth.OIDCEnabled, c.Auth.OIDCIssuer, c.Auth.OIDCAudience = true, "https://issuer.example", "stacyvm"
	c.Auth.OIDCJWKSURL, c.Auth.OIDCPublicKey, c.Auth.OIDCPublicKeyFile = "https://issuer.example/jwks", "pem", "/p"
	c.Auth.OIDCAdminGroups = []string{"admins"}
	c.Server.CORSAllowedOrigins = []string{"https://console.example"}
	c.RateLimit.Enabled = true
	c.Database.Driver, c.Database.DSN = "postgres", "postgres://u@h/d"
	c.Defaults.MaxSandboxes, c.Defaults.MaxSandboxesPerOwner, c.Defaults.DefaultExecTimeout = 10, 5, time.Minute
	c.Worker.RPCTLS = RPCTLS{Enabled: true, ServerCertFile: "a", ServerKeyFile: "b", ClientCAFile: "c", CAFile: "d", ClientCertFile: "e", ClientKeyFile: "f"}
	c.Providers.Default, c.Providers.Docker.Enabled, c.Providers.Docker.User = "docker", true, "1000:1000"
	sources := map[string]string{}
	for _, k := range keys(&c) {
		sources[k.name] = fromDefault // so that nothing is told of what no part acts on yet: see TestUnbuiltKeys
	}
	return Loaded{Config: c, Sources: sources}
}

func findCheck(checks []Check, name string) (Check, bool) {
	i := slices.IndexFunc(checks, func(c Check) bool { return c.Name == name })
	if i < 0 {
		return Check{}, false
	}
	return checks[i], true
}

func TestLintPassesWhatIsFit(t *testing.T) {
	for _, check := range Lint(fit(), true) {
		if check.Level != Pass {
			t.Errorf("%s %s: %s", check.Level, check.Name, check.Message)
		}
	}
}

// TestLintFindings spoils one thing at a time. H: a warning that production does not allow; W: a
// warning; F: always a failure; -: the check is not made.
func TestLintFindings(t *testing.T) {
	tests := []struct {
		check, level, name string
		spoil              func(*Config)
	}{
		{"auth.enabled", "H", "off", func(c *Config) { c.Auth.Enabled = false }},
		{"auth.api_key", "H", "empty", func(c *Config) { c.Auth.APIKey = "" }},
		{"auth.api_key", "H", "placeholder", func(c *Config) { c.Auth.APIKey = "please-change-me-0123456789abcdef0123" }},
		{"auth.api_key", "H", "short", func(c *Config) { c.Auth.APIKey = strong[1:] }},
		{"auth.admin_api_key", "H", "empty", func(c *Config) { c.Auth.AdminAPIKey = "" }},
		{"auth.admin_api_key", "H", "placeholder", func(c *Config) { c.Auth.AdminAPIKey = "changeme" + strong }},
		{"auth.admin_api_key", "H", "short", func(c *Config) { c.Auth.AdminAPIKey = "short" }},
		{"auth.worker_signing_key", "H", "placeholder", func(c *Config) { c.Auth.WorkerSigningKey = "replace-me" + strong }},
		{"auth.worker_signing_key", "F", "short", func(c *Config) { c.Auth.WorkerSigningKey = "short" }},
		{"auth.worker_signing_key", "F", "no key of a kind that signs", func(c *Config) { c.Auth.WorkerSigningKey = "-----BEGIN RSA PRIVATE KEY-----\n" + strong }},
		{"auth.worker_signing_key", "H", "only verify keys", func(c *Config) { c.Auth.WorkerSigningKey = "" }},
		{"auth.worker_signing_key_file", "W", "inline", func(c *Config) { c.Auth.WorkerSigningKeyFile = "" }},
		{"auth.worker_token_file", "W", "inline", func(c *Config) { c.Auth.WorkerToken = strong }},
		{"auth.worker_signing_keys", "F", "one is short", func(c *Config) { c.Auth.WorkerSigningKeys = []string{strong, "short"} }},
		{"auth.worker_signing_keys", "F", "too many", func(c *Config) { c.Auth.WorkerSigningKeys = slices.Repeat([]string{strong}, 17) }},
		{"auth.worker_signing_keys", "W", "active key", func(c *Config) { c.Auth.WorkerSigningKeys = []string{strong3} }},
		{"auth.worker_signing_keys", "W", "twice", func(c *Config) { c.Auth.WorkerSigningKeys = []string{strong, strong} }},
		{"auth.worker_revoked_token_ids", "W", "no signing key", func(c *Config) { c.Auth.WorkerSigningKey, c.Auth.WorkerSigningKeys = "", nil }},
		{"auth.worker_token", "W", "beside a signing key", func(c *Config) { c.Auth.WorkerToken = strong }},
		{"auth.worker_tokens", "W", "beside a signing key", func(c *Config) { c.Auth.WorkerTokens = map[string]string{"w": strong} }},
		{"auth.worker_tokens", "W", "shared only", func(c *Config) {
			c.Auth.WorkerSigningKey, c.Auth.WorkerSigningKeys, c.Auth.WorkerToken = "", nil, strong
		}},
		{"auth.worker_tokens", "W", "none", func(c *Config) { c.Auth.WorkerSigningKey, c.Auth.WorkerSigningKeys = "", nil }},
		{"auth.key_separation", "H", "one key", func(c *Config) { c.Auth.AdminAPIKey = c.Auth.APIKey }},
		{"auth.admin_fallback_enabled", "H", "on", func(c *Config) { c.Auth.AdminFallbackEnabled = true }},
		{"auth.admin_audit_retention", "H", "for ever", func(c *Config) { c.Auth.AdminAuditRetention = 0 }},
		{"auth.oidc_issuer", "H", "empty", func(c *Config) { c.Auth.OIDCIssuer = "" }},
		{"auth.oidc_issuer", "-", "OIDC off", func(c *Config) { c.Auth.OIDCEnabled = false }},
		{"auth.oidc_jwks_url", "H", "no key at all", func(c *Config) { c.Auth.OIDCJWKSURL, c.Auth.OIDCPublicKey = "", "" }},
		{"auth.oidc_public_key_file", "W", "inline", func(c *Config) { c.Auth.OIDCPublicKeyFile = "" }},
		{"auth.oidc_audience", "W", "empty", func(c *Config) { c.Auth.OIDCAudience = "" }},
		{"auth.oidc_groups", "W", "none", func(c *Config) { c.Auth.OIDCAdminGroups = nil }},
		{"server.cors_allowed_origins", "H", "empty", func(c *Config) { c.Server.CORSAllowedOrigins = nil }},
		{"server.cors_allowed_origins", "H", "all", func(c *Config) { c.Server.CORSAllowedOrigins = []string{"*"} }},
		{"rate_limit.enabled", "H", "off", func(c *Config) { c.RateLimit.Enabled = false }},
		{"rate_limit.capacity", "H", "no rate", func(c *Config) { c.RateLimit.RequestsPerMinute = 0 }},
		{"rate_limit.capacity", "H", "no burst", func(c *Config) { c.RateLimit.Burst = 0 }},
		{"rate_limit.key_by", "W", "ip", func(c *Config) { c.RateLimit.KeyBy = "ip" }},
		{"database.dsn", "F", "missing", func(c *Config) { c.Database.DSN = "" }},
		{"database.path", "H", "relative", func(c *Config) { c.Database.Driver, c.Database.Path = "sqlite", "x.db" }},
		{"database.driver", "-", "sqlite", func(c *Config) { c.Database.Driver = "sqlite" }},
		{"defaults.sandbox_caps", "H", "no cap", func(c *Config) { c.Defaults.MaxSandboxes = 0 }},
		{"defaults.sandbox_caps", "H", "no cap for an owner", func(c *Config) { c.Defaults.MaxSandboxesPerOwner = 0 }},
		{"defaults.max_spawn_queue", "H", "none", func(c *Config) { c.Defaults.MaxSpawnQueue = 0 }},
		{"worker.parallel_creates", "W", "many", func(c *Config) { c.Worker.ParallelCreates = 1000 }},
		{"defaults.exec_timeouts", "H", "no default", func(c *Config) { c.Defaults.DefaultExecTimeout = 0 }},
		{"defaults.exec_timeouts", "H", "no maximum", func(c *Config) { c.Defaults.MaxExecTimeout = 0 }},
		{"defaults.max_ttl", "H", "none", func(c *Config) { c.Defaults.MaxTTL = 0 }},
		{"logging.format", "H", "pretty", func(c *Config) { c.Logging.Format = "pretty" }},
		{"worker.rpc_tls.enabled", "W", "off", func(c *Config) { c.Worker.RPCTLS.Enabled = false }},
		{"worker.rpc_tls.server_cert", "-", "a pki directory", func(c *Config) { c.Worker.RPCTLS, c.PKI.Dir = RPCTLS{}, "/etc/stacyvm/pki" }},
		{"worker.rpc_tls.server_cert", "-", "TLS off", func(c *Config) { c.Worker.RPCTLS.Enabled = false }},
		{"worker.rpc_tls.server_cert", "H", "missing", func(c *Config) { c.Worker.RPCTLS.ServerKeyFile = "" }},
		{"worker.rpc_tls.client_ca", "H", "missing", func(c *Config) { c.Worker.RPCTLS.ClientCAFile = "" }},
		{"worker.rpc_tls.ca", "H", "missing", func(c *Config) { c.Worker.RPCTLS.CAFile = "" }},
		{"worker.rpc_tls.client_cert", "H", "missing", func(c *Config) { c.Worker.RPCTLS.ClientCertFile = "" }},
		{"worker.rpc_tls.insecure_skip_verify", "H", "on", func(c *Config) { c.Worker.RPCTLS.InsecureSkipVerify = true }},
		{"providers.default", "W", "another", func(c *Config) { c.Providers.Default = "gvisor" }},
		{"providers.default", "W", "off", func(c *Config) { c.Providers.Docker.Enabled = false }},
		{"docker.runtime", "-", "another engine", func(c *Config) { c.Providers.Default = "gvisor" }},
		{"docker.runtime", "H", "empty", func(c *Config) { c.Providers.Docker.Runtime = "" }},
		{"docker.network_mode", "H", "empty", func(c *Config) { c.Providers.Docker.NetworkMode = "" }},
		{"docker.seccomp_profile", "H", "empty", func(c *Config) { c.Providers.Docker.SeccompProfile = "" }},
		{"docker.seccomp_profile", "H", "unconfined", func(c *Config) { c.Providers.Docker.SeccompProfile = "unconfined" }},
		{"docker.added_caps", "H", "one", func(c *Config) { c.Providers.Docker.AddedCaps = []string{"NET_ADMIN"} }},
		{"docker.dropped_caps", "H", "not all", func(c *Config) { c.Providers.Docker.DroppedCaps = []string{"CHOWN"} }},
		{"docker.resource_limits", "H", "no memory", func(c *Config) { c.Providers.Docker.Memory = "" }},
		{"docker.resource_limits", "H", "no processes", func(c *Config) { c.Providers.Docker.PidsLimit = 0 }},
		{"docker.user", "H", "empty", func(c *Config) { c.Providers.Docker.User = "" }},
	}
	want := map[string]map[bool]Level{"H": {false: Warn, true: Fail}, "W": {false: Warn, true: Warn}, "F": {false: Fail, true: Fail}}
	for _, tt := range tests {
		for _, production := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%s/production=%v", tt.check, tt.name, production), func(t *testing.T) {
				l := fit()
				tt.spoil(&l.Config)
				check, made := findCheck(Lint(l, production), tt.check)
				switch {
				case tt.level == "-":
					if made {
						t.Errorf("made: %+v", check)
					}
				case !made:
					t.Error("not made")
				case check.Level != want[tt.level][production] || check.Fix == "":
					t.Errorf("%+v", check)
				}
			})
		}
	}
	seen := map[string]bool{}
	for _, tt := range tests {
		seen[tt.check] = true
	}
	for _, check := range Lint(fit(), true) { // what can only pass: config, oidc_enabled, oidc_public_key
		if !seen[check.Name] && !slices.Contains([]string{"config", "auth.oidc_enabled", "auth.oidc_public_key"}, check.Name) {
			t.Errorf("%s has no row", check.Name)
		}
	}
}

// TestLintTellsStagingFromProduction: the words that operators search for, and the configurations
// of a cluster.
func TestLintTellsStagingFromProduction(t *testing.T) {
	sqlite := func(change func(*Config)) Loaded {
		l := fit()
		l.Database = Database{Driver: "sqlite"}
		l.Auth.WorkerSigningKey, l.Auth.WorkerSigningKeyFile, l.Auth.WorkerSigningKeys, l.Auth.WorkerRevokedTokenIDs = "", "", nil, nil
		change(&l.Config)
		return l
	}
	signed := func(c *Config) {
		c.Auth.WorkerSigningKey, c.Auth.WorkerSigningKeyFile, c.Auth.WorkerSigningKeys = strong3, "/k", []string{strong}
	}
	for name, l := range map[string]Loaded{
		"own tokens":   sqlite(func(c *Config) { c.Auth.WorkerTokens = map[string]string{"a": strong, "b": strong2} }),
		"signing keys": sqlite(signed),
		"postgres": sqlite(func(c *Config) {
			signed(c)
			c.Database = Database{Driver: "postgresql", DSN: "host=h dbname=d password=hunter2"}
		}),
	} {
		for _, check := range Lint(l, true) {
			if check.Level == Fail {
				t.Errorf("%s: %+v", name, check)
			}
		}
	}
	for text, l := range map[string]Loaded{
		"using shared worker token":                                      sqlite(func(c *Config) { c.Auth.WorkerToken = strong }),
		"shared worker token still configured with signed worker tokens": sqlite(func(c *Config) { signed(c); c.Auth.WorkerToken = strong }),
		"holds the active key":                                           sqlite(func(c *Config) { signed(c); c.Auth.WorkerSigningKeys = []string{strong3} }),
	} {
		if !slices.ContainsFunc(Lint(l, true), func(c Check) bool { return c.Level == Warn && strings.Contains(c.Message, text) }) {
			t.Errorf("nothing warns of %q", text)
		}
	}
}

// TestNoSecretIsShown plants a word in every secret and looks for it in everything that is shown.
func TestNoSecretIsShown(t *testing.T) {
	const canary = "canary-hunter2-0123456789abcdef-0123456789"
	l := fit()
	for _, k := range keys(&l.Config) {
		if k.secret != hidden {
			continue
		}
		switch k.field.Interface().(type) {
		case string:
			k.field.SetString("postgres://user:" + canary + "@host/db")
		case []string:
			l.Auth.WorkerSigningKeys = []string{canary}
		case map[string]string:
			l.Auth.WorkerTokens = map[string]string{"w": canary}
		}
	}
	shown := fmt.Sprint(l.Settings(), Lint(l, true), Lint(l, false))
	l.Database.DSN = "://" + canary
	shown += fmt.Sprint(Lint(l, true), hideIn(l.refuse()))
	if strings.Contains(shown, canary) {
		t.Error("a secret is shown")
	}
}

// TestLintOfCertificates: a pki directory encrypts what is said to workers, and its certificates
// identify them.
func TestLintOfCertificates(t *testing.T) {
	l := fit()
	l.Auth.WorkerSigningKey, l.Auth.WorkerSigningKeys, l.Auth.WorkerRevokedTokenIDs = "", nil, nil
	l.Worker.RPCTLS, l.PKI.Dir = RPCTLS{}, "/etc/stacyvm/pki"
	for _, name := range []string{"auth.worker_tokens", "worker.rpc_tls.enabled"} {
		if check, made := findCheck(Lint(l, true), name); !made || check.Level != Pass {
			t.Errorf("%s: %+v", name, check)
		}
	}
}

// TestUnbuiltKeys: what nothing acts on is told, and refused where ignoring it would be unsafe.
func TestUnbuiltKeys(t *testing.T) {
	clean(t)
	t.Setenv("STACYVM_AUTH_OIDC_ISSUER", "https://issuer.example")
	if _, err := Load(""); err == nil || !strings.Contains(err.Error(), "auth.oidc_issuer") {
		t.Errorf("OIDC: %v", err)
	}
	t.Setenv("STACYVM_AUTH_OIDC_ISSUER", "")
	t.Setenv("STACYVM_DEFAULTS_POOL_SIZE", "3")
	loaded, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	if inert := loaded.Inert(); len(inert) != 1 || !strings.Contains(inert[0].Message, "defaults.pool_size") {
		t.Errorf("%+v", inert)
	}
}
