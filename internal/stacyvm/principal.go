package stacyvm

import "strings"

// Principal is who is calling, as the credential says. A header may narrow it, never widen it.
type Principal struct {
	Subject string // audit actor and, when no owner is named, the owner
	Tenant  string // empty: no tenant, sees everything that its scopes allow
	Scopes  []string
}

// May reports whether the principal holds a scope such as "api:exec". A held scope "api:*" covers
// every "api:..." one.
func (p Principal) May(scope string) bool {
	for _, held := range p.Scopes {
		if held == scope {
			return true
		}
		if family, ok := strings.CutSuffix(held, "*"); ok && strings.HasPrefix(scope, family) {
			return true
		}
	}
	return false
}

// Require refuses a principal that does not hold a scope. CodeForbidden.
func (p Principal) Require(scope string) error {
	if p.May(scope) {
		return nil
	}
	return Errorf(CodeForbidden, "this needs the scope %s", scope)
}

// Sees reports whether the principal may know of an object of this tenant.
func (p Principal) Sees(tenant string) bool { return p.Tenant == "" || p.Tenant == tenant }

// Operation is one line of the operation audit: an action on a sandbox, allowed or denied.
type Operation struct {
	ID        int64
	Actor     string
	Action    string // sandbox.spawn, sandbox.destroy, exec, file.write, ...
	SandboxID SandboxID
	Resource  string
	Provider  string
	Status    string // ok, denied, failed
	Detail    string // at most 2,048 bytes
	TenantID  string
	CreatedUS int64
}

// ExecRecord is one line of the exec log, which is written when a command has ended. Output itself
// is never stored here.
type ExecRecord struct {
	ID         int64
	SandboxID  SandboxID
	ProcessID  string
	Command    string // at most 2,048 bytes
	ExitCode   int    // -1: its end was not seen, and DurationUS is 0
	DurationUS int64
	CreatedUS  int64
}
