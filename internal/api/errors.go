package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// answer is how clients see a code of the vocabulary.
type answer struct {
	status int
	code   string
	retry  int // seconds for Retry-After; 0: none
}

// answers is the one mapping of codes. A code that is not here is answered as internal.
var answers = map[stacyvm.Code]answer{
	stacyvm.CodeInvalid:         {http.StatusBadRequest, "BAD_REQUEST", 0},
	stacyvm.CodeUnauthenticated: {http.StatusUnauthorized, "UNAUTHORIZED", 0},
	stacyvm.CodeForbidden:       {http.StatusForbidden, "FORBIDDEN", 0},
	stacyvm.CodeNotFound:        {http.StatusNotFound, "NOT_FOUND", 0},
	stacyvm.CodeTimeout:         {http.StatusRequestTimeout, "TIMEOUT", 0},
	stacyvm.CodeConflict:        {http.StatusConflict, "CONFLICT", 0},
	stacyvm.CodeInProgress:      {http.StatusConflict, "CONFLICT", 1},
	stacyvm.CodeKeyReused:       {http.StatusUnprocessableEntity, "KEY_REUSED", 0},
	stacyvm.CodeUnsupported:     {http.StatusUnprocessableEntity, "UNSUPPORTED", 0},
	stacyvm.CodeLimit:           {http.StatusTooManyRequests, "RESOURCE_LIMIT", 0},
	stacyvm.CodeTooLarge:        {http.StatusRequestEntityTooLarge, "RESOURCE_LIMIT", 0},
	stacyvm.CodeStorageFull:     {http.StatusInsufficientStorage, "STORAGE_FULL", 0},
	stacyvm.CodeUnavailable:     {http.StatusServiceUnavailable, "UNAVAILABLE", 1},
	// Nothing was changed, and who has the right to act is about to be known again.
	stacyvm.CodeStaleEpoch: {http.StatusServiceUnavailable, "UNAVAILABLE", 1},
	stacyvm.CodeLeaseLost:  {http.StatusServiceUnavailable, "UNAVAILABLE", 1},
	stacyvm.CodeInternal:   {http.StatusInternalServerError, "INTERNAL_ERROR", 0},
}

var (
	errNoRoute = stacyvm.Errorf(stacyvm.CodeNotFound, "there is no such route")
	// errOtherWorker has the code of a wrong credential: it is good, for another path.
	errOtherWorker = &Error{
		status:  http.StatusForbidden,
		Code:    "UNAUTHORIZED",
		Message: "the worker credential is another worker's",
	}
	errNoAdmin  = stacyvm.Errorf(stacyvm.CodeForbidden, "this needs the administrator's key")
	errDraining = stacyvm.Errorf(stacyvm.CodeUnavailable, "the server is stopping")
)

// Error is the body of every error answer.
type Error struct {
	status int
	retry  int
	header http.Header // more headers; nil: none

	Code    string `json:"code" doc:"What kind of error it is." example:"NOT_FOUND"`
	Message string `json:"message" doc:"For people; names the field that is wrong." example:"ttl: must be positive, such as 30m"`
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// GetStatus implements huma.StatusError.
func (e *Error) GetStatus() int { return e.status }

// GetHeaders implements huma.HeadersError.
func (e *Error) GetHeaders() http.Header {
	header := http.Header{}
	maps.Copy(header, e.header)
	if e.retry > 0 {
		header.Set("Retry-After", strconv.Itoa(e.retry))
	}
	return header
}

func errMethod(method string) *Error {
	return &Error{
		status:  http.StatusMethodNotAllowed,
		Code:    "METHOD_NOT_ALLOWED",
		Message: fmt.Sprintf("%.16q is not possible here; see Allow", method),
	}
}

// wire makes the answer to an error and logs what the client is not told.
func (a *api) wire(ctx context.Context, err error) *Error {
	if done, ok := errors.AsType[*Error](err); ok {
		return done
	}
	var known *stacyvm.Error
	switch {
	case errors.As(err, &known):
	case errors.Is(err, context.Canceled): // the client left, or the server stops
		known = errDraining
	case errors.Is(err, context.DeadlineExceeded):
		known = stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the server could not do it in time")
	default:
		known = stacyvm.Wrap(stacyvm.CodeInternal, err, "")
	}
	as, ok := answers[known.Code]
	if !ok {
		as = answers[stacyvm.CodeInternal]
	}
	e := &Error{status: as.status, retry: as.retry, Code: as.code, Message: known.Message}
	if as.status == http.StatusInternalServerError {
		a.Logger.Error("internal error", "id", middleware.RequestID(ctx), "error", err)
		e.Message = "internal error; the server's log has more under request id " + middleware.RequestID(ctx)
	} else if known.Err != nil {
		a.Logger.Debug("request failed", "id", middleware.RequestID(ctx), "error", err)
	}
	if e.Message == "" {
		e.Message = http.StatusText(as.status)
	}
	return e
}

// fail answers a request that no handler of huma has begun to answer.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := a.wire(r.Context(), err)
	body, _ := json.Marshal(e) // two strings
	header := w.Header()
	header.Set("Content-Type", "application/json")
	if e.retry > 0 && header.Get("Retry-After") == "" {
		header.Set("Retry-After", strconv.Itoa(e.retry))
	}
	w.WriteHeader(e.status)
	_, _ = w.Write(append(body, '\n')) // a client that left is not told
}

func init() {
	// Huma has one error format per program; this package is its only user.
	huma.NewError = humaError
	huma.NewErrorWithContext = func(_ huma.Context, status int, message string, errs ...error) huma.StatusError {
		return humaError(status, message, errs...)
	}
	huma.ValidateStrictCasing = true  // a name in another case is unknown
	huma.DefaultArrayNullable = false // no list of ours is null
}

// humaError is the answer to what huma itself finds wrong: unreadable bodies and values that do
// not fit their schema.
func humaError(status int, message string, errs ...error) huma.StatusError {
	code := stacyvm.CodeInvalid
	switch status {
	case http.StatusRequestEntityTooLarge:
		code, message = stacyvm.CodeTooLarge, strings.Replace(
			message,
			"request body is too large limit=",
			"body: larger than ",
			1,
		)
	case http.StatusRequestTimeout:
		code, message = stacyvm.CodeTimeout, "body: nothing came for too long"
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType:
		message = faults(message, errs)
	case http.StatusInternalServerError: // the only one: a body that was not read to its end
		message = "body: could not be read to its end"
		if known, ok := errors.AsType[*stacyvm.Error](errors.Join(errs...)); ok {
			code, message = known.Code, known.Message
		}
	}
	as := answers[code]
	return &Error{status: as.status, retry: as.retry, Code: as.code, Message: message}
}

const maxFaults = 3 // told at once

// faults makes one message of what is wrong, each part beginning with the field's name.
func faults(message string, errs []error) string {
	var texts []string
	for _, err := range errs {
		var detail huma.ErrorDetailer
		if errors.As(err, &detail) {
			texts = append(texts, fault(detail.ErrorDetail()))
		}
	}
	slices.Sort(texts) // huma walks maps
	texts = slices.Compact(texts)
	if len(texts) == 0 { // the only one: no body
		return strings.Replace(message, "request body", "body:", 1)
	}
	return strings.Join(texts[:min(len(texts), maxFaults)], "; ")
}

func fault(detail *huma.ErrorDetail) string {
	_, field, _ := strings.Cut(detail.Location, ".") // the first word is body, query, path or header
	var missing string
	if _, err := fmt.Sscanf(detail.Message, validation.MsgExpectedRequiredProperty, &missing); err == nil {
		return strings.TrimPrefix(field+"."+missing, ".") + ": is required"
	}
	switch {
	case strings.HasPrefix(detail.Message, "required ") && strings.HasSuffix(detail.Message, "is missing"):
		return field + ": is required"
	case detail.Message == validation.MsgUnexpectedProperty || detail.Message == "unknown query parameter":
		return cutField(field) + ": is not known here"
	case strings.HasPrefix(detail.Message, huma.ErrUnknownContentType.Error()):
		return "Content-Type: must be application/json"
	case field == "" && detail.Location == "body" && strings.Contains(detail.Message, ": "):
		return detail.Message // our decoder named the field
	case field == "":
		field = detail.Location
	}
	return cutField(field) + ": " + detail.Message
}

// cutField bounds a name that the client chose.
func cutField(field string) string {
	if len(field) > 100 {
		field = field[:100]
	}
	return strings.ToValidUTF8(field, "")
}
