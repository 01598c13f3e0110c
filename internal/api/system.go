package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
)

// Health says that the server lives.
type Health struct {
	Status  string `json:"status"`
	Version string `json:"version"`
	Uptime  string `json:"uptime" example:"1h2m3s"`
}

// Readiness says whether the server can serve. Without a key, only Status is told.
type Readiness struct {
	Status         string     `json:"status" enum:"ready,not_ready"`
	Version        string     `json:"version,omitempty"`
	Uptime         string     `json:"uptime,omitempty"`
	Problems       []string   `json:"problems,omitempty" doc:"What is wrong with this machine, such as a full disk."`
	Providers      []Provider `json:"providers,omitempty"`
	ReadyProviders *int       `json:"ready_providers,omitempty"`
	TotalProviders *int       `json:"total_providers,omitempty"`
	AuditLost      int64      `json:"audit_lost,omitempty" doc:"Audit lines that only the server's log has, since its start."`
}

type readyOutput struct {
	Status int
	Body   Readiness
}

const tagSystem = "system"

func (a *api) systemRoutes() {
	register(a, route{method: http.MethodGet, path: "/health", id: "health", tag: tagSystem,
		summary: "Whether the server is healthy"}, a.health)
	register(a, route{method: http.MethodGet, path: "/live", id: "live", tag: tagSystem,
		summary: "Whether the server lives"}, a.live)
	register(a, route{
		method:  http.MethodGet,
		path:    "/ready",
		id:      "ready",
		tag:     tagSystem,
		summary: "Whether the server can serve: its store answers, recovery is done, its disk has room, and an engine works where it has any; a control plane alone is ready without a worker",
		responses: map[string]*huma.Response{"503": {
			Description: "Not now.",
			Content: map[string]*huma.MediaType{
				"application/json": {Schema: a.schema(reflect.TypeFor[Readiness]())},
			},
		}},
	}, a.ready)
	register(a, route{method: http.MethodGet, path: "/openapi.json", id: "openapi", tag: tagSystem,
		summary: "This document", responses: map[string]*huma.Response{"200": {
			Description: "OpenAPI 3.1.",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: "object"}}},
		}}}, a.openapi)
}

func (a *api) uptime() string { return time.Since(a.Started).Round(time.Second).String() }

func (a *api) health(context.Context, *struct{}) (*body[Health], error) {
	return &body[Health]{Health{"ok", a.Version, a.uptime()}}, nil
}

func (a *api) live(context.Context, *struct{}) (*body[Health], error) {
	return &body[Health]{Health{"alive", a.Version, a.uptime()}}, nil
}

func (a *api) ready(ctx context.Context, _ *struct{}) (*readyOutput, error) {
	readiness := a.Service.Readiness(ctx)
	healthy, total := 0, len(readiness.Providers)
	for _, p := range readiness.Providers {
		if p.Healthy {
			healthy++
		}
	}
	output := &readyOutput{http.StatusOK, Readiness{Status: "ready"}}
	if !readiness.Ready || healthy == 0 && !readiness.Alone || a.Leaving() {
		output.Status, output.Body.Status = http.StatusServiceUnavailable, "not_ready"
	}
	if middleware.Known(ctx) {
		output.Body.Version, output.Body.Uptime = a.Version, a.uptime()
		output.Body.Problems = readiness.Problems
		output.Body.Providers = each(readiness.Providers, providerOf)
		output.Body.ReadyProviders, output.Body.TotalProviders = &healthy, &total
		output.Body.AuditLost = readiness.Dropped
	}
	return output, nil
}

func (a *api) openapi(context.Context, *struct{}) (*written, error) {
	text, err := json.Marshal(a.huma.OpenAPI())
	if err != nil {
		return nil, err
	}
	return &written{func(c huma.Context) {
		c.SetHeader("Content-Type", "application/json")
		c.SetStatus(http.StatusOK)
		_, _ = c.BodyWriter().Write(append(text, '\n')) // a client that left is not told
	}}, nil
}
