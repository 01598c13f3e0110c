package control

import (
	"context"
	"strings"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// maxDetail is what the audit and the exec log keep of a text, in bytes.
const maxDetail = 2048

// Scopes that the service asks for.
const (
	scopeRead    = "read:sandboxes"
	scopeSandbox = "api:sandboxes"
	scopeExec    = "api:exec"
	scopeFiles   = "api:files"
	scopeEvents  = "read:events"
)

// authorise refuses a caller without the scope.
func authorise(ctx context.Context, scope string) error {
	if auth.From(ctx).May(scope) {
		return nil
	}
	return stacyvm.Errorf(stacyvm.CodeForbidden, "this needs the scope %s", scope)
}

// operation is the audit line of what the caller does; err is what came of it.
func operation(ctx context.Context, action string, sandbox stacyvm.Sandbox, resource string, err error) stacyvm.Operation {
	principal := auth.From(ctx)
	tenant := sandbox.TenantID
	if tenant == "" {
		tenant = principal.Tenant
	}
	line := stacyvm.Operation{
		Actor:     principal.Subject,
		Action:    action,
		SandboxID: stacyvm.SandboxID(cut(string(sandbox.ID))), // it may be a caller's word
		Resource:  cut(resource),
		Provider:  cut(sandbox.Provider),
		Status:    "ok",
		TenantID:  tenant,
	}
	switch stacyvm.CodeOf(err) {
	case "":
	case stacyvm.CodeForbidden, stacyvm.CodeUnauthenticated, stacyvm.CodeLimit:
		line.Status, line.Detail = "denied", cut(err.Error())
	default:
		line.Status, line.Detail = "failed", cut(err.Error())
	}
	return line
}

// audited writes the line of an operation that does not change the store otherwise, and gives the operation's error. With
// audit.sync the line is on disk before this returns, and a line that cannot be written is an error itself.
func (s *Service) audited(ctx context.Context, action string, sandbox stacyvm.Sandbox, resource string, err error) error {
	op := operation(ctx, action, sandbox, resource, err)
	l := line{operation: &op, notice: noticed(op, stacyvm.CodeOf(err))}
	if !s.auditSync {
		s.journal.add(ctx, l)
		return err
	}
	failed := s.journal.append(context.WithoutCancel(ctx), []line{l})
	if err == nil {
		err = failed
	}
	return err
}

// AuditAdmin keeps a line of a call of an administrative route, whatever became of it. With audit.sync it is on disk before this
// returns; a line that cannot be written is for the log then: the call has been answered.
func (s *Service) AuditAdmin(ctx context.Context, call stacyvm.AdminCall) {
	call.Method, call.Path, call.UserAgent = cut(call.Method), cut(call.Path), cut(call.UserAgent)
	l := line{admin: &call}
	if !s.auditSync {
		s.journal.add(ctx, l)
		return
	}
	if err := s.journal.append(context.WithoutCancel(ctx), []line{l}); err != nil {
		s.log.Error("a line of the administrators' audit could not be written", "path", call.Path, "error", err)
	}
}

// auditIn writes a line in the transaction of the change that it tells of.
func auditIn(ctx context.Context, tx store.Tx, op stacyvm.Operation) error {
	return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{op})
}

// cut bounds a text and makes it storable.
func cut(text string) string {
	if len(text) > maxDetail {
		text = text[:maxDetail]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
}
