package middleware

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Host refuses requests for a name that is not the server's, so that a web page cannot reach it by
// letting its own name resolve to the server's address. Good are loopback's names, the address at
// which the connection arrived, and allowed.
func Host(allowed []string, fail Fail) Middleware {
	names := map[string]bool{"localhost": true}
	for _, name := range allowed {
		if host := hostOf(name); host != "" {
			names[host] = true
		}
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host := hostOf(r.Host)
			if !names[host] && !localAddress(r, host) {
				fail(
					w,
					r,
					stacyvm.Errorf(
						stacyvm.CodeForbidden,
						"Host: this server does not answer to %.100q; see server.allowed_hosts",
						r.Host,
					),
				)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// hostOf takes the port, the brackets of an IPv6 address and a final dot off.
func hostOf(hostport string) string {
	host := hostport
	if name, _, err := net.SplitHostPort(hostport); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// localAddress reports whether host is a loopback address or the one at which the connection
// arrived.
func localAddress(r *http.Request, host string) bool {
	address, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if address.Unmap().IsLoopback() {
		return true
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return false
	}
	arrived, err := netip.ParseAddrPort(local.String())
	return err == nil && arrived.Addr().Unmap() == address.Unmap()
}
