package remote

import (
	"strings"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
	"github.com/stacyvm/stacyvm/proto/worker/v1/workerv1connect"
)

// methods says which scope each method of the worker's own needs. What is not here is refused.
var methods = map[string]string{
	workerv1connect.WorkerServiceCreateProcedure:    auth.ScopeSpawn,
	workerv1connect.WorkerServiceDestroyProcedure:   auth.ScopeDestroy,
	workerv1connect.WorkerServiceExpireProcedure:    auth.ScopeSpawn,
	workerv1connect.WorkerServiceInventoryProcedure: auth.ScopeStatus,
	workerv1connect.WorkerServiceProvidersProcedure: auth.ScopeStatus,
	workerv1connect.WorkerServiceAdmitProcedure:     auth.ScopeStatus,
}

// grants says which scope of a credential opens which of a guest.
var grants = []struct {
	needs string
	opens guest.Scope
}{
	{auth.ScopeExec, guest.ScopeExec},
	{auth.ScopeFiles, guest.ScopeFiles},
	{auth.ScopeLogs, guest.ScopeLogs},
}

// allowed says whether an identity may call what stands at a path.
func allowed(identity auth.WorkerIdentity, path string) error {
	switch {
	case strings.HasPrefix(path, guestPrefix):
		_, err := opened(identity, methodOf(path))
		return err
	case strings.HasPrefix(path, portPrefix):
		return identity.Allow(auth.ScopeExec)
	}
	scope, known := methods[path]
	if !known {
		return stacyvm.Errorf(stacyvm.CodeForbidden, "there is no such method")
	}
	return identity.Allow(scope)
}

// opened gives the guest scope with which an identity may call a guest's method,
// "/package.Service/Method". The secret of a guest is for its worker alone to change.
func opened(identity auth.WorkerIdentity, method string) (guest.Scope, error) {
	err := error(stacyvm.Errorf(stacyvm.CodeForbidden, "there is no such method"))
	if method == guestv1connect.SystemServiceRotateProcedure {
		return "", err
	}
	for _, grant := range grants {
		if !grant.opens.Allows(method) {
			continue
		}
		if err = identity.Allow(grant.needs); err == nil {
			return grant.opens, nil
		}
	}
	return "", err
}

// methodOf gives the last two parts of a path. Whoever judges a path and whoever acts on it must
// read it alike.
func methodOf(path string) string {
	last := max(strings.LastIndexByte(path, '/'), 0)
	return path[max(strings.LastIndexByte(path[:last], '/'), 0):]
}
