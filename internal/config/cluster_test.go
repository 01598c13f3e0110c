package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cluster reads testdata/cluster.yaml with lines added to its section auth, and sections below.
func cluster(t *testing.T, auth, sections string) Loaded {
	t.Helper()
	text := strings.Replace(clusterText, "auth:\n", "auth:\n"+auth, 1) + sections
	loaded, err := Read(write(t, filepath.Join(t.TempDir(), "stacyvm.yaml"), text, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

var clusterText string

const (
	sqliteFile = "database: {driver: sqlite, path: /var/lib/stacyvm/stacyvm.db}\n"
	postgres   = "database: {driver: postgres, dsn: \"postgres://stacyvm:hunter2@db.internal:5432/stacyvm?sslmode=verify-full\"}\n"
	ownTokens  = "  worker_tokens: {worker-a: " + strong + ", worker-b: " + strong2 + "}\n"
	shared     = "  worker_token: " + strong + "\n"
	signing    = "  worker_signing_key: " + strong3 + "\n"
	rotation   = "  worker_signing_keys: [" + strong2 + "]\n"
	oidc       = "  oidc_enabled: true\n  oidc_issuer: https://id.example.org\n  oidc_audience: stacyvm\n" +
		"  oidc_jwks_url: https://id.example.org/keys\n  oidc_admin_groups: [ops]\n"
)

// TestClusterFiles lints whole files as operators write them: what production needs passes, and
// each of the doubtful ways to identify workers has its warning.
func TestClusterFiles(t *testing.T) {
	clusterText = readText(t, "testdata/cluster.yaml")
	clean(t)
	tests := []struct {
		name, auth, sections string
		want                 []string // beginnings of "[LEVEL] name: message"
	}{
		{"own tokens", ownTokens, sqliteFile, []string{"[PASS] auth.worker_tokens: 2 ", "[PASS] database.path: /var"}},
		{"signing and rotation keys", signing + rotation, sqliteFile, []string{"[PASS] auth.worker_signing_key: ", "[PASS] auth.worker_signing_keys: 1 ", "[WARN] auth.worker_signing_key_file: "}},
		{"PostgreSQL", signing + rotation, postgres, []string{"[PASS] database.driver: ", "[PASS] database.dsn: "}},
		{"OIDC", ownTokens + oidc, sqliteFile, []string{"[PASS] auth.oidc_enabled: ", "[PASS] auth.oidc_issuer: ", "[PASS] auth.oidc_groups: 1 ", "[WARN] config: auth.oidc_enabled is set, and this build does not act on it; `serve` does not start"}},
		{"shared token", shared, sqliteFile, []string{"[WARN] auth.worker_tokens: using shared worker token", "[WARN] auth.worker_token_file: "}},
		{"shared and own tokens", shared + ownTokens, sqliteFile, []string{"[PASS] auth.worker_tokens: 2 "}},
		{"shared token beside a signing key", shared + signing, sqliteFile, []string{"[WARN] auth.worker_token: shared worker token still configured with signed worker tokens"}},
		{"own tokens beside a signing key", ownTokens + signing, sqliteFile, []string{"[WARN] auth.worker_tokens: "}},
		{"active key among those that verify", signing + "  worker_signing_keys: [" + strong3 + "]\n", sqliteFile, []string{"[WARN] auth.worker_signing_keys: "}},
		{"no worker credential", "", sqliteFile, []string{"[WARN] auth.worker_tokens: no worker credential"}},
		{"revoked", signing + "  worker_revoked_token_ids: [a, b]\n", sqliteFile, []string{"[PASS] auth.worker_revoked_token_ids: 2 "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var lines []string
			for _, check := range Lint(cluster(t, tt.auth, tt.sections), true) {
				if check.Level == Fail {
					t.Errorf("%+v", check)
				}
				lines = append(lines, fmt.Sprintf("[%s] %s: %s", check.Level, check.Name, check.Message))
			}
			for _, want := range tt.want {
				if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, want) }) {
					t.Errorf("no line begins with %s\n%s", want, strings.Join(lines, "\n"))
				}
			}
		})
	}
}

// TestLintReadsWhatServeRefuses: what a check is about is a finding, not an error of the command.
func TestLintReadsWhatServeRefuses(t *testing.T) {
	clean(t)
	tests := []struct{ file, check string }{
		{"auth: {enabled: true}", "auth.api_key"},
		{"server: {host: 0.0.0.0}", "auth.api_key"},
		{"rate_limit: {enabled: true, burst: 0}", "rate_limit.capacity"},
		{"database: {driver: postgres}", "database.dsn"},
		{"database: {driver: postgres, dsn: nonsense}", "database.dsn"},
		{"providers: {default: docker}", "providers.default"},
		{"providers: {default: mock}", "providers.default"},
		{"pool: {enabled: true}", "config"},
	}
	for _, tt := range tests {
		path := write(t, filepath.Join(t.TempDir(), "c.yaml"), tt.file, 0o600)
		if _, err := Load(path); err == nil {
			t.Errorf("%s: Load takes it", tt.file)
		}
		loaded, err := Read(path)
		if err != nil {
			t.Errorf("%s: %v", tt.file, err)
			continue
		}
		if !slices.ContainsFunc(Lint(loaded, true), func(c Check) bool { return c.Name == tt.check && c.Level != Pass }) {
			t.Errorf("%s: %s found nothing", tt.file, tt.check)
		}
	}
}

// TestLintHas48Checks: every name that Lint can use, once a configuration gives it the occasion.
func TestLintHas48Checks(t *testing.T) {
	names := map[string]bool{}
	add := func(change func(*Config)) {
		l := fit()
		change(&l.Config)
		for _, check := range Lint(l, true) {
			names[check.Name] = true
			if (check.Level == Pass) != (check.Fix == "") || check.Message == "" {
				t.Errorf("%+v", check)
			}
		}
	}
	add(func(*Config) {})
	add(func(c *Config) { c.Auth.WorkerToken = strong })
	add(func(c *Config) { c.Auth.WorkerTokens = map[string]string{"w": strong} })
	add(func(c *Config) { c.Database.Driver = "sqlite" })
	add(func(c *Config) { *c = Default() })
	if len(names) != 48 {
		t.Errorf("%d checks", len(names))
	}
}
