package guest

import (
	"strings"

	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// services says which scope a service needs; the system service is open to every scope.
var services = map[string]Scope{
	guestv1connect.ProcessServiceName: ScopeExec,
	guestv1connect.PortServiceName:    ScopeExec,
	guestv1connect.FileServiceName:    ScopeFiles,
	guestv1connect.LogServiceName:     ScopeLogs,
}

// TakesRoom reports whether a request to this URL path makes files or directories: it is refused on a full disk.
func TakesRoom(path string) bool {
	return path == guestv1connect.FileServiceWriteProcedure || path == guestv1connect.FileServiceMkdirProcedure
}

// Allows reports whether the scope covers a request to this URL path, "/package.Service/Method".
func (s Scope) Allows(path string) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || method == "" || strings.Contains(method, "/") {
		return false
	}
	switch s {
	case ScopeExec, ScopeFiles, ScopeLogs:
		needed, known := services[service]
		return known && needed == s || service == guestv1connect.SystemServiceName
	}
	return false
}
