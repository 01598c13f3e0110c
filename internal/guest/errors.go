package guest

import (
	"context"
	"errors"
	"io"
	"strings"
	"unicode"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// codes maps what a guest answers. Whatever is not here is CodeInternal. A file that the sandbox's
// own permissions keep closed is the caller's mistake, not a matter of the caller's rights:
// CodeInvalid, not CodeForbidden.
var codes = map[connect.Code]stacyvm.Code{
	connect.CodeNotFound:           stacyvm.CodeNotFound,
	connect.CodeAlreadyExists:      stacyvm.CodeConflict,
	connect.CodeFailedPrecondition: stacyvm.CodeConflict,
	connect.CodeAborted:            stacyvm.CodeConflict,
	connect.CodeInvalidArgument:    stacyvm.CodeInvalid,
	connect.CodeOutOfRange:         stacyvm.CodeTooLarge,
	connect.CodePermissionDenied:   stacyvm.CodeInvalid,
	connect.CodeResourceExhausted:  stacyvm.CodeStorageFull,
	connect.CodeDeadlineExceeded:   stacyvm.CodeTimeout,
	connect.CodeUnimplemented:      stacyvm.CodeUnsupported,
	connect.CodeUnavailable:        stacyvm.CodeUnavailable,
	connect.CodeUnauthenticated:    stacyvm.CodeUnavailable,
	connect.CodeCanceled:           stacyvm.CodeUnavailable,
}

// failure makes an error of this product out of what a call returned. ctx is the call's.
func failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[*stacyvm.Error](err); ok {
		return own // refused on the way to the guest
	}
	if ctx.Err() != nil {
		return ended(ctx)
	}
	var answer *connect.Error
	if !errors.As(err, &answer) || !connect.IsWireError(err) {
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the connection to the sandbox broke")
	}
	code, known := codes[answer.Code()]
	if !known {
		code = stacyvm.CodeInternal
	}
	return stacyvm.Wrap(code, err, phrase(answer.Message()))
}

// Broken reports whether a call failed in such a way that a new connection to the guest may help.
func Broken(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true // the stream ended without the exit
	}
	code := stacyvm.CodeOf(err)
	return code == stacyvm.CodeUnavailable || code == stacyvm.CodeStaleEpoch || code == stacyvm.CodeLeaseLost
}

// ended is the error of a call whose caller stopped waiting: the context's own cause, CodeTimeout
// at a deadline.
func ended(ctx context.Context) error {
	cause := context.Cause(ctx)
	if own, ok := errors.AsType[*stacyvm.Error](cause); ok {
		return own
	}
	code := stacyvm.CodeUnavailable
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = stacyvm.CodeTimeout
	}
	return stacyvm.Wrap(code, cause, "the caller stopped waiting")
}

// nonsense is the error for a guest that breaks the protocol; why is for logs.
func nonsense(why string) error {
	return stacyvm.Wrap(stacyvm.CodeUnavailable, errors.New(why), "the sandbox's guest program broke the protocol")
}

// cut is the error of a stream that ended too early.
func cut() error {
	return stacyvm.Wrap(stacyvm.CodeUnavailable, io.ErrUnexpectedEOF, "the connection to the sandbox was cut")
}

// phrase makes one printable line out of a guest's words.
func phrase(words string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text(words, 512))
}
