package api

import (
	"cmp"
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

type spawnInput struct {
	User string `header:"X-User-ID" maxLength:"128" doc:"Owner of the sandbox and name in the audit."`
	Key  string `header:"Idempotency-Key" maxLength:"255" doc:"Makes a repeat answer with the first sandbox for 24 h; 1-255 visible ASCII characters."`
	Body *Spawn
}

type spawnOutput struct {
	Replayed string `header:"Idempotent-Replayed" doc:"true: the answer is that of an earlier request with the same key."`
	Body     Sandbox
}

type listInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" doc:"At most this many; 10,000 without it."`
	Cursor string `query:"cursor" maxLength:"200" doc:"X-Next-Cursor of the page before: those behind it. Without one, from the newest on."`
}

type admissionInput struct {
	User   string `header:"X-User-ID" maxLength:"128"`
	Detail string `query:"detail" enum:"placement" doc:"placement adds which worker would take it."`
	Body   *Spawn
}

type extendInput struct {
	SandboxPath
	Body struct {
		TTL string `json:"ttl" minLength:"1" maxLength:"64" doc:"From now on." example:"30m"`
	}
}

// Pruned counts destroyed sandboxes.
type Pruned struct {
	Pruned int `json:"pruned"`
}

const tagSandboxes = "sandboxes"

func (a *api) sandboxRoutes() {
	register(
		a,
		route{method: http.MethodPost, path: "/sandboxes", id: "spawn", tag: tagSandboxes, status: http.StatusCreated,
			summary: "Create a sandbox and wait until it runs", errors: []int{404, 409, 422, 429, 507}},
		a.spawn,
	)
	register(a, route{method: http.MethodGet, path: "/sandboxes", id: "list-sandboxes", tag: tagSandboxes,
		summary: "List sandboxes, newest first, without destroyed ones",
		responses: map[string]*huma.Response{"200": {
			Description: "The sandboxes.",
			Headers: map[string]*huma.Param{
				nextHeader: {
					Schema:      &huma.Schema{Type: "string"},
					Description: "Asks for the next page; there is none without it.",
				},
			},
			Content: map[string]*huma.MediaType{
				"application/json": {Schema: a.schema(reflect.TypeFor[[]Sandbox]())},
			},
		}}}, a.list)
	register(a, route{method: http.MethodDelete, path: "/sandboxes", id: "prune", tag: tagSandboxes,
		summary: "Destroy every expired sandbox"}, a.prune)
	register(a, route{method: http.MethodPost, path: "/sandboxes/admission", id: "admission", tag: tagSandboxes,
		summary: "Ask whether a spawn would be let in now", errors: []int{404, 422}}, a.admission)
	register(a, route{method: http.MethodGet, path: "/sandboxes/{id}", id: "sandbox", tag: tagSandboxes,
		summary: "Look one sandbox up", errors: []int{404},
		responses: map[string]*huma.Response{"200": {
			Description: http.StatusText(http.StatusOK),
			Content: map[string]*huma.MediaType{
				"application/json": {Schema: a.schema(reflect.TypeFor[Sandbox]())},
			},
		}}}, a.sandbox)
	register(a, route{method: http.MethodDelete, path: "/sandboxes/{id}", id: "destroy", tag: tagSandboxes,
		summary: "Destroy a sandbox and wait until nothing of it is left", errors: []int{404, 409}}, a.destroy)
	register(a, route{method: http.MethodPost, path: "/sandboxes/{id}/extend", id: "extend", tag: tagSandboxes,
		summary: "Let a sandbox live for this long from now on", errors: []int{404, 409, 429}}, a.extend)
}

func (a *api) spawn(ctx context.Context, in *spawnInput) (*spawnOutput, error) {
	request, err := in.Body.request(in.User)
	if err != nil {
		return nil, err
	}
	key := control.Idempotency{Key: in.Key, Route: "POST /sandboxes", BodyHash: in.Body.hash()}
	sandbox, replayed, err := a.Service.Create(ctx, request, key)
	if err != nil {
		return nil, err
	}
	output := &spawnOutput{Body: a.sandboxOf(sandbox)}
	if replayed {
		output.Replayed = "true"
	}
	return output, nil
}

// nextHeader carries the cursor of the next page.
const nextHeader = "X-Next-Cursor"

const (
	// maxList is what a list without a limit holds.
	maxList = 10_000
	// listPage is how many sandboxes of a list are in memory at once.
	listPage = 200
)

// list reads the list page by page while it writes it, so that a long one takes no more memory
// than a short one.
func (a *api) list(ctx context.Context, in *listInput) (*written, error) {
	limit := cmp.Or(in.Limit, maxList)
	first, next, err := a.Service.Sandboxes(ctx, control.SandboxPage{After: in.Cursor, Limit: min(limit, listPage)})
	if err != nil {
		return nil, err
	}
	end := next // of the whole answer
	if next != "" && limit > listPage {
		if end, err = a.Service.SandboxCursor(ctx, in.Cursor, limit); err != nil {
			return nil, err
		}
	}
	return &written{func(c huma.Context) {
		if end != "" {
			c.SetHeader(nextHeader, end)
		}
		rows := newRows(c)
		a.writeSandboxes(rows, first)
		for next != "" && next != end && !rows.head {
			var page []stacyvm.Sandbox
			page, next, err = a.Service.Sandboxes(ctx, control.SandboxPage{After: next, Until: end, Limit: listPage})
			if err != nil {
				panic(http.ErrAbortHandler) // so that nobody takes it for whole
			}
			a.writeSandboxes(rows, page)
		}
		rows.end()
	}}, nil
}

// each translates a list; an empty one is [] in JSON.
func each[T, U any](list []T, translate func(T) U) []U {
	translated := make([]U, len(list))
	for i, item := range list {
		translated[i] = translate(item)
	}
	return translated
}

func (a *api) prune(ctx context.Context, _ *struct{}) (*body[Pruned], error) {
	n, err := a.Service.Prune(ctx)
	return answered(Pruned{n}, err)
}

func (a *api) admission(ctx context.Context, in *admissionInput) (*body[Admission], error) {
	request, err := in.Body.request(in.User)
	if err != nil {
		return nil, err
	}
	admission, err := a.Service.Admit(ctx, request)
	return answered(admissionOf(admission, in.Detail == "placement"), err)
}

func (a *api) sandbox(ctx context.Context, in *SandboxPath) (*written, error) {
	found, err := a.Service.Sandbox(ctx, in.sandbox())
	if err != nil {
		return nil, err
	}
	answer := a.sandboxOf(found)
	text, err := appendSandbox(nil, &answer)
	return &written{func(c huma.Context) {
		c.SetHeader("Content-Type", "application/json")
		c.SetStatus(http.StatusOK)
		_, _ = c.BodyWriter().Write(append(text, '\n')) // a client that left is not told
	}}, err
}

func (a *api) one(sandbox stacyvm.Sandbox, err error) (*body[Sandbox], error) {
	return answered(a.sandboxOf(sandbox), err)
}

func (a *api) destroy(ctx context.Context, in *SandboxPath) (*body[Status], error) {
	return done("destroyed", a.Service.Destroy(ctx, in.sandbox()))
}

func (a *api) extend(ctx context.Context, in *extendInput) (*body[Sandbox], error) {
	ttl, err := lifetime("ttl", in.Body.TTL)
	if err != nil {
		return nil, err
	}
	return a.one(a.Service.Extend(ctx, in.sandbox(), *ttl))
}
