package api

import (
	"net/http"
	"strings"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
)

// access is what a path asks of its caller, whether or not there is a route.
type access struct {
	kind   auth.Kind // whose credentials count
	public bool      // a caller without any is let through, and may do nothing
	scope  string    // that it asks for before anything else; "": none
}

// joinPath is where a new worker spends its join token, which is its only credential.
const joinPath = Prefix + "/worker/join"

// publicPaths need no credential and are never counted.
var publicPaths = map[string]bool{
	Prefix + "/health": true, Prefix + "/live": true, Prefix + "/ready": true, Prefix + "/openapi.json": true,
}

// accessTo says what a path asks of its caller.
func accessTo(path string) access {
	switch {
	case publicPaths[path], path == joinPath:
		return access{kind: auth.KindClient, public: true}
	case strings.HasPrefix(path, Prefix+"/worker/"):
		return access{kind: auth.KindWorker}
	case strings.HasPrefix(path, Prefix+"/admin/"):
		return access{kind: auth.KindClient, scope: auth.ScopeAdminRoutes}
	}
	return access{kind: auth.KindClient}
}

// scopes names what each operation needs, beside its path's scope. The verbs of control ask for
// it; here it is described, for whoever calls and whoever gives out credentials. An operation that
// is not listed needs none.
var scopes = map[string]string{
	"spawn":          auth.ScopeAPISandboxes,
	"destroy":        auth.ScopeAPISandboxes,
	"extend":         auth.ScopeAPISandboxes,
	"prune":          auth.ScopeAPISandboxes,
	"sandbox":        auth.ScopeReadSandboxes,
	"list-sandboxes": auth.ScopeReadSandboxes,
	"admission":      auth.ScopeReadSandboxes,
	"logs":           auth.ScopeReadSandboxes,
	"stats":          auth.ScopeReadSandboxes,

	"exec":           auth.ScopeAPIExec,
	"exec-websocket": auth.ScopeAPIExec,
	"start":          auth.ScopeAPIExec,
	"output":         auth.ScopeAPIExec,
	"input":          auth.ScopeAPIExec,
	"signal":         auth.ScopeAPIExec,
	"resize":         auth.ScopeAPIExec,
	"list-processes": auth.ScopeReadSandboxes,
	"process":        auth.ScopeReadSandboxes,

	"write-file":       auth.ScopeAPIFiles,
	"upload":           auth.ScopeAPIFiles,
	"upload-archive":   auth.ScopeAPIFiles,
	"remove-file":      auth.ScopeAPIFiles,
	"move-file":        auth.ScopeAPIFiles,
	"chmod-file":       auth.ScopeAPIFiles,
	"make-dir":         auth.ScopeAPIFiles,
	"download":         auth.ScopeReadSandboxes,
	"download-archive": auth.ScopeReadSandboxes,
	"list-files":       auth.ScopeReadSandboxes,
	"stat-file":        auth.ScopeReadSandboxes,
	"glob":             auth.ScopeReadSandboxes,

	"events":         auth.ScopeReadEvents,
	"status":         auth.ScopeReadSandboxes,
	"list-providers": auth.ScopeReadSandboxes,
	"test-providers": auth.ScopeReadSandboxes,
	"provider":       auth.ScopeReadSandboxes,
	"list-snapshots": auth.ScopeReadSandboxes,
	"pool-status":    auth.ScopeReadSandboxes,

	"list-workers":       auth.ScopeReadSandboxes,
	"worker":             auth.ScopeReadSandboxes,
	"admin-list-workers": auth.ScopeReadSandboxes,
	"admin-worker":       auth.ScopeReadSandboxes,
	"delete-worker":      auth.ScopeAdminWorkers,
	"drain-worker":       auth.ScopeAdminWorkers,
	"resume-worker":      auth.ScopeAdminWorkers,
	"admin-heartbeat":    auth.ScopeAdminWorkers,
	"admin-renew-lease":  auth.ScopeAdminWorkers,
	"worker-token":       auth.ScopeAdminWorkers,
	"join-token":         auth.ScopeAdminWorkers,
	"list-join-tokens":   auth.ScopeAdminWorkers,
	"delete-join-token":  auth.ScopeAdminWorkers,
	"admin-audit":        auth.ScopeAdminAudit,

	"heartbeat":    auth.ScopeHeartbeat,
	"certificate":  auth.ScopeHeartbeat,
	"renew-leases": auth.ScopeLease,
	"renew-lease":  auth.ScopeLease,
	"lease":        auth.ScopeLease,
}

// security describes an operation's credentials, each with the scopes that it needs.
func security(path, id string) []map[string][]string {
	asked := accessTo(Prefix + path)
	needs := []string{}
	for _, scope := range []string{asked.scope, scopes[id]} {
		if scope != "" {
			needs = append(needs, scope)
		}
	}
	switch {
	case asked.public:
		return nil
	case asked.kind == auth.KindWorker:
		return []map[string][]string{{"worker": {}, "workerToken": needs}, {"worker": {}, "certificate": needs}}
	}
	return []map[string][]string{{"key": needs}, {"adminKey": needs}}
}

func kindOf(r *http.Request) auth.Kind { return accessTo(r.URL.Path).kind }

// ofWorkers reports whether a request is for the routes on which workers show credentials of their
// own.
func ofWorkers(r *http.Request) bool { return kindOf(r) == auth.KindWorker }

// public reports whether a request needs no credential.
func public(r *http.Request) bool { return accessTo(r.URL.Path).public }

// unlimited reports whether a request is not counted: a probe, or one of a worker that has proved
// who it is. A worker calls as often as its sandboxes need, and a lease that it may not renew is
// lost.
func unlimited(r *http.Request) bool {
	return publicPaths[r.URL.Path] || middleware.WorkerIdentity(r.Context()).WorkerID != ""
}

// ownWorker refuses a worker that asks in another's place.
func (a *api) ownWorker(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ofWorkers(r) {
			named, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, Prefix+"/worker/"), "/")
			if named != string(middleware.WorkerIdentity(r.Context()).WorkerID) {
				a.fail(w, r, errOtherWorker)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
