package audit

import (
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// The states of sandboxes tell of themselves, with the change. The events here go with the audit
// line, in batches.

// faults are the codes of failures that the caller did not cause.
var faults = map[stacyvm.Code]bool{
	stacyvm.CodeTimeout: true, stacyvm.CodeStaleEpoch: true, stacyvm.CodeLeaseLost: true,
	stacyvm.CodeStorageFull: true, stacyvm.CodeUnsupported: true, stacyvm.CodeUnavailable: true,
	stacyvm.CodeInternal: true,
}

// eventOf is what subscribers are told of an operation beside its audit line, nil for nothing. It
// holds no command and no text of an error: those are for the audit and the log.
func eventOf(op stacyvm.Operation, code stacyvm.Code) *stacyvm.Event {
	n := stacyvm.Event{SandboxID: op.SandboxID, TenantID: op.TenantID, Data: map[string]any{}}
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

func startEvent(e Exec) *stacyvm.Event {
	return &stacyvm.Event{
		Kind: stacyvm.KindExecStarted, SandboxID: e.Sandbox.ID, TenantID: e.Sandbox.TenantID,
		Data: map[string]any{"process_id": e.Command.ProcessID},
	}
}

// exitEvent says how a command ended; nil when that is not known.
func exitEvent(e Exec, exit *stacyvm.Exit) *stacyvm.Event {
	if exit == nil {
		return nil
	}
	n := stacyvm.Event{
		Kind: stacyvm.KindExecCompleted, SandboxID: e.Sandbox.ID, TenantID: e.Sandbox.TenantID,
		Data: map[string]any{
			"process_id": e.Command.ProcessID, "exit_code": exit.Code, "duration_ms": exit.Duration.Milliseconds(),
		},
	}
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

// ProviderFailed are the events of a create that its worker could not carry out, for the
// transaction that writes how it ended. code is the caller's error; a failure that the caller
// caused has none.
func ProviderFailed(sandbox stacyvm.Sandbox, code stacyvm.Code) []stacyvm.Event {
	if !faults[code] {
		return nil
	}
	return []stacyvm.Event{{
		Kind: stacyvm.KindProviderFailed, SandboxID: sandbox.ID, TenantID: sandbox.TenantID,
		Data: map[string]any{
			"provider": sandbox.Provider, "worker_id": string(sandbox.WorkerID), "code": string(code),
		},
	}}
}
