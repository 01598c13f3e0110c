package remote

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	workerv1 "github.com/stacyvm/stacyvm/proto/worker/v1"
)

// failureHeader carries the Failure of a request that the worker itself refused, as base64. A
// guest's answer never has it: that is how the two are told apart.
const failureHeader = "Stacyvm-Failure"

// maxWords bounds an error's message on the wire, in bytes.
const maxWords = 4 << 10

// codes says how each code reads to a client that knows Connect alone. Its keys are all codes that
// are taken from a peer.
var codes = map[stacyvm.Code]connect.Code{
	stacyvm.CodeInvalid:         connect.CodeInvalidArgument,
	stacyvm.CodeUnauthenticated: connect.CodeUnauthenticated,
	stacyvm.CodeForbidden:       connect.CodePermissionDenied,
	stacyvm.CodeNotFound:        connect.CodeNotFound,
	stacyvm.CodeTimeout:         connect.CodeDeadlineExceeded,
	stacyvm.CodeConflict:        connect.CodeAlreadyExists,
	stacyvm.CodeInProgress:      connect.CodeAborted,
	stacyvm.CodeKeyReused:       connect.CodeFailedPrecondition,
	stacyvm.CodeStaleEpoch:      connect.CodeAborted,
	stacyvm.CodeLeaseLost:       connect.CodeAborted,
	stacyvm.CodeLimit:           connect.CodeResourceExhausted,
	stacyvm.CodeTooLarge:        connect.CodeOutOfRange,
	stacyvm.CodeStorageFull:     connect.CodeResourceExhausted,
	stacyvm.CodeUnsupported:     connect.CodeUnimplemented,
	stacyvm.CodeUnavailable:     connect.CodeUnavailable,
	stacyvm.CodeInternal:        connect.CodeInternal,
}

// outward gives what of an error crosses the wire: code, field and message, never a cause.
func outward(err error) *workerv1.Failure {
	if own, ok := errors.AsType[*stacyvm.Error](err); ok {
		return &workerv1.Failure{Code: string(own.Code), Message: clip(own.Message), Field: clip(own.Field)}
	}
	code := stacyvm.CodeInternal
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = stacyvm.CodeTimeout
	case errors.Is(err, context.Canceled):
		code = stacyvm.CodeUnavailable
	}
	return &workerv1.Failure{Code: string(code)}
}

// inward makes the error that a failure stands for. A code that is not known here is CodeInternal.
func inward(f *workerv1.Failure) *stacyvm.Error {
	code := stacyvm.Code(f.GetCode())
	if _, known := codes[code]; !known {
		code = stacyvm.CodeInternal
	}
	return &stacyvm.Error{Code: code, Message: clip(f.GetMessage()), Field: clip(f.GetField())}
}

func clip(words string) string {
	return strings.ToValidUTF8(words[:min(len(words), maxWords)], "")
}

// wireError makes the answer of a method that failed.
func wireError(err error) *connect.Error {
	f := outward(err)
	answer := connect.NewError(codes[stacyvm.Code(f.GetCode())], errors.New(f.GetMessage()))
	if detail, err := connect.NewErrorDetail(f); err == nil {
		answer.AddDetail(detail)
	}
	return answer
}

// mark puts a failure into the head of an answer.
func mark(head http.Header, err error) {
	if raw, err := proto.Marshal(outward(err)); err == nil {
		head.Set(failureHeader, base64.StdEncoding.EncodeToString(raw))
	}
}

// marked reads what mark wrote; nil: nothing.
func marked(head http.Header) error {
	text := head.Get(failureHeader)
	if text == "" {
		return nil
	}
	var f workerv1.Failure
	raw, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = proto.Unmarshal(raw, &f)
	}
	if err != nil {
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the worker's answer cannot be read")
	}
	return inward(&f)
}

// failure makes an error of this product out of what a call to a worker returned. ctx is the
// call's.
func failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[*stacyvm.Error](err); ok {
		return own
	}
	if answer, ok := errors.AsType[*connect.Error](err); ok && connect.IsWireError(err) {
		for _, detail := range answer.Details() {
			if value, err := detail.Value(); err == nil {
				if f, ok := value.(*workerv1.Failure); ok {
					return inward(f)
				}
			}
		}
		if answer.Code() == connect.CodeUnimplemented {
			return stacyvm.Wrap(
				stacyvm.CodeUnsupported,
				err,
				"the worker is of another release and does not know this call",
			)
		}
	}
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the worker cannot be reached")
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
