package stacyvm

import (
	"encoding/json"
	"time"
)

// Tenant is a group of users whose objects nobody else sees.
type Tenant struct {
	ID        string
	Name      string
	OwnerID   string
	Settings  json.RawMessage // an object that the tenant's operators understand; empty: none
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Member is one user's place in a tenant.
type Member struct {
	TenantID  string
	UserID    string
	Role      string // viewer, operator, admin
	CreatedAt time.Time
	UpdatedAt time.Time
}

// PolicyID names a policy.
type PolicyID string

// Policy permits or forbids what sandboxes may be made of. Lower priorities are asked first,
// within one priority a deny wins, and what no policy matches is permitted.
type Policy struct {
	ID           PolicyID
	TenantID     string // empty: holds for everybody
	ResourceType string // image, provider, network
	Effect       string // allow, deny
	Pattern      string // a glob over the resource's name
	Priority     int
	CreatedAt    time.Time
	UpdatedAt    time.Time
}

// Quota bounds one owner; 0 inherits the server's limit.
type Quota struct {
	OwnerID        string
	MaxSandboxes   int
	MaxTTL         time.Duration
	MaxExecTimeout time.Duration
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// AdminCall is one line of the admin audit: a request to an administrative route.
type AdminCall struct {
	ID         int64
	Actor      string
	Method     string
	Path       string
	Status     int // of the answer
	Duration   time.Duration
	RequestID  string
	RemoteAddr string
	UserAgent  string
	TenantID   string
	CreatedAt  time.Time // zero: now
}
