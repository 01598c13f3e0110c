package middleware_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
)

// TestCallerOfAnAddress: a machine that changes its IPv6 address within its network stays one
// caller.
func TestCallerOfAnAddress(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:4711":              "peer 192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:4711": "peer 2001:db8:1:2::/64",
		"[2001:db8:1:2::9]:80":        "peer 2001:db8:1:2::/64",
		"[2001:db8:1:3::9]:80":        "peer 2001:db8:1:3::/64",
		"[fe80::1%eth0]:80":           "peer fe80::/64",
		"[::ffff:192.0.2.7]:4711":     "peer 192.0.2.7",
		"@":                           "peer @",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = address
		if got := middleware.Caller(r); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}
