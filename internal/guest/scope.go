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

// TakesRoom reports whether a request to this URL path makes files or directories: it is refused
// on a full disk.
func TakesRoom(path string) bool {
	switch path {
	case guestv1connect.FileServiceWriteProcedure,
		guestv1connect.FileServiceUnpackProcedure,
		guestv1connect.FileServiceMkdirProcedure:
		return true
	}
	return false
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

// controls are the calls that a guest answers at once. They have a connection of their own, which
// no number of streams fills and no stream's bytes hold up.
var controls = map[string]bool{
	guestv1connect.ProcessServiceStartProcedure:      true,
	guestv1connect.ProcessServiceSignalProcedure:     true,
	guestv1connect.ProcessServiceResizeProcedure:     true,
	guestv1connect.ProcessServiceListProcedure:       true,
	guestv1connect.ProcessServiceWatchExitsProcedure: true,
	guestv1connect.SystemServicePingProcedure:        true,
	guestv1connect.SystemServiceStatsProcedure:       true,
	guestv1connect.SystemServiceRotateProcedure:      true,
}

// IsControl reports whether a URL path, "/package.Service/Method", is a control call: it must get
// through whatever else goes on. WatchExits, of which there is one for each sandbox, counts as
// one.
func IsControl(path string) bool { return controls[path] }
