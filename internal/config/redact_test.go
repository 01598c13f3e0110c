package config

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

const planted = "CANARY9hunter2"

func TestRedactText(t *testing.T) {
	hides := []string{
		"token stacyvm-worker-v1." + planted + "." + planted + " was refused",
		"Authorization: Bearer " + planted,
		"authorization: Basic " + planted,
		`{"Authorization":"Bearer ` + planted + `"}`,
		"key sk-" + planted,
		"dial postgres://user:" + planted + "@db/x: refused",
		"dial postgres://user:a@b/" + planted + "@db/x: refused",
		"redis://:" + planted + "@cache",
		"host=db password=" + planted + " dbname=x",
		"host=db password = '" + planted + " " + planted + "' dbname=x",
		"https://h/?api_key=" + planted + "&x=1",
		"STACYVM_AUTH_API_KEY=" + planted,
		"password: " + planted,
		`{"client_secret":"` + planted + `"}`,
		`{"x": 1, "admin-credential": "a\"` + planted + `"}`,
		"-----BEGIN EC PRIVATE KEY-----\n" + planted + "\n-----END EC PRIVATE KEY-----",
		"-----BEGIN PRIVATE KEY-----\n" + planted,
	}
	for _, text := range hides {
		if got := RedactText(text); strings.Contains(got, planted) || !strings.Contains(got, redacted) {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, text := range []string{
		"", "sandbox sb-1234 runs on worker-a", "http://localhost:7423/api/v1", "https://user@host/path", "2026-11-25T04:00:00Z",
		"-----BEGIN PUBLIC KEY-----", "docker run --tmpfs /tmp:rw", "task-list", "[::1]:7423",
	} {
		if got := RedactText(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestRedactValue(t *testing.T) {
	var tree any
	text := `{"auth": {"api_key": "` + planted + `", "enabled": true, "worker_tokens": {"w": "` + planted + `"}, "empty_token": ""},
		"database": {"DSN": "` + planted + `", "driver": "postgres"}, "x-api-key": ["` + planted + `"], "log": ["bearer ` + planted + `"], "n": 3}`
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(RedactValue("", tree))
	want := `{"auth":{"api_key":"[redacted]","empty_token":"","enabled":true,"worker_tokens":{"w":"[redacted]"}},` +
		`"database":{"DSN":"[redacted]","driver":"postgres"},"log":["bearer [redacted]"],"n":3,"x-api-key":["[redacted]"]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestErrorsHoldNoSecret puts a secret where it does not belong, or where the file is broken
// around it.
func TestErrorsHoldNoSecret(t *testing.T) {
	clean(t)
	address := "postgres://user:" + planted + "@db/x"
	for _, file := range []string{
		"database: {driver: \"" + address + "\"}",
		"database: {driver: postgres, dsn: \"mysql://user:" + planted + "@db/x\"}",
		"database: {driver: postgres, dsn: \"postgres://user:" + planted + "%zz@db/x\"}",
		"database: {driver: postgres, dsn: \"" + planted + "\"}",
		"database: {driver: postgres, dsn: \"" + address + "\", listen_dsn: \"" + planted + "\"}",
		"database: {driver: postgres, dsn: [" + planted + "]}",
		"database: {exec_mode: \"password=" + planted + "\"}",
		"server: {cors_allowed_origins: [\"https://user:" + planted + "@host\"]}",
		"providers: {default: \"https://user:" + planted + "@host\"}",
		"auth: {api_key: {" + planted + ": 1}}",
		"auth: {api_key: " + planted + "\n",
		"auth:\n  api_key: \"" + planted + "\n",
		"auth:\n  api_key: " + planted + "\n  api_key: " + planted + "\n",
		"auth:\n  api_key: " + planted + "\n admin_api_key: " + planted + "\n",
		"auth: {worker_tokens: [" + planted + "]}",
		"auth: {worker_tokens: " + planted + "}",
		"auth: {worker_signing_keys: " + planted + "}",
		"auth: {worker_tokens: {\"a b\": " + planted + "}}",
		"auth: {api_key: *" + planted + "}",
		"auth:\n  api_key: *" + planted + "\n",
		"auth:\n  api_key: @" + planted + "\n",
		"auth:\n  api_key: `" + planted + "\n",
		"auth:\n  api_key: [" + planted + "\n",
		"auth:\n  api_key: {" + planted + "\n",
		"auth:\n  api_key: |" + planted + "\n",
		"auth:\n  api_key: a: " + planted + "\n",
		"auth:\n  api_key: 'a' " + planted + "\n",
		"auth:\n  worker_tokens:\n    w: *" + planted + "\n",
		"auth:\n  worker_signing_keys:\n    - {a: " + planted + "}\n",
		"auth: {api_key: " + planted + ", api_key_file: /nowhere}",
	} {
		_, err := Load(write(t, filepath.Join(t.TempDir(), "c.yaml"), file, 0o600))
		if err == nil {
			t.Errorf("%s: no error", file)
		} else if strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestEverySecretMayComeFromAFile, but for the map and the list.
func TestEverySecretMayComeFromAFile(t *testing.T) {
	dir := clean(t)
	c := Default()
	for _, k := range keys(&c) {
		if k.secret == open {
			continue
		}
		if k.field.Kind().String() != "string" {
			if k.name != "auth.worker_tokens" && k.name != "auth.worker_signing_keys" {
				t.Errorf("%s: nothing says where it may come from", k.name)
			}
			continue
		}
		if !SecretKey(k.name) && k.secret == hidden {
			t.Errorf("%s would be shown", k.name)
		}
		path := write(t, filepath.Join(dir, "s", k.name), planted+"\n", 0o600)
		t.Setenv(k.env()+"_FILE", path)
		loaded, err := Read("")
		if err != nil {
			t.Errorf("%s: %v", k.name, err)
			continue
		}
		if loaded.Sources[k.name] != fromSecretFile || !strings.Contains(fmt.Sprintf("%+v", loaded.Config), planted) {
			t.Errorf("%s was not read from its file", k.name)
		}
		t.Setenv(k.env()+"_FILE", "")
	}
	public := write(t, filepath.Join(dir, "public.pem"), "pem", 0o644)
	t.Setenv("STACYVM_AUTH_OIDC_PUBLIC_KEY_FILE", public)
	if loaded, err := Read(""); err != nil || loaded.Auth.OIDCPublicKey != "pem" {
		t.Errorf("a public key that everybody may read: %v", err)
	}
}

// TestValuesOfOtherTypes: numbers stand for texts where a key is a text, and durations need their
// unit.
func TestValuesOfOtherTypes(t *testing.T) {
	clean(t)
	read := func(text string) (Loaded, error) {
		return Read(write(t, filepath.Join(t.TempDir(), "c.yaml"), text, 0o600))
	}
	loaded, err := read("providers: {docker: {cpus: 1.5, user: 1000, dropped_caps: [CHOWN], tmpfs: {/tmp: rw}}}\nworker: {id: \"\"}\ndatabase: {driver: \"\"}\n")
	if err != nil {
		t.Fatal(err)
	}
	d := loaded.Providers.Docker
	if d.CPUs != "1.5" || d.User != "1000" || len(d.DroppedCaps) != 1 || d.Tmpfs["/tmp"] != "rw" || loaded.Database.Driver != "sqlite" {
		t.Errorf("%+v", loaded.Config)
	}
	for _, text := range []string{"defaults: {ttl: 60}", "server: {port: \"x\"}", "auth: {enabled: maybe}", "server: [1]", "- a"} {
		if _, err := read(text); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}
