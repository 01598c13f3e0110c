package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Sandbox is one disposable computer.
type Sandbox struct {
	ID string `json:"id"`
	// creating, running, paused, unhealthy, expired, error, destroyed
	State         string            `json:"state"`
	Reason        string            `json:"reason,omitempty"` // why it is not well; the list is in docs/operations.md
	Detail        string            `json:"detail,omitempty"`
	Since         time.Time         `json:"since,omitzero"` // when it died or gave its last sign of life
	Provider      string            `json:"provider"`
	Image         string            `json:"image"`
	MemoryMB      int               `json:"memory_mb"`
	VCPUs         int               `json:"vcpus"`
	DiskMB        int               `json:"disk_mb,omitempty"`
	OwnerID       string            `json:"owner_id,omitempty"`
	TenantID      string            `json:"tenant_id,omitempty"`
	VMID          string            `json:"vm_id,omitempty"`
	WorkerID      string            `json:"worker_id,omitempty"`
	Recovered     bool              `json:"recovered,omitempty"`
	Unenforced    []string          `json:"unenforced,omitempty"` // limits that the machine cannot hold
	CreatedAt     time.Time         `json:"created_at"`
	ExpiresAt     time.Time         `json:"expires_at"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	PreviewDomain string            `json:"preview_domain,omitempty"`
	// QueuePlace is its place in line while it waits for its worker to start it (reason queued), 1
	// for the next one. The server that the spawn went to knows it.
	QueuePlace int `json:"queue_place,omitempty"`
}

// SpawnRequest asks for a sandbox; the server fills in what is empty.
type SpawnRequest struct {
	Image          string            `json:"image,omitempty"`
	Provider       string            `json:"provider,omitempty"`
	MemoryMB       int               `json:"memory_mb,omitempty"`
	VCPUs          int               `json:"vcpus,omitempty"`
	DiskMB         int               `json:"disk_mb,omitempty"`
	TTL            string            `json:"ttl,omitempty"` // duration such as "30m"
	Template       string            `json:"template,omitempty"`
	OwnerID        string            `json:"owner_id,omitempty"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	Env            map[string]string `json:"env,omitempty"`
	NetworkMode    string            `json:"network_mode,omitempty"`
	WorkerSelector map[string]string `json:"worker_selector,omitempty"` // labels that its worker must have
	// IdempotencyKey makes a repeat answer with the first sandbox; empty: Spawn makes one.
	IdempotencyKey string `json:"-"`
}

// Admission says whether a spawn would be let in now.
type Admission struct {
	Allowed              bool   `json:"allowed"`
	Queueable            bool   `json:"queueable"`
	Reason               string `json:"reason,omitempty"`
	ActiveSandboxes      int    `json:"active_sandboxes"`
	MaxSandboxes         int    `json:"max_sandboxes"`
	ActiveOwnerSandboxes int    `json:"active_owner_sandboxes,omitempty"`
	MaxOwnerSandboxes    int    `json:"max_owner_sandboxes,omitempty"`
	MaxTTL               string `json:"max_ttl,omitempty"`
}

// Stats is a sandbox's use of resources; only Supported is set where the server cannot tell.
type Stats struct {
	Supported     bool    `json:"supported"`
	CPUPercent    float64 `json:"cpu_pct"`
	MemoryBytes   uint64  `json:"mem_bytes"`
	MemoryLimit   uint64  `json:"mem_limit_bytes"`
	ProcessNumber int     `json:"processes,omitempty"`
}

// Spawn creates a sandbox and returns when it runs.
func (c *Client) Spawn(ctx context.Context, spawn SpawnRequest) (Sandbox, error) {
	key := spawn.IdempotencyKey
	if key == "" {
		key = newKey()
	}
	var sandbox Sandbox
	err := c.call(ctx, request{method: http.MethodPost, path: "/sandboxes", body: spawn,
		header: map[string]string{"Idempotency-Key": key}, repeat: true, long: true}, &sandbox)
	return sandbox, err
}

// Admit asks whether a spawn would be let in now; nothing is made.
func (c *Client) Admit(ctx context.Context, spawn SpawnRequest) (Admission, error) {
	var admission Admission
	err := c.call(
		ctx,
		request{method: http.MethodPost, path: "/sandboxes/admission", body: spawn, repeat: true},
		&admission,
	)
	return admission, err
}

// Sandboxes lists all that are not destroyed, newest first.
func (c *Client) Sandboxes(ctx context.Context) ([]Sandbox, error) {
	var sandboxes []Sandbox
	for cursor := ""; ; {
		page, next, err := c.SandboxPage(ctx, cursor, maxPage)
		if err != nil {
			return nil, err
		}
		sandboxes = append(sandboxes, page...)
		if next == "" {
			return sandboxes, nil
		}
		cursor = next
	}
}

// maxPage is the most that a page may hold.
const maxPage = 1000

// SandboxPage lists a part of what Sandboxes lists: at most limit (1 to 1000), behind cursor. The
// first page has the cursor "", each further one the next that came with the page before; an empty
// next says that there is no further one. One that stands from the first page to the last is in
// exactly one of them, whatever is made and destroyed meanwhile.
func (c *Client) SandboxPage(ctx context.Context, cursor string, limit int) (page []Sandbox, next string, err error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	var header http.Header
	err = c.call(
		ctx,
		request{method: http.MethodGet, path: "/sandboxes", query: query, answer: &header, repeat: true},
		&page,
	)
	return page, header.Get("X-Next-Cursor"), err
}

// Sandbox finds one. CodeNotFound: it never was or is destroyed.
func (c *Client) Sandbox(ctx context.Context, id string) (Sandbox, error) {
	var sandbox Sandbox
	err := c.call(ctx, request{method: http.MethodGet, path: pathOf("sandboxes", id), repeat: true}, &sandbox)
	return sandbox, err
}

// Destroy removes a sandbox and returns when nothing of it is left.
func (c *Client) Destroy(ctx context.Context, id string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: pathOf("sandboxes", id), long: true}, nil)
}

// Prune destroys every expired sandbox and returns their number.
func (c *Client) Prune(ctx context.Context) (int, error) {
	var answer struct {
		Pruned int `json:"pruned"`
	}
	err := c.call(ctx, request{method: http.MethodDelete, path: "/sandboxes", repeat: true, long: true}, &answer)
	return answer.Pruned, err
}

// Extend sets a sandbox's expiry to now plus ttl.
func (c *Client) Extend(ctx context.Context, id string, ttl time.Duration) (Sandbox, error) {
	var sandbox Sandbox
	body := map[string]string{"ttl": ttl.String()}
	err := c.call(
		ctx,
		request{method: http.MethodPost, path: pathOf("sandboxes", id, "extend"), body: body, repeat: true},
		&sandbox,
	)
	return sandbox, err
}

// Logs gives the last lines that the sandbox's processes printed; 0 lines is the server's default
// (100).
func (c *Client) Logs(ctx context.Context, id string, lines int) ([]string, error) {
	query := url.Values{}
	if lines != 0 {
		query.Set("lines", strconv.Itoa(lines))
	}
	var answer []string
	err := c.call(
		ctx,
		request{method: http.MethodGet, path: pathOf("sandboxes", id, "logs"), query: query, repeat: true, long: true},
		&answer,
	)
	return answer, err
}

// Stats gives a sandbox's use of resources now.
func (c *Client) Stats(ctx context.Context, id string) (Stats, error) {
	var stats Stats
	err := c.call(
		ctx,
		request{method: http.MethodGet, path: pathOf("sandboxes", id, "stats"), repeat: true, long: true},
		&stats,
	)
	return stats, err
}
