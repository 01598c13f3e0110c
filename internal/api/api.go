// Package api is the REST transport of the service: JSON routes, output as NDJSON and over a
// WebSocket, files as streams. It decodes, takes the caller from the request, calls control and
// writes the answer; it decides nothing about sandboxes and knows neither the store nor the
// workers.
//
// One Go struct per body is validation, handler input and OpenAPI schema; docs/openapi.json is
// generated from them, and docs/api.md says what that document cannot.
package api

import (
	"log/slog"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/control"
)

// Prefix is where every route lies.
const Prefix = "/api/v1"

// Config is what the API is made from.
type Config struct {
	Service *control.Service
	// Authenticators judge who calls. Where none is of a kind of caller, its routes are not
	// available.
	Authenticators auth.Authenticators
	Version        string
	Started        time.Time // for the uptime
	// AllowedOrigins are the web pages that may use the API from a browser; "*" is all, empty
	// none.
	AllowedOrigins []string
	// AllowedHosts are names of the server beside loopback's and the address that it listens at.
	AllowedHosts []string
	// PreviewDomain is told to clients in each sandbox; empty: left out.
	PreviewDomain string
	// Leaving reports that the server will stop: it is not ready then. nil: when Draining does.
	Leaving func() bool
	// Draining reports that the server is about to stop: it takes nothing new. nil: never.
	Draining  func() bool
	RateLimit RateLimit
	// Memory bounds what all requests together hold in memory; nil: 64 MiB.
	Memory *budget.Budget
	// Streams bounds the streams that are open at once.
	Streams StreamLimits
	Logger  *slog.Logger // nil: no log
}

// RateLimit bounds each caller's requests.
type RateLimit struct {
	Enabled   bool
	PerMinute int // on average
	Burst     int // at once
}

// api is the routes' receiver.
type api struct {
	Config
	huma  huma.API
	mux   *http.ServeMux
	usage usage
	slots slots

	execSchema, messageSchema *huma.Schema // of the WebSocket's messages
}

// New makes the handler of the whole API. It holds no resource that must be closed.
func New(config Config) http.Handler {
	a := build(config)
	chain := []middleware.Middleware{
		middleware.Request(a.Logger, a.fail),
		middleware.Framed(a.fail),
		middleware.Text(a.fail),
		middleware.Body(a.fail),
		middleware.Host(a.AllowedHosts, a.fail),
		middleware.Origin(a.AllowedOrigins, a.fail),
		middleware.Identify(a.Authenticators, kindOf),
		middleware.Hold(a.Memory, streamed),
	}
	if a.RateLimit.Enabled {
		chain = append(chain, middleware.Limit(a.RateLimit.PerMinute, a.RateLimit.Burst, unlimited, a.fail))
	}
	chain = append(chain, middleware.Require(public, a.fail), a.adminsOnly, a.ownWorker, a.refuseWhileDraining)
	return middleware.Chain(http.HandlerFunc(a.route), chain...)
}

// build registers every route.
func build(config Config) *api {
	if config.Draining == nil {
		config.Draining = func() bool { return false }
	}
	if config.Leaving == nil {
		config.Leaving = config.Draining
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Memory == nil {
		config.Memory = budget.New(defaultMemory)
	}
	a := &api{Config: config, mux: http.NewServeMux(), slots: newSlots(config.Streams)}
	a.huma = humago.NewWithPrefix(a.mux, Prefix, humaConfig(config.Version))
	a.sandboxRoutes()
	a.execRoutes()
	a.processRoutes()
	a.fileRoutes()
	a.observeRoutes()
	a.providerRoutes()
	a.systemRoutes()
	a.eventRoutes()
	a.reportRoutes()
	a.workerRoutes()
	a.joiningRoutes()
	a.auditRoutes()
	return a
}

// defaultMemory is the memory budget of a server that is given none, in bytes.
const defaultMemory = 64 << 20

// streamed reports whether a request's route takes the body as it comes, and counts itself what it
// keeps of it.
func streamed(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, Prefix+"/sandboxes/") &&
		(strings.HasSuffix(r.URL.Path, "/files") || strings.HasSuffix(r.URL.Path, "/files/archive"))
}

// refuseWhileDraining sends clients away before they begin something that the end of the server
// would cut.
func (a *api) refuseWhileDraining(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.Draining() && !public(r) {
			w.Header().Set("Connection", "close")
			a.fail(w, r, errDraining)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// route finds the handler. What has none is answered here, because the mux knows plain text only.
func (a *api) route(w http.ResponseWriter, r *http.Request) {
	escaped := r.URL.EscapedPath()
	clean := path.Clean(escaped)
	_, pattern := a.mux.Handler(r)
	switch {
	case escaped != clean && escaped != clean+"/": // the mux would redirect
		a.fail(w, r, errNoRoute)
	case pattern != "":
		a.serveHeld(w, r, pattern)
	default:
		a.unrouted(w, r)
	}
}

// serveHeld answers a request while it holds its slots.
func (a *api) serveHeld(w http.ResponseWriter, r *http.Request, pattern string) {
	release, err := a.slots.hold(r, pattern)
	if err != nil {
		w.Header().Set("Retry-After", strconv.Itoa(retrySlots))
		a.fail(w, r, err)
		return
	}
	defer release()
	a.mux.ServeHTTP(w, r)
}

// unrouted answers OPTIONS, wrong methods and unknown paths.
func (a *api) unrouted(w http.ResponseWriter, r *http.Request) {
	methods := a.methods(r)
	switch {
	case len(methods) == 0:
		a.fail(w, r, errNoRoute)
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", strings.Join(append(methods, http.MethodOptions), ", "))
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", strings.Join(append(methods, http.MethodOptions), ", "))
		a.fail(w, r, errMethod(r.Method))
	}
}

// methods lists what the request's path could be asked with.
func (a *api) methods(r *http.Request) (methods []string) {
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = method
		if _, pattern := a.mux.Handler(probe); pattern != "" {
			methods = append(methods, method)
		}
	}
	return methods
}
