package control

import (
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// The states of sandboxes tell of themselves, with the change. What is told here only passes through: it goes with the
// audit line, in batches.

// faults are the codes of failures that are not the caller's doing.
var faults = map[stacyvm.Code]bool{
	stacyvm.CodeTimeout: true, stacyvm.CodeStaleEpoch: true, stacyvm.CodeLeaseLost: true, stacyvm.CodeStorageFull: true,
	stacyvm.CodeUnsupported: true, stacyvm.CodeUnavailable: true, stacyvm.CodeInternal: true,
}

// noticed is what subscribers are told of an operation beside its audit line, nil for nothing. It holds no command and no
// text of an error: those are for the audit and the log.
func noticed(op stacyvm.Operation, code stacyvm.Code) *stacyvm.Notice {
	n := stacyvm.Notice{SandboxID: op.SandboxID, TenantID: op.TenantID, Data: map[string]any{}}
	if !op.SandboxID.Valid() { // a caller's word
		n.SandboxID = ""
	}
	switch {
	case op.Action == "file.write" && code == "":
		n.Kind, n.Data["path"] = stacyvm.KindFileWritten, op.Resource
	case op.Action == "file.read" && code == "":
		n.Kind, n.Data["path"] = stacyvm.KindFileRead, op.Resource
	case code == stacyvm.CodeLimit:
		n.Kind, n.Data["operation"] = stacyvm.KindResourceLimit, op.Action
	case faults[code]:
		n.Kind, n.Data["operation"], n.Data["code"] = stacyvm.KindOperationFailed, op.Action, string(code)
	default:
		return nil
	}
	return &n
}

func started(sandbox stacyvm.Sandbox, process string) *stacyvm.Notice {
	return &stacyvm.Notice{
		Kind: stacyvm.KindExecStarted, SandboxID: sandbox.ID, TenantID: sandbox.TenantID, Data: map[string]any{"process_id": process},
	}
}

// ended tells how a command ended; nil when that is not known.
func ended(sandbox stacyvm.Sandbox, process string, exit *stacyvm.Exit) *stacyvm.Notice {
	if exit == nil {
		return nil
	}
	n := stacyvm.Notice{Kind: stacyvm.KindExecCompleted, SandboxID: sandbox.ID, TenantID: sandbox.TenantID, Data: map[string]any{
		"process_id": process, "exit_code": exit.Code, "duration_ms": exit.Duration.Milliseconds(),
	}}
	if exit.OOM {
		n.Data["reason"] = string(stacyvm.ReasonOOM)
	}
	switch {
	case exit.TimedOut:
		n.Kind = stacyvm.KindExecTimeout
	case exit.Error != "":
		n.Kind = stacyvm.KindExecFailed
	}
	return &n
}

// providerFailed tells of a create that its worker could not carry out.
func providerFailed(sandbox stacyvm.Sandbox, cause error) []stacyvm.Notice {
	code := stacyvm.CodeOf(createError(cause))
	if !faults[code] {
		return nil
	}
	return []stacyvm.Notice{{Kind: stacyvm.KindProviderFailed, SandboxID: sandbox.ID, TenantID: sandbox.TenantID, Data: map[string]any{
		"provider": sandbox.Provider, "worker_id": string(sandbox.WorkerID), "code": string(code),
	}}}
}
