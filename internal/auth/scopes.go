package auth

// The scopes of clients and administrators.
const (
	ScopeReadSandboxes = "read:sandboxes"
	ScopeReadEvents    = "read:events"
	ScopeAPISandboxes  = "api:sandboxes"
	ScopeAPIExec       = "api:exec"
	ScopeAPIFiles      = "api:files"
	ScopeAdminRoutes   = "admin:routes" // every route of administrators needs it beside the one of what it does
	ScopeAdminWorkers  = "admin:workers"
	ScopeAdminAudit    = "admin:audit"
)

// The scopes of a worker credential: each names what its holder may do, or have done, as that
// worker.
const (
	ScopeHeartbeat = "worker:heartbeat"
	ScopeSpawn     = "worker:spawn"
	ScopeDestroy   = "worker:destroy"
	ScopeStatus    = "worker:status"
	ScopeExec      = "worker:exec"
	ScopeFiles     = "worker:files"
	ScopeLogs      = "worker:logs"
	ScopeLease     = "worker:lease"
)

// leaseSpelling is another name of ScopeLease, which is read and never written.
const leaseSpelling = "worker:leases"

// Scopes of the two roles that a key can have.
var (
	clientScopes = []string{"read:*", "api:*"}
	adminScopes  = []string{"read:*", "api:*", "operator:*", "admin:*"}
)

// WorkerScopes lists the eight scopes of workers.
func WorkerScopes() []string {
	return []string{
		ScopeHeartbeat,
		ScopeSpawn,
		ScopeDestroy,
		ScopeStatus,
		ScopeExec,
		ScopeFiles,
		ScopeLogs,
		ScopeLease,
	}
}

// RPCScopes lists those that a control plane needs for what it does with a worker.
func RPCScopes() []string {
	return []string{ScopeSpawn, ScopeDestroy, ScopeStatus, ScopeExec, ScopeFiles, ScopeLogs}
}
