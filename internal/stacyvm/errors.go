package stacyvm

import (
	"errors"
	"fmt"
	"syscall"
)

// Code says what kind of failure an error is. The list is closed; each transport maps it in one
// place.
type Code string

const (
	// CodeInvalid means that the caller's input is wrong; Field names the part.
	CodeInvalid Code = "invalid"
	// CodeUnauthenticated means that there is no credential or a wrong one.
	CodeUnauthenticated Code = "unauthenticated"
	// CodeForbidden means that the credential is good but may not do this.
	CodeForbidden Code = "forbidden"
	// CodeNotFound means that there is no such object, or one that the caller may not see.
	CodeNotFound Code = "not_found"
	// CodeTimeout means that the operation's own time limit passed.
	CodeTimeout Code = "timeout"
	// CodeConflict means that the object's state does not allow it, or the name is taken.
	CodeConflict Code = "conflict"
	// CodeInProgress means that the same idempotency key is being worked on; try again soon.
	CodeInProgress Code = "in_progress"
	// CodeKeyReused means that the idempotency key came before with another body.
	CodeKeyReused Code = "key_reused"
	// CodeStaleEpoch means that a newer owner exists; nothing was changed.
	CodeStaleEpoch Code = "stale_epoch"
	// CodeLeaseLost means that the worker's own lease ran out; nothing was changed.
	CodeLeaseLost Code = "lease_lost"
	// CodeLimit means that a quota, cap or rate is reached.
	CodeLimit Code = "limit"
	// CodeTooLarge means that a body or file is over its limit.
	CodeTooLarge Code = "too_large"
	// CodeStorageFull means that there is no space to do it; nothing was changed.
	CodeStorageFull Code = "storage_full"
	// CodeUnsupported means that the engine or this machine cannot do it; the message says why.
	CodeUnsupported Code = "unsupported"
	// CodeUnavailable means that a part that is needed does not answer now; trying again can help.
	CodeUnavailable Code = "unavailable"
	// CodeInternal is for anything else. Its message is never shown to clients.
	CodeInternal Code = "internal"
)

// Error is the one error type that crosses package borders. Message is for the caller and holds no
// host path, engine text, SQL or secret; Err is for logs.
type Error struct {
	Code    Code
	Field   string // for CodeInvalid and CodeLimit: the input's name as the caller wrote it
	Message string
	Err     error
}

// Error gives the whole text for logs, the cause included.
func (e *Error) Error() string {
	text := string(e.Code)
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error with a caller-facing message. A %w operand becomes the cause for
// errors.Is, and its text is part of the message: wrap with Wrap instead when the text must stay
// in the logs.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Invalid makes a CodeInvalid error for one field; the message starts with the field's name.
func Invalid(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: field + ": " + fmt.Sprintf(format, args...)}
}

// Wrap keeps err as the cause, for logs, under a message for the caller. Whatever failed because this
// process has no file descriptor left is CodeUnavailable, and says so: every part of the product can
// meet that, and none does wrong then.
func Wrap(code Code, err error, message string) *Error {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		code = CodeUnavailable
		message += ": no file descriptor is left (see \"open files\" in docs/operations.md)"
	}
	return &Error{Code: code, Message: message, Err: err}
}

// CodeOf gives the code of the first *Error in err's chain, CodeInternal without one, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}
