package api_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
)

// FuzzRoutedID asks for a sandbox, and for a process in it, by any id: nothing but the id itself
// finds it, and no other one is the server's fault.
func FuzzRoutedID(f *testing.F) {
	s := controltest.OpenStore(f)
	controltest.Register(f, s)
	service := controltest.NewService(f, s, controltest.NewWorker(), nil)
	sandbox, _, err := service.Create(controltest.As(f.Context(), "ann", ""), control.CreateRequest{}, control.Idempotency{})
	if err != nil {
		f.Fatal(err)
	}
	handler := api.New(api.Config{
		Service: service, Version: "test", Started: time.Now(), Logger: slog.New(slog.DiscardHandler),
		Authenticators: auth.Authenticators{auth.Keys{}},
	})
	id := string(sandbox.ID)
	for _, seed := range []string{id, strings.ToUpper(id), id + "/", id + "/exec", "../" + id, id + "%00", id + "\x00", "%2e%2e", ".", "sb-", "\u2044" + id, id + "?x=1", id + ";a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if raw == "" {
			return // the list
		}
		for _, below := range []string{"", "/stats", "/processes/" + url.PathEscape(raw)} {
			request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/sandboxes/"+url.PathEscape(raw)+below, http.NoBody)
			request.Host, request.RemoteAddr = "127.0.0.1", "127.0.0.1:1"
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, request)
			switch code := answer.Code; {
			case code >= 500 && (raw != id || below == ""): // the worker of this test has no guests
				t.Errorf("%q%s: status %d: %s", raw, below, code, answer.Body)
			case code == http.StatusOK && raw != id, below == "" && raw == id && code != http.StatusOK:
				t.Errorf("%q%s: status %d: %.200s", raw, below, code, answer.Body)
			}
		}
	})
}
