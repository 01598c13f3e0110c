package audit

import (
	"context"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// maxDetail is what the audit and the exec log keep of a text, in bytes.
const maxDetail = 2048

// Operation is the audit line of what a caller does; err is what came of it.
func Operation(
	caller stacyvm.Principal, action string, sandbox stacyvm.Sandbox, resource string, err error,
) stacyvm.Operation {
	tenant := sandbox.TenantID
	if tenant == "" {
		tenant = caller.Tenant
	}
	operation := stacyvm.Operation{
		Actor:     caller.Subject,
		Action:    action,
		SandboxID: stacyvm.SandboxID(truncate(string(sandbox.ID))), // it may be a caller's word
		Resource:  truncate(resource),
		Provider:  truncate(sandbox.Provider),
		Status:    "ok",
		TenantID:  tenant,
	}
	switch stacyvm.CodeOf(err) {
	case "":
	case stacyvm.CodeForbidden, stacyvm.CodeUnauthenticated, stacyvm.CodeLimit:
		operation.Status, operation.Detail = "denied", truncate(err.Error())
	default:
		operation.Status, operation.Detail = "failed", truncate(err.Error())
	}
	return operation
}

// Append writes a line in the transaction of the change that the line describes.
func Append(ctx context.Context, tx store.Tx, operation stacyvm.Operation) error {
	return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{operation})
}

// truncate bounds a text and removes what a database cannot store.
func truncate(text string) string {
	if len(text) > maxDetail {
		text = text[:maxDetail]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
}
