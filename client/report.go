package client

import (
	"context"
	"net/http"
	"time"
)

// Report is how the whole installation is now, and what went wrong lately.
type Report struct {
	Status    string    `json:"status"` // ok or problems
	CheckedAt time.Time `json:"checked_at"`
	Version   string    `json:"version"`
	Uptime    string    `json:"uptime"`
	Problems  []Problem `json:"problems"` // what is wrong now
	// false: the database does not answer; sandboxes and faults are not known
	Known     bool           `json:"known"`
	Workers   []WorkerReport `json:"workers"`   // without the database, those that the server remembers
	Sandboxes map[string]int `json:"sandboxes"` // how many are in each state
	Reasons   map[string]int `json:"reasons"`   // why sandboxes are unhealthy or in error
	NotWell   []NotWell      `json:"not_well"`  // up to 20 of these, the last first
	Happened  []Happening    `json:"happened"`  // up to 20 kinds of faults of the last 24 hours, and their ends
}

// Problem is one thing that is wrong now.
type Problem struct {
	About  string     `json:"about"`           // server, database, disk, worker, audit, sandboxes
	Name   string     `json:"name,omitempty"`  // of the worker or server
	Since  *time.Time `json:"since,omitempty"` // when it began, or the last good sign came
	Detail string     `json:"detail"`
	Fix    string     `json:"fix,omitempty"` // what to do
}

// WorkerReport is a worker, asked just now.
type WorkerReport struct {
	Worker
	Asked   bool   `json:"asked"` // the server can call it, and did
	Answers bool   `json:"answers"`
	Error   string `json:"error,omitempty"` // why it does not answer
}

// NotWell is a sandbox that is unhealthy or in error.
type NotWell struct {
	ID       string    `json:"id"`
	State    string    `json:"state"`
	Reason   string    `json:"reason"`
	Detail   string    `json:"detail,omitempty"`
	Since    time.Time `json:"since"`
	WorkerID string    `json:"worker_id"`
}

// Happening is an event, as often as it came for the same reason.
type Happening struct {
	Type      string         `json:"type"` // such as worker.started
	Count     int            `json:"count"`
	First     time.Time      `json:"first"`
	Last      time.Time      `json:"last"`
	SandboxID string         `json:"sandbox_id,omitempty"` // of the last one
	Data      map[string]any `json:"data,omitempty"`       // of the last one
}

// Report asks once what is wrong now and went wrong lately; the server answers within ten seconds,
// also without its database.
func (c *Client) Report(ctx context.Context) (Report, error) {
	var report Report
	err := c.once(ctx, request{method: http.MethodGet, path: "/status"}, &report)
	return report, err
}
