package stacyvm

import (
	"encoding/json"
	"time"
)

// Template is a named recipe for sandboxes. Zero fields leave a choice to the server's defaults.
type Template struct {
	Name         string // unique
	Version      int
	Image        string
	Provider     string
	Description  string
	Setup        []string // shell commands that run once, in order, before the sandbox is handed over
	AllowedHosts []string
	MemoryMB     int // MiB
	VCPUs        int
	TTL          time.Duration
	Env          map[string]string
	Secrets      []TemplateSecret
	Metadata     map[string]string
	PoolSize     int
	CreatedAt    time.Time
	UpdatedAt    time.Time
}

// TemplateSecret names a secret and where the sandbox finds it. The secret itself is never here.
type TemplateSecret struct {
	Name     string `json:"name"`
	InjectAt string `json:"inject_at"`
}

// ProviderConfig is what an operator set for one engine at run time.
type ProviderConfig struct {
	Name      string
	Config    json.RawMessage // an object that only the engine understands; empty: none
	Enabled   bool
	UpdatedAt time.Time
}
