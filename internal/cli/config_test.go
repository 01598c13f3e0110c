package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/config"
)

// secretFile is a configuration with the word CANARY in every secret, and in an address that has a
// password.
const secretFile = `
auth:
  api_key: CANARY-client
  admin_api_key: CANARY-admin
  worker_token: CANARY-shared
  worker_tokens: {worker-a: CANARY-own}
  worker_signing_key: CANARY-signing
  worker_signing_keys: [CANARY-rotated, CANARY-rotated]
worker: {control_plane_url: "https://user:CANARY-url@control.example.org"}
providers: {e2b: {api_key: CANARY-e2b}, custom: {api_key: CANARY-custom}}
database: {driver: postgres, dsn: "postgres://user:CANARY-dsn@db/x", listen_dsn: "host=db password=CANARY-listen"}
`

func configFile(t *testing.T, text string) string {
	t.Helper()
	for _, word := range os.Environ() {
		if name, _, _ := strings.Cut(word, "="); strings.HasPrefix(name, "STACYVM_") {
			t.Setenv(name, "")
		}
	}
	path := filepath.Join(t.TempDir(), "stacyvm.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigShowsNoSecret(t *testing.T) {
	path := configFile(t, secretFile)
	bad := configFile(t, strings.Replace(secretFile, "postgres://", "mysql://", 1))
	for _, args := range [][]string{
		{"config", "show", "--config", path},
		{"config", "show", "--config", path, "--output", "json"},
		{"config", "lint", "--file", path},
		{"config", "lint", "--file", path, "--production", "--output", "json"},
		{"config", "lint", "--file", bad},
		{"serve", "--config", bad},
		{"serve", "--config", configFile(t, secretFile+"  api_key: [\n")},
	} {
		out, problem, _ := command(t.Context(), t, os.Stdin, args...)
		if strings.Contains(out+problem, "CANARY") {
			t.Errorf("%v shows a secret: %s %s", args, out, problem)
		}
		if out == "" && problem == "" {
			t.Errorf("%v says nothing", args)
		}
	}
}

func TestConfigShow(t *testing.T) {
	path := configFile(t, secretFile)
	t.Setenv("STACYVM_SERVER_PORT", "8080")
	out, problem, _ := command(t.Context(), t, os.Stdin, "config", "show", "--config", path, "--output", "json")
	var shown struct {
		File     string           `json:"file"`
		Settings []config.Setting `json:"settings"`
	}
	if err := json.Unmarshal([]byte(out), &shown); err != nil || problem != "" || shown.File != path {
		t.Fatalf("%v, %s: %s", err, problem, out)
	}
	sources, values := map[string]string{}, map[string]any{}
	for _, s := range shown.Settings {
		sources[s.Key], values[s.Key] = s.Source, s.Value
	}
	if sources["server.port"] != "environment" || sources["database.dsn"] != "file" || sources["server.host"] != "default" {
		t.Errorf("sources: %v", sources)
	}
	if values["server.port"] != 8080.0 || values["database.dsn"] != "[redacted]" || values["defaults.ttl"] != "30m0s" {
		t.Errorf("values: %v", values)
	}
}

func TestConfigLint(t *testing.T) {
	path := configFile(t, "auth: {enabled: true, api_key: change-me}\n")
	out, problem, _ := command(t.Context(), t, os.Stdin, "config", "lint", "--file", path)
	if problem != "" {
		t.Errorf("warnings failed: %s", problem)
	}
	for _, want := range []string{
		"[PASS] config: read " + path + "\n[PASS] auth.enabled: ",
		"[WARN] auth.api_key: the secret is a placeholder\n      fix: ",
		"[WARN] auth.worker_tokens: ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	out, problem, _ = command(t.Context(), t, os.Stdin, "config", "lint", "--file", path, "--production", "--output", "json")
	var checks []config.Check
	if err := json.Unmarshal([]byte(out), &checks); err != nil {
		t.Fatal(err)
	}
	failing := 0
	for _, check := range checks {
		if check.Level == config.Fail {
			failing++
		}
	}
	if failing == 0 || !strings.HasPrefix(problem, "config lint found ") || !strings.HasSuffix(problem, " failing check(s)") {
		t.Errorf("%d failing: %s", failing, problem)
	}
	if _, problem, _ := command(t.Context(), t, os.Stdin, "config", "lint", "--file", configFile(t, "sever: {}\n")); !strings.Contains(problem, "sever") {
		t.Errorf("an unknown key: %q", problem)
	}
}
