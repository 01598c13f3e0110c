package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/api"
)

const trusted = "https://console.example.org"

// TestBrowsersAreKeptOut: what a page of another origin, or one that lets its own name resolve to
// the server, can send.
func TestBrowsersAreKeptOut(t *testing.T) {
	f := start(t, func(c *api.Config) { c.AllowedHosts = []string{"vm.example.org"}; c.AllowedOrigins = []string{trusted} }, nil)
	host := strings.TrimPrefix(f.server.URL, "http://")
	_, port, _ := strings.Cut(host, ":")
	socket := "/api/v1/sandboxes/sb-000000000000000000000000/exec/ws"
	for name, c := range map[string]struct {
		method, path string
		headers      []string
		want         int
	}{
		"no browser":                    {"POST", "/api/v1/providers/test", nil, 200},
		"same origin":                   {"POST", "/api/v1/providers/test", []string{"Origin", "http://" + host, "Sec-Fetch-Site", "same-origin"}, 200},
		"same origin, old browser":      {"POST", "/api/v1/providers/test", []string{"Origin", "http://" + host}, 200},
		"typed in":                      {"POST", "/api/v1/providers/test", []string{"Sec-Fetch-Site", "none"}, 200},
		"trusted":                       {"POST", "/api/v1/providers/test", []string{"Origin", trusted, "Sec-Fetch-Site", "cross-site"}, 200},
		"foreign":                       {"POST", "/api/v1/providers/test", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
		"foreign, old browser":          {"POST", "/api/v1/providers/test", []string{"Origin", "https://evil.example"}, 403},
		"foreign, no origin":            {"DELETE", "/api/v1/sandboxes", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"sibling":                       {"POST", "/api/v1/providers/test", []string{"Origin", "https://evil.example.org", "Sec-Fetch-Site", "same-site"}, 403},
		"opaque":                        {"POST", "/api/v1/providers/test", []string{"Origin", "null"}, 403},
		"trusted in other case":         {"POST", "/api/v1/providers/test", []string{"Origin", "https://CONSOLE.example.org"}, 403},
		"trusted as a prefix":           {"POST", "/api/v1/providers/test", []string{"Origin", trusted + ".evil.example"}, 403},
		"foreign reads without CORS":    {"GET", "/api/v1/sandboxes", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 200},
		"foreign websocket":             {"GET", socket, []string{"Origin", "https://evil.example", "Upgrade", "websocket", "Connection", "Upgrade"}, 403},
		"foreign websocket, new":        {"GET", socket, []string{"Sec-Fetch-Site", "cross-site", "Upgrade", "websocket", "Connection", "Upgrade"}, 403},
		"foreign event stream":          {"GET", "/api/v1/sandboxes", []string{"Origin", "https://evil.example", "Accept", "text/event-stream"}, 403},
		"rebound name":                  {"GET", "/api/v1/sandboxes", []string{"Host", "evil.example:" + port}, 403},
		"rebound name, public":          {"GET", "/api/v1/health", []string{"Host", "evil.example"}, 403},
		"rebound name, same origin":     {"POST", "/api/v1/providers/test", []string{"Host", "evil.example", "Origin", "http://evil.example"}, 403},
		"name that begins well":         {"GET", "/api/v1/sandboxes", []string{"Host", "localhost.evil.example"}, 403},
		"another address":               {"GET", "/api/v1/sandboxes", []string{"Host", "192.0.2.1:" + port}, 403},
		"unspecified address":           {"GET", "/api/v1/sandboxes", []string{"Host", "0.0.0.0:" + port}, 403},
		"localhost":                     {"GET", "/api/v1/sandboxes", []string{"Host", "localhost:" + port}, 200},
		"localhost, final dot, capital": {"GET", "/api/v1/sandboxes", []string{"Host", "LocalHost."}, 200},
		"loopback, version 6":           {"GET", "/api/v1/sandboxes", []string{"Host", "[::1]:" + port}, 200},
		"configured name":               {"GET", "/api/v1/sandboxes", []string{"Host", "vm.example.org"}, 200},
	} {
		r := f.do(c.method, c.path, nil, c.headers...)
		if r.StatusCode != c.want {
			t.Errorf("%s: %d %s, want %d", name, r.StatusCode, r.text, c.want)
		}
		if c.want == 403 {
			if code, message := r.refusal(t); code != "FORBIDDEN" || !strings.HasPrefix(message, "Origin: ") && !strings.HasPrefix(message, "Host: ") {
				t.Errorf("%s: %s", name, r.text)
			}
		}
		if name != "trusted" && r.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: a page may read the answer: %v", name, r.Header)
		}
	}
}

func TestCORS(t *testing.T) {
	preflight := []string{"Origin", trusted, "Access-Control-Request-Method", "PATCH"}
	f := start(t, func(c *api.Config) { withKeys(c); c.AllowedOrigins = []string{trusted} }, nil)
	r := f.do("OPTIONS", "/api/v1/sandboxes", nil, preflight...) // without a key
	if r.StatusCode != http.StatusNoContent || r.Header.Get("Access-Control-Allow-Origin") != trusted || r.Header.Get("Vary") != "Origin" ||
		!strings.Contains(r.Header.Get("Access-Control-Allow-Methods"), "PATCH") || !strings.Contains(r.Header.Get("Access-Control-Allow-Headers"), "X-API-Key") {
		t.Errorf("preflight: %d %v", r.StatusCode, r.Header)
	}
	r = f.do("OPTIONS", "/api/v1/sandboxes", nil, "Origin", "https://evil.example", "Access-Control-Request-Method", "GET")
	if r.StatusCode != http.StatusForbidden || !strings.HasPrefix(r.Header.Get("Content-Type"), "text/plain") || r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("foreign preflight: %d %v", r.StatusCode, r.Header)
	}

	closed := start(t, nil, nil)
	if r := closed.do("OPTIONS", "/api/v1/sandboxes", nil, preflight...); r.StatusCode != http.StatusForbidden {
		t.Errorf("preflight without any origin configured: %d", r.StatusCode)
	}

	all := start(t, func(c *api.Config) { c.AllowedOrigins = []string{"*"} }, nil)
	r = all.do("POST", "/api/v1/providers/test", nil, "Origin", "https://anywhere.example", "Sec-Fetch-Site", "cross-site")
	if r.StatusCode != 200 || r.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("any origin: %d %v", r.StatusCode, r.Header)
	}
}
