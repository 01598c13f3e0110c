package api

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// processHeader names the process of an exec, so that its output can be attached to later.
const processHeader = "X-Process-ID"

type execInput struct {
	SandboxPath
	Key  string `header:"Idempotency-Key" maxLength:"255" doc:"A repeat is given the output of the first command; nothing runs twice."`
	Body Exec
}

// written is an output that the handler writes itself.
type written struct {
	Body func(huma.Context)
}

const (
	tagExec   = "exec"
	execRoute = "POST /sandboxes/{id}/exec"
)

func (a *api) execRoutes() {
	a.execSchema, a.messageSchema = a.schema(reflect.TypeFor[Exec]()), a.schema(reflect.TypeFor[Message]())
	register(a, route{method: http.MethodPost, path: "/sandboxes/{id}/exec", id: "exec", tag: tagExec, stream: true,
		summary: "Run a command and answer with its output",
		errors:  []int{404, 408, 409, 422, 429}, responses: map[string]*huma.Response{"200": {
			Description: "The result, or with stream the output as it comes: one frame per line, the last one with the exit code.",
			Headers: map[string]*huma.Param{
				processHeader: {Schema: &huma.Schema{Type: "string"}, Description: "The process."},
			},
			Content: map[string]*huma.MediaType{
				"application/json":     {Schema: a.schema(reflect.TypeFor[ExecResult]())},
				"application/x-ndjson": {Schema: a.schema(reflect.TypeFor[Frame]())},
			},
		}}}, a.exec)
	register(
		a,
		route{
			method:  http.MethodGet,
			path:    "/sandboxes/{id}/exec/ws",
			id:      "exec-websocket",
			tag:     tagExec,
			stream:  true,
			summary: "Run a command over a WebSocket: the first message is the exec body, then frames in both directions",
			responses: map[string]*huma.Response{
				"101": {Description: "Switching to a WebSocket."},
			},
			status: 101,
		},
		a.execSocket,
	)
}

func (a *api) schema(t reflect.Type) *huma.Schema {
	return a.huma.OpenAPI().Components.Schemas.Schema(t, true, "")
}

func (a *api) exec(ctx context.Context, in *execInput) (*written, error) {
	binary, err := encodingOf(in.Body.Encoding)
	if err != nil {
		return nil, err
	}
	request, err := in.Body.request(true)
	if err != nil {
		return nil, err
	}
	if in.Key != "" {
		request.Key = control.Idempotency{Key: in.Key, Route: execRoute, BodyHash: hashOf(in.Body.Launch)}
	}
	if in.Body.Stream {
		return a.execStream(ctx, in.sandbox(), request, binary)
	}
	result, err := a.Service.Exec(ctx, in.sandbox(), request)
	if err != nil {
		return nil, err
	}
	if result.Exit.TimedOut {
		return nil, a.timedOut(ctx, in.ID, result)
	}
	return a.execAnswer(ctx, in.sandbox(), result, binary)
}

func setProcess(set func(name, value string), process string, replayed bool) {
	set(processHeader, process)
	if replayed {
		set("Idempotent-Replayed", "true")
	}
}

// timedOut is the answer for a command that its time limit ended. What it printed can still be
// attached to.
func (a *api) timedOut(ctx context.Context, sandbox string, result control.ExecResult) *Error {
	e := a.wire(
		ctx,
		stacyvm.Errorf(
			stacyvm.CodeTimeout,
			"exec timeout: %s; the output is kept as process %s",
			sandbox,
			result.Process.ID,
		),
	)
	e.header = http.Header{processHeader: {result.Process.ID}}
	return e
}

// execStream starts the command and answers with its output. The first event comes before the
// answer begins, so that a start that fails is an ordinary error answer.
func (a *api) execStream(
	ctx context.Context,
	id stacyvm.SandboxID,
	request control.ExecRequest,
	binary bool,
) (*written, error) {
	output, err := a.Service.Run(ctx, id, request)
	if err != nil {
		return nil, err
	}
	first, err := output.Next(ctx)
	if err != nil {
		_ = output.Close() // the error before is the one to tell
		return nil, err
	}
	return &written{func(c huma.Context) {
		defer output.Close()
		if first.Started != nil {
			setProcess(c.SetHeader, first.Started.ID, first.Started.Replayed)
		}
		s := a.newLines(c, newFramer(binary, false))
		s.timeout = "exec timeout: " + string(id)
		s.copy(output, first)
	}}, nil
}
