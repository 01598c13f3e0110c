package auth

// The scopes of clients and administrators. Those of workers are beside WorkerScopes.
const (
	ScopeReadSandboxes = "read:sandboxes"
	ScopeReadEvents    = "read:events"
	ScopeAPISandboxes  = "api:sandboxes"
	ScopeAPIExec       = "api:exec"
	ScopeAPIFiles      = "api:files"
	ScopeAdminWorkers  = "admin:workers"
	ScopeAdminAudit    = "admin:audit"
)
