package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/health"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Provider is one engine.
type Provider struct {
	Name         string    `json:"name"`
	Healthy      bool      `json:"healthy"`
	Default      bool      `json:"default"`
	LatencyMS    float64   `json:"latency_ms"`
	LastChecked  time.Time `json:"last_checked"`
	Error        string    `json:"error,omitempty" doc:"Why it is not healthy."`
	Capabilities []string  `json:"capabilities"`
	RuntimeCount int       `json:"runtime_count,omitempty"`
}

// ProviderDetail is one engine with its use.
type ProviderDetail struct {
	Name         string            `json:"name"`
	Healthy      bool              `json:"healthy"`
	Default      bool              `json:"default"`
	SandboxCount int               `json:"sandbox_count"`
	Health       Provider          `json:"health"`
	Config       map[string]string `json:"config" doc:"What it is; never a secret."`
}

func providerOf(p health.ProviderStatus) Provider {
	return Provider{
		Name:         p.Name,
		Healthy:      p.Healthy,
		Default:      p.Default,
		LatencyMS:    float64(p.Latency.Microseconds()) / 1000,
		LastChecked:  p.CheckedAt.UTC(),
		Error:        p.Error,
		Capabilities: each(p.Capabilities, func(c string) string { return c }),
		RuntimeCount: p.Runtimes,
	}
}

type providerPath struct {
	Name string `path:"name" pattern:"^[A-Za-z0-9._-]{1,64}$" patternDescription:"1 to 64 letters, digits, ., - or _" example:"gvisor"`
}

// Pool is the state of the pool of shared machines.
type Pool struct {
	Enabled bool `json:"enabled"`
}

// Snapshot is a saved sandbox.
type Snapshot struct {
	Image     string    `json:"image"`
	Provider  string    `json:"provider"`
	CreatedAt time.Time `json:"created_at"`
}

const tagProviders = "providers"

func (a *api) providerRoutes() {
	register(a, route{method: http.MethodGet, path: "/providers", id: "list-providers", tag: tagProviders,
		summary: "List the engines"}, a.providers)
	register(a, route{method: http.MethodPost, path: "/providers/test", id: "test-providers", tag: tagProviders,
		summary: "Ask every engine now whether it works"}, a.testProviders)
	register(a, route{method: http.MethodGet, path: "/providers/{name}", id: "provider", tag: tagProviders,
		summary: "Tell of one engine", errors: []int{404}}, a.provider)
	register(a, route{method: http.MethodGet, path: "/snapshots", id: "list-snapshots", tag: tagProviders,
		summary: "List snapshots"}, a.snapshots)
	register(a, route{method: http.MethodGet, path: "/pool/status", id: "pool-status", tag: tagProviders,
		summary: "State of the pool"}, a.pool)
}

func (a *api) providers(ctx context.Context, _ *struct{}) (*body[[]Provider], error) {
	providers, err := a.Service.Providers(ctx)
	return answered(each(providers, providerOf), err)
}

func (a *api) testProviders(ctx context.Context, _ *struct{}) (*body[map[string]bool], error) {
	providers, err := a.Service.Providers(ctx)
	healthy := map[string]bool{}
	for _, p := range providers {
		healthy[p.Name] = p.Healthy
	}
	return answered(healthy, err)
}

func (a *api) provider(ctx context.Context, in *providerPath) (*body[ProviderDetail], error) {
	p, err := a.Service.Provider(ctx, in.Name)
	return answered(ProviderDetail{
		Name:         p.Name,
		Healthy:      p.Healthy,
		Default:      p.Default,
		SandboxCount: p.Sandboxes,
		Health:       providerOf(p),
		Config: map[string]string{
			"type":     p.Name,
			"isolates": strconv.FormatBool(p.Isolates),
			"enforces": strings.Join(stacyvm.Retype[string](p.Enforces), ","),
		},
	}, err)
}

// snapshots is empty as long as no engine makes any.
func (a *api) snapshots(ctx context.Context, _ *struct{}) (*body[[]Snapshot], error) {
	return answered([]Snapshot{}, mayRead(ctx))
}

func (a *api) pool(ctx context.Context, _ *struct{}) (*body[Pool], error) {
	return answered(Pool{}, mayRead(ctx))
}

// mayRead guards the answers for which the service is not asked.
func mayRead(ctx context.Context) error { return auth.From(ctx).Require(auth.ScopeReadSandboxes) }
