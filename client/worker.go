package client

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// The calls of this file are a worker process's own. They need Options.WorkerID, and
// Options.WorkerToken or a client certificate in Options.TLS. They try once: a worker knows best
// when to try again, and where.

// WorkerCapacity is what a worker offers; 0 is no limit.
type WorkerCapacity struct {
	MaxSandboxes int `json:"max_sandboxes,omitempty"`
	MemoryMB     int `json:"memory_mb,omitempty"` // MiB that may be promised to sandboxes
	VCPUs        int `json:"vcpus,omitempty"`     // likewise
	// ParallelCreates is how many sandboxes it starts at a time; 0: any number.
	ParallelCreates int               `json:"parallel_creates,omitempty"`
	RPCURL          string            `json:"rpc_url,omitempty"` // where control planes call it
	PreviewDomain   string            `json:"preview_domain,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	// by an operator; what a worker says here does not count
	Drained bool `json:"drained,omitempty"`
}

// WorkerHeartbeat is what a worker tells of itself.
type WorkerHeartbeat struct {
	Session      string         `json:"session,omitempty"`  // random per process; empty: of no process that acts
	Register     bool           `json:"register,omitempty"` // makes the session the one that counts
	Hostname     string         `json:"hostname"`
	Status       string         `json:"status,omitempty"` // starting, online, draining, offline, unhealthy
	Providers    []string       `json:"providers"`
	Capabilities []string       `json:"capabilities"`
	Capacity     WorkerCapacity `json:"capacity"`
	Problems     []string       `json:"problems,omitempty"` // with its machine, such as a full disk
}

// Lease says who acts for a sandbox.
type Lease struct {
	ResourceID  string    `json:"resource_id"`
	HolderID    string    `json:"holder_id"`
	Epoch       int64     `json:"epoch,string,omitempty"`
	Incarnation int64     `json:"incarnation,string,omitempty"`
	Generation  int64     `json:"generation"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// Renewal is every lease that a worker's session holds.
type Renewal struct {
	Cluster     string  `json:"cluster"` // the cluster's id
	Incarnation int64   `json:"incarnation,string"`
	Leases      []Lease `json:"leases"`
	Lapsed      int     `json:"lapsed"` // had run out and are still to be taken again, by another call
}

// JoinRequest asks for a worker's first certificate.
type JoinRequest struct {
	Token    string `json:"token"` // good once
	WorkerID string `json:"worker_id"`
	CSR      string `json:"csr"` // certificate request, PEM
}

// WorkerCertificate is a certificate that the control plane's authority signed.
type WorkerCertificate struct {
	WorkerID    string    `json:"worker_id"`
	Certificate string    `json:"certificate"` // PEM
	Authorities string    `json:"authorities"` // PEM; whom to trust
	ExpiresAt   time.Time `json:"expires_at"`
}

// Heartbeat tells that the worker lives. CodeConflict: another session is registered.
func (c *Client) Heartbeat(ctx context.Context, beat WorkerHeartbeat) (Worker, error) {
	var worker Worker
	err := c.once(
		ctx,
		request{method: http.MethodPost, path: pathOf("worker", c.options.WorkerID, "heartbeat"), body: beat},
		&worker,
	)
	return worker, err
}

// RenewLeases extends all leases of a session and takes those again that had run out; with
// handover they last until the next process has started. CodeConflict: another session is
// registered.
func (c *Client) RenewLeases(ctx context.Context, session string, handover bool) (Renewal, error) {
	body := struct {
		Session  string `json:"session"`
		Handover bool   `json:"handover,omitempty"`
	}{session, handover}
	var renewal Renewal
	err := c.once(
		ctx,
		request{method: http.MethodPost, path: pathOf("worker", c.options.WorkerID, "leases", "renew"), body: body},
		&renewal,
	)
	return renewal, err
}

// WorkerLease gives the lease under which the worker holds a sandbox. CodeNotFound: it does not.
func (c *Client) WorkerLease(ctx context.Context, sandbox string) (Lease, error) {
	var answer struct{ Lease Lease }
	err := c.once(
		ctx,
		request{method: http.MethodGet, path: pathOf("worker", c.options.WorkerID, "leases", sandbox)},
		&answer,
	)
	return answer.Lease, err
}

// Join spends a join token; it needs no other credential. CodeUnauthorized: the token is not
// accepted.
func (c *Client) Join(ctx context.Context, join JoinRequest) (WorkerCertificate, error) {
	var certificate WorkerCertificate
	err := c.once(ctx, request{method: http.MethodPost, path: "/worker/join", body: join}, &certificate)
	return certificate, err
}

// RenewCertificate gives a certificate for another key; csr is a certificate request in PEM. It
// needs the present certificate.
func (c *Client) RenewCertificate(ctx context.Context, csr string) (WorkerCertificate, error) {
	body := struct {
		CSR string `json:"csr"`
	}{csr}
	var certificate WorkerCertificate
	err := c.once(
		ctx,
		request{method: http.MethodPost, path: pathOf("worker", c.options.WorkerID, "certificate"), body: body},
		&certificate,
	)
	return certificate, err
}

// identify says which worker calls.
func (c *Client) identify(ctx context.Context, header http.Header) error {
	if c.options.WorkerID == "" {
		return nil
	}
	header.Set("X-Worker-ID", c.options.WorkerID)
	if c.options.WorkerToken == nil {
		return nil
	}
	token, err := c.options.WorkerToken(ctx)
	if err != nil {
		return err
	}
	header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	return nil
}
