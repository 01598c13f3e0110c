package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Bounds of request bodies, in bytes. A raw upload has none but the sandbox's disk.
const (
	maxBody      = 1 << 20
	maxInputBody = 2 << 20  // 1 MiB of input as base64
	maxFileBody  = 16 << 20 // a file inside JSON
)

func humaConfig(version string) huma.Config {
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:       "stacyvm",
				Version:     version,
				Description: "Disposable computers for programs. See docs/api.md for streams, errors, authentication and idempotency.",
				License:     &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Servers: []*huma.Server{{URL: Prefix}},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key": {
						Type:        "apiKey",
						In:          "header",
						Name:        "X-API-Key",
						Description: "The client key, or the admin key.",
					},
					"worker": {
						Type:        "apiKey",
						In:          "header",
						Name:        "X-Worker-ID",
						Description: "Which worker calls.",
					},
					"workerToken": {
						Type:        "apiKey",
						In:          "header",
						Name:        "X-Worker-Token",
						Description: "The worker's token; or as a bearer's in Authorization.",
					},
					"certificate": {Type: "mutualTLS", Description: "A worker's certificate of this cluster."},
					"adminKey": {
						Type:        "apiKey",
						In:          "header",
						Name:        "X-Admin-API-Key",
						Description: "The admin key; it opens every route.",
					},
				},
			},
		},
		Formats:       map[string]huma.Format{"application/json": jsonFormat},
		DefaultFormat: "application/json",
	}
	config.RejectUnknownQueryParameters = true
	return config
}

// route describes one operation.
type route struct {
	method, path string
	id           string // of the operation, unique
	summary      string
	tag          string
	status       int   // of success; 0: 200
	errors       []int // statuses that this route can answer, beside those of every route
	maxBody      int64 // 0: maxBody
	stream       bool  // lasts as long as a client, a command or a transfer does: see StreamLimits
	// streamWith is the query parameter with which alone a request is a stream; empty: each is.
	streamWith string
	// responses replaces the generated description of success, for answers that are not JSON.
	responses map[string]*huma.Response
}

// common are error statuses of every route that asks for a key.
var common = []int{
	http.StatusBadRequest,
	http.StatusUnauthorized,
	http.StatusForbidden,
	http.StatusInternalServerError,
	http.StatusServiceUnavailable,
}

func (r route) operation() huma.Operation {
	op := huma.Operation{
		OperationID: r.id, Method: r.method, Path: r.path, Summary: r.summary, Tags: []string{r.tag},
		DefaultStatus: r.status,
		MaxBodyBytes:  r.maxBody + 1, // huma refuses at the limit itself
		Responses:     r.responses,
		// The deadlines are middleware.Body's: a deadline left behind would end the request.
		BodyReadTimeout: -1,
	}
	if r.maxBody == 0 {
		op.MaxBodyBytes = maxBody + 1
	}
	if op.DefaultStatus == 0 {
		op.DefaultStatus = http.StatusOK
	}
	if r.stream && !slices.Contains(r.errors, http.StatusTooManyRequests) {
		r.errors = append(r.errors, http.StatusTooManyRequests)
	}
	op.Security = security(r.path, r.id)
	if op.Security != nil {
		op.Errors = slices.Concat(common, r.errors)
	}
	return op
}

// register adds a route whose handler speaks the vocabulary's errors.
func register[I, O any](a *api, r route, handler func(context.Context, *I) (*O, error)) {
	op := r.operation()
	if r.stream {
		a.slots.lasting[r.method+" "+Prefix+r.path] = r.streamWith
	}
	huma.Register(a.huma, op, func(ctx context.Context, input *I) (*O, error) {
		output, err := handler(ctx, input)
		if err != nil {
			return nil, a.wire(ctx, err)
		}
		return output, nil
	})
}

// body is the answer of most routes.
type body[T any] struct{ Body T }

func answered[T any](value T, err error) (*body[T], error) {
	if err != nil {
		return nil, err
	}
	return &body[T]{value}, nil
}

// Status is the answer of calls that give nothing else.
type Status struct {
	Status string `json:"status" doc:"What was done."`
}

func done(what string, err error) (*body[Status], error) { return answered(Status{what}, err) }

// SandboxPath is the input of routes below one sandbox. (Huma looks into embedded types that are
// exported only.)
type SandboxPath struct {
	ID string `path:"id" pattern:"^[A-Za-z0-9._-]{1,64}$" patternDescription:"1 to 64 letters, digits, ., - or _" doc:"The sandbox." example:"sb-0123456789abcdef01234567"`
}

func (p SandboxPath) sandbox() stacyvm.SandboxID { return stacyvm.SandboxID(p.ID) }
