package client

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// Provider is one engine of the server.
type Provider struct {
	Name         string    `json:"name"`
	Healthy      bool      `json:"healthy"`
	Default      bool      `json:"default"`
	LatencyMS    float64   `json:"latency_ms"`
	LastChecked  time.Time `json:"last_checked"`
	Error        string    `json:"error,omitempty"` // why it is not healthy
	Capabilities []string  `json:"capabilities"`
	RuntimeCount int       `json:"runtime_count,omitempty"`
}

// ProviderDetail is one engine with its use and settings; secrets are never among them.
type ProviderDetail struct {
	Name         string            `json:"name"`
	Healthy      bool              `json:"healthy"`
	Default      bool              `json:"default"`
	SandboxCount int               `json:"sandbox_count"`
	Health       Provider          `json:"health"`
	Config       map[string]string `json:"config"`
}

// Health is a server's answer to "are you there".
type Health struct {
	Status  string `json:"status"`
	Version string `json:"version"`
	Uptime  string `json:"uptime"`
}

// Readiness says whether the server can serve. Without a key only Status is set.
type Readiness struct {
	Status         string     `json:"status"` // ready or not_ready
	Version        string     `json:"version,omitempty"`
	Uptime         string     `json:"uptime,omitempty"`
	Problems       []string   `json:"problems,omitempty"` // what is wrong with its machine, such as a full disk
	Providers      []Provider `json:"providers,omitempty"`
	ReadyProviders int        `json:"ready_providers,omitempty"`
	TotalProviders int        `json:"total_providers,omitempty"`
	// audit lines that only the server's log has, since its start
	AuditLost int64 `json:"audit_lost,omitempty"`
}

// Providers lists the server's engines.
func (c *Client) Providers(ctx context.Context) ([]Provider, error) {
	var providers []Provider
	err := c.call(ctx, request{method: http.MethodGet, path: "/providers", repeat: true}, &providers)
	return providers, err
}

// TestProviders asks every engine now; the answer maps name to healthy.
func (c *Client) TestProviders(ctx context.Context) (map[string]bool, error) {
	var healthy map[string]bool
	err := c.call(ctx, request{method: http.MethodPost, path: "/providers/test", repeat: true, long: true}, &healthy)
	return healthy, err
}

// Provider describes one engine.
func (c *Client) Provider(ctx context.Context, name string) (ProviderDetail, error) {
	var detail ProviderDetail
	err := c.call(ctx, request{method: http.MethodGet, path: pathOf("providers", name), repeat: true}, &detail)
	return detail, err
}

// Health asks whether the server lives.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var health Health
	err := c.call(ctx, request{method: http.MethodGet, path: "/health", repeat: true}, &health)
	return health, err
}

// Ready asks whether the server can serve; a server that cannot is an *Error with status 503.
func (c *Client) Ready(ctx context.Context) (Readiness, error) {
	var readiness Readiness
	err := c.call(ctx, request{method: http.MethodGet, path: "/ready"}, &readiness)
	return readiness, err
}

// OpenAPI gives the server's description of its own API.
func (c *Client) OpenAPI(ctx context.Context) (json.RawMessage, error) {
	var document json.RawMessage
	err := c.call(ctx, request{method: http.MethodGet, path: "/openapi.json", repeat: true}, &document)
	return document, err
}
