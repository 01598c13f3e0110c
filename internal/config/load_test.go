package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// clean takes away what the machine's own environment would set.
func clean(t *testing.T) string {
	t.Helper()
	for _, word := range os.Environ() {
		if name, _, _ := strings.Cut(word, "="); strings.HasPrefix(name, "STACYVM_") {
			t.Setenv(name, "")
		}
	}
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HOME", dir)
	return dir
}

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreValid(t *testing.T) {
	clean(t)
	loaded, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	if loaded.File != "" || !loaded.Loopback() || loaded.Providers.Default != "gvisor" {
		t.Errorf("defaults: %+v", loaded)
	}
	for name, source := range loaded.Sources {
		if source != "default" {
			t.Errorf("%s comes from %q", name, source)
		}
	}
}

// sample gives each kind of key a value that is not its default.
func sample(k key) (text string, want any) {
	switch k.field.Interface().(type) {
	case bool:
		return fmt.Sprint(!k.field.Bool()), !k.field.Bool()
	case int:
		return "4711", 4711
	case time.Duration:
		return "77s", 77 * time.Second
	case []string:
		return "a, b", []string{"a", "b"}
	}
	return "text", "text"
}

// TestEveryKeyFromTheEnvironment guards against a field that the environment cannot reach.
func TestEveryKeyFromTheEnvironment(t *testing.T) {
	clean(t)
	c := Default()
	for _, k := range keys(&c) {
		text, want := sample(k)
		t.Setenv(k.env(), text)
		if _, isMap := reflect.TypeAssert[map[string]string](k.field); isMap {
			loaded := Loaded{Config: Default(), Sources: map[string]string{}}
			if err := loaded.readEnvironment(); err == nil {
				t.Errorf("%s: a map was taken from the environment", k.env())
			}
			t.Setenv(k.env(), "")
			continue
		}
		loaded := Loaded{Config: Default(), Sources: map[string]string{}}
		if err := loaded.readEnvironment(); err != nil {
			t.Fatalf("%s: %v", k.env(), err)
		}
		for _, got := range keys(&loaded.Config) {
			if got.name == k.name && !reflect.DeepEqual(got.field.Interface(), want) {
				t.Errorf("%s=%s gave %v", k.env(), text, got.field)
			}
		}
		if loaded.Sources[k.name] != "environment" {
			t.Errorf("%s: source %q", k.name, loaded.Sources[k.name])
		}
		t.Setenv(k.env(), "")
	}
}

func TestFileAndOrder(t *testing.T) {
	dir := clean(t)
	write(t, filepath.Join(dir, ".stacyvm", "config.yaml"), "server: {port: 1}\n", 0o600)
	loaded, err := Load("")
	if err != nil || loaded.Server.Port != 1 {
		t.Fatalf("home: %v, %v", loaded.Server.Port, err)
	}
	write(t, filepath.Join(dir, "stacyvm.yaml"), "server: {port: 2}\ndefaults:\n  ttl: 90s\n", 0o600)
	if loaded, err = Load(""); err != nil || loaded.Server.Port != 2 || loaded.Defaults.TTL != 90*time.Second {
		t.Fatalf("working directory: %+v, %v", loaded.Config, err)
	}
	if loaded.Sources["server.port"] != "file" || loaded.Sources["server.host"] != "default" {
		t.Errorf("sources: %v", loaded.Sources)
	}
	named := write(t, filepath.Join(dir, "named.yaml"), "server: {port: 3}\n", 0o600)
	t.Setenv("STACYVM_CONFIG", named)
	if loaded, err = Load(""); err != nil || loaded.Server.Port != 3 {
		t.Fatalf("STACYVM_CONFIG: %v, %v", loaded.Server.Port, err)
	}
	t.Setenv("STACYVM_SERVER_PORT", "4")
	if loaded, err = Load(named); err != nil || loaded.Server.Port != 4 || loaded.Sources["server.port"] != "environment" {
		t.Fatalf("environment: %v, %v", loaded.Server.Port, err)
	}
	if _, err := Load(write(t, filepath.Join(dir, "empty.yaml"), "", 0o600)); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	dir := clean(t)
	open := write(t, filepath.Join(dir, "open.key"), "0123456789", 0o644)
	empty := write(t, filepath.Join(dir, "empty.key"), " \n", 0o600)
	tests := []struct{ name, file, env, want string }{
		{"unknown key", "server: {prot: 1}", "", "prot"},
		{"unknown section", "sever: {port: 1}", "", "sever"},
		{"wrong type", "server: {port: many}", "", "[1:16]"},
		{"no duration", "defaults: {ttl: soon}", "", "defaults.ttl: \"soon\" is not a duration"},
		{"bad number in the environment", "", "STACYVM_SERVER_PORT=x", "STACYVM_SERVER_PORT"},
		{"bad bool in the environment", "", "STACYVM_AUDIT_SYNC=x", "STACYVM_AUDIT_SYNC"},
		{"port", "server: {port: 70000}", "", "server.port"},
		{"host without a key", "server: {host: 0.0.0.0}", "", "server.host"},
		{"name without a key", "server: {host: box.example.org}", "", "server.host"},
		{"authentication without a key", "auth: {enabled: true}", "", "auth.enabled"},
		{"origin with a path", "server: {cors_allowed_origins: [\"https://a.example/x\"]}", "", "cors_allowed_origins"},
		{"origin without a scheme", "", "STACYVM_SERVER_CORS_ALLOWED_ORIGINS=a.example", "cors_allowed_origins"},
		{"unknown engine", "providers: {default: magic}", "", "providers.default"},
		{"engine that is off", "providers: {default: mock}", "", "providers.default"},
		{"driver", "database: {driver: oracle}", "", "database.driver"},
		{"level", "logging: {level: loud}", "", "logging.level"},
		{"negative limit", "defaults: {max_sandboxes: -1}", "", "defaults.max_sandboxes"},
		{"negative time", "defaults: {max_ttl: -1s}", "", "defaults.max_ttl"},
		{"ttl over its maximum", "defaults: {ttl: 2h, max_ttl: 1h}", "", "defaults.ttl"},
		{"rate limit without a rate", "rate_limit: {enabled: true, burst: 0}", "", "rate_limit"},
		{"server address with a path", "server: {url: \"https://a.example/x\"}", "", "server.url"},
		{"worker address without a scheme", "worker: {rpc_url: \"10.0.0.7:7424\"}", "", "worker.rpc_url"},
		{"worker with less than nothing", "worker: {memory_mb: -1}", "", "worker.memory_mb"},
		{"certificates that nobody looks at", "worker: {rpc_tls: {enabled: true, insecure_skip_verify: true}}", "", "insecure_skip_verify"},
		{"worker id", "worker: {id: \"a b\"}", "", "worker.id"},
		{"secret twice", "auth: {api_key: x, api_key_file: " + empty + "}", "", "auth.api_key"},
		{"secret that others can read", "auth: {api_key_file: " + open + "}", "", "chmod 600"},
		{"empty secret", "auth: {api_key_file: " + empty + "}", "", "empty"},
		{"missing secret", "auth: {api_key_file: " + dir + "/none}", "", "auth.api_key_file"},
		{"missing file", "", "STACYVM_CONFIG=" + dir + "/none.yaml", "none.yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := ""
			if tt.file != "" {
				path = write(t, filepath.Join(t.TempDir(), "c.yaml"), tt.file, 0o600)
			}
			if name, value, ok := strings.Cut(tt.env, "="); ok {
				t.Setenv(name, value)
			}
			if _, err := Load(path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want something that names %s", err, tt.want)
			}
		})
	}
}

// TestControlPlaneAlone needs no engine of its own.
func TestControlPlaneAlone(t *testing.T) {
	clean(t)
	loaded, err := Load(write(t, filepath.Join(t.TempDir(), "c.yaml"), "server: {worker: false}\nproviders: {default: mock}\n", 0o600))
	if err != nil || loaded.Server.Worker {
		t.Errorf("%+v, %v", loaded.Server, err)
	}
}

func TestSecretFile(t *testing.T) {
	dir := clean(t)
	t.Setenv("STACYVM_AUTH_API_KEY_FILE", write(t, filepath.Join(dir, "key"), "  s3cret\n", 0o600))
	t.Setenv("STACYVM_SERVER_HOST", "0.0.0.0")
	loaded, err := Load("")
	if err != nil || loaded.Auth.APIKey != "s3cret" || loaded.Sources["auth.api_key"] != "secret file" {
		t.Errorf("%q, %v, %v", loaded.Auth.APIKey, loaded.Sources["auth.api_key"], err)
	}
}
