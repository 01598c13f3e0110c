// Package audit writes down what callers did beside the changes of rows: audit lines, the exec
// log, the administrators' audit and the events that go with them, in batches and out of the
// request path; and it gives events to subscribers. It knows the store and the guest client,
// neither the workers nor the verbs: who calls, and how a guest is reached, is passed in.
package audit

import (
	"context"
	"errors"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// exitUnknown stands in the exec log for a command whose end was not seen: the server stopped
// before, or its guest was lost.
const exitUnknown = -1

// Record writes the line of an operation that changes nothing in the store itself, and gives the
// operation's error. With Config.Sync the line is on disk before this returns, and a line that
// cannot be written is an error itself.
func (w *Writer) Record(
	ctx context.Context, caller stacyvm.Principal, action string, sandbox stacyvm.Sandbox, resource string, err error,
) error {
	recorded := err
	if left(ctx, err) {
		recorded = errLeft
	}
	operation := Operation(caller, action, sandbox, resource, recorded)
	e := entry{operation: &operation, event: eventOf(operation, stacyvm.CodeOf(recorded))}
	if !w.sync {
		w.add(ctx, e)
		return err
	}
	failed := w.append(context.WithoutCancel(ctx), []entry{e})
	if err == nil {
		err = failed
	}
	return err
}

// errLeft stands in the audit for the failure of an operation whose caller went away: nothing here
// is at fault.
var errLeft = stacyvm.Errorf(stacyvm.CodeInvalid, "the caller left before the end")

// left reports whether an operation failed because its caller went away. A server that stops gives
// another cause.
func left(ctx context.Context, err error) bool {
	return stacyvm.CodeOf(err) == stacyvm.CodeUnavailable && errors.Is(context.Cause(ctx), context.Canceled)
}

// RecordAdmin writes the line of a call of an administrative route, whatever came of it. With
// Config.Sync it is on disk before this returns; a line that cannot be written is for the log
// then: the call has been answered.
func (w *Writer) RecordAdmin(ctx context.Context, call stacyvm.AdminCall) {
	call.Method, call.Path, call.UserAgent = truncate(call.Method), truncate(call.Path), truncate(call.UserAgent)
	e := entry{admin: &call}
	if !w.sync {
		w.add(ctx, e)
		return
	}
	if err := w.append(context.WithoutCancel(ctx), []entry{e}); err != nil {
		w.log.Error("a line of the administrators' audit could not be written", "path", call.Path, "error", err)
	}
}

// Publish tells subscribers of what happened; nil is nothing.
func (w *Writer) Publish(ctx context.Context, event *stacyvm.Event) {
	if event != nil {
		w.add(ctx, entry{event: event})
	}
}

// Exec is a command that runs in a sandbox.
type Exec struct {
	Sandbox stacyvm.Sandbox
	Command stacyvm.Command
	Began   time.Time
}

// RecordStart tells subscribers that a command has started.
func (w *Writer) RecordStart(ctx context.Context, e Exec) { w.Publish(ctx, startEvent(e)) }

// RecordExit writes the exec log line of a command, and tells subscribers how it ended. It is
// called once for a command; a nil exit means that its end is not known.
func (w *Writer) RecordExit(ctx context.Context, e Exec, exit *stacyvm.Exit) {
	record := stacyvm.ExecRecord{
		SandboxID: e.Sandbox.ID, ProcessID: e.Command.ProcessID, Command: truncate(e.Command.Display()),
		ExitCode: exitUnknown, CreatedUS: e.Began.UnixMicro(),
	}
	if exit != nil && exit.OOM {
		w.log.Warn("a command ran out of memory", "sandbox", e.Sandbox.ID, "process", e.Command.ProcessID,
			"exit_code", exit.Code, "reason", stacyvm.ReasonOOM, "memory_mb", e.Sandbox.Spec.MemoryMB)
	}
	if exit != nil {
		record.ExitCode, record.DurationUS = exit.Code, exit.Duration.Microseconds()
	}
	w.add(ctx, entry{exec: &record, event: exitEvent(e, exit)})
}
