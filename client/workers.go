package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Worker is one machine that runs sandboxes.
type Worker struct {
	ID            string         `json:"id"`
	Hostname      string         `json:"hostname"`
	Status        string         `json:"status"` // starting, online, draining, offline, unhealthy
	Stale         bool           `json:"stale"`  // its last heartbeat is older than two minutes
	Providers     []string       `json:"providers"`
	Capabilities  []string       `json:"capabilities"`
	Capacity      WorkerCapacity `json:"capacity"`
	Problems      []string       `json:"problems,omitempty"` // with its machine, such as a full disk
	LastHeartbeat time.Time      `json:"last_heartbeat"`
	CreatedAt     time.Time      `json:"created_at"`
	UpdatedAt     time.Time      `json:"updated_at"`
}

// WorkerTokenRequest asks for a signed token of a worker. Empty fields leave the choice to the
// server.
type WorkerTokenRequest struct {
	WorkerID string   `json:"worker_id"`
	TTL      string   `json:"ttl,omitempty"` // duration such as "5m", at most 15m
	Scopes   []string `json:"scopes,omitempty"`
	Audience string   `json:"audience,omitempty"` // worker:control-plane or worker:rpc
}

// WorkerToken is a signed token of a worker.
type WorkerToken struct {
	Token     string    `json:"token"`
	WorkerID  string    `json:"worker_id"`
	ExpiresAt time.Time `json:"expires_at"`
}

// JoinTokenRequest asks for a one-time token with which a new worker gets its certificate.
type JoinTokenRequest struct {
	Worker string `json:"worker,omitempty"` // id or pattern such as "rack1-*"; empty: any
	TTL    string `json:"ttl,omitempty"`    // duration such as "1h"
}

// JoinToken is a join token as the server knows it; the Token itself is in the answer to
// IssueJoinToken alone.
type JoinToken struct {
	Token           string     `json:"token,omitempty"`
	ID              string     `json:"id"`
	Worker          string     `json:"worker"`
	ExpiresAt       time.Time  `json:"expires_at"`
	AuthoritySHA256 string     `json:"authority_sha256,omitempty"` // by which the worker knows the server
	UsedAt          *time.Time `json:"used_at,omitempty"`
	UsedBy          string     `json:"used_by,omitempty"`
}

// Workers lists all workers.
func (c *Client) Workers(ctx context.Context) ([]Worker, error) {
	var workers []Worker
	err := c.call(ctx, request{method: http.MethodGet, path: "/workers", repeat: true}, &workers)
	return workers, err
}

// Worker finds one.
func (c *Client) Worker(ctx context.Context, id string) (Worker, error) {
	var worker Worker
	err := c.call(ctx, request{method: http.MethodGet, path: pathOf("workers", id), repeat: true}, &worker)
	return worker, err
}

// DrainWorker places nothing new on a worker; what is there goes on.
func (c *Client) DrainWorker(ctx context.Context, id string) (Worker, error) {
	return c.setWorker(ctx, id, "drain")
}

// ResumeWorker takes DrainWorker back.
func (c *Client) ResumeWorker(ctx context.Context, id string) (Worker, error) {
	return c.setWorker(ctx, id, "resume")
}

func (c *Client) setWorker(ctx context.Context, id, verb string) (Worker, error) {
	var worker Worker
	err := c.call(
		ctx,
		request{method: http.MethodPost, path: pathOf("admin", "workers", id, verb), repeat: true},
		&worker,
	)
	return worker, err
}

// DeleteWorker forgets a worker that is gone for good. With force also one that is online or has
// sandboxes: these end as lost. CodeConflict: it is or has, and force is not set.
func (c *Client) DeleteWorker(ctx context.Context, id string, force bool) error {
	r := request{method: http.MethodDelete, path: pathOf("admin", "workers", id), long: true}
	if force {
		r.query = url.Values{"force": {"true"}}
	}
	return c.call(ctx, r, nil)
}

// IssueWorkerToken signs a token for a worker.
func (c *Client) IssueWorkerToken(ctx context.Context, r WorkerTokenRequest) (WorkerToken, error) {
	var token WorkerToken
	err := c.call(ctx, request{method: http.MethodPost, path: "/admin/worker-tokens", body: r, repeat: true}, &token)
	return token, err
}

// IssueJoinToken makes a join token.
func (c *Client) IssueJoinToken(ctx context.Context, r JoinTokenRequest) (JoinToken, error) {
	var token JoinToken
	err := c.call(ctx, request{method: http.MethodPost, path: "/admin/join-tokens", body: r}, &token)
	return token, err
}

// JoinTokens lists those that have not been deleted, without their secrets.
func (c *Client) JoinTokens(ctx context.Context) ([]JoinToken, error) {
	var tokens []JoinToken
	err := c.call(ctx, request{method: http.MethodGet, path: "/admin/join-tokens", repeat: true}, &tokens)
	return tokens, err
}

// DeleteJoinToken makes a join token worthless.
func (c *Client) DeleteJoinToken(ctx context.Context, id string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: pathOf("admin", "join-tokens", id)}, nil)
}
