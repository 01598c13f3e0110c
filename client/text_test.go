package client

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestNotText: what JSON cannot carry is refused before anything is sent, by its name.
func TestNotText(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") }))
	defer server.Close()
	c, err := New(server.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	const bad = "caf\xe9"
	for field, call := range map[string]func() error{
		"command": func() error { _, err := c.Exec(t.Context(), "sb", ExecRequest{Command: bad}); return err },
		"args[1]": func() error {
			_, err := c.Start(t.Context(), "sb", ExecRequest{Args: []string{"caf\u00e9", bad}})
			return err
		},
		"env.V": func() error {
			_, err := c.Exec(t.Context(), "sb", ExecRequest{Env: map[string]string{"V": bad}})
			return err
		},
		"env." + bad: func() error {
			_, err := c.Exec(t.Context(), "sb", ExecRequest{Env: map[string]string{bad: "x"}})
			return err
		},
		"workdir":  func() error { _, err := c.Exec(t.Context(), "sb", ExecRequest{Workdir: "/" + bad}); return err },
		"user":     func() error { _, err := c.Exec(t.Context(), "sb", ExecRequest{User: bad}); return err },
		"new_path": func() error { return c.Move(t.Context(), "sb", "a", bad) },
		"path":     func() error { return c.MakeDir(t.Context(), "sb", bad, 0) },
		"image":    func() error { _, err := c.Spawn(t.Context(), SpawnRequest{Image: bad}); return err },
		"metadata.name": func() error {
			_, err := c.Spawn(t.Context(), SpawnRequest{Metadata: map[string]string{"name": bad}})
			return err
		},
	} {
		var problem *NotTextError
		if err := call(); !errors.As(err, &problem) || problem.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}
