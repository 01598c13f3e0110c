// Package config is everything that an operator can set: one struct with every key, its defaults, strict decoding of the
// file, overrides from the environment and secrets from files. It knows no other part of the product.
//
// Order: environment over file over default. A key `a.b_c` is STACYVM_A_B_C in the environment; lists are separated by
// commas there. A secret `x` may be given as `x_file`, the path of a file that holds it.
package config

import (
	"os"
	"path/filepath"
	"time"
)

// Config holds every key. The yaml tags are the keys' names.
type Config struct {
	// DataDir holds everything that the product keeps; safe to delete when nothing runs.
	DataDir   string    `yaml:"data_dir"`
	Server    Server    `yaml:"server"`
	Worker    Worker    `yaml:"worker"`
	Providers Providers `yaml:"providers"`
	Defaults  Defaults  `yaml:"defaults"`
	Auth      Auth      `yaml:"auth"`
	RateLimit RateLimit `yaml:"rate_limit"`
	Database  Database  `yaml:"database"`
	Audit     Audit     `yaml:"audit"`
	Logging   Logging   `yaml:"logging"`
}

// Server is the API's listener.
type Server struct {
	Host string `yaml:"host"`
	Port int    `yaml:"port"`
	// PreviewDomain is told to clients, who make addresses of sandboxes' ports from it; empty: none is told.
	PreviewDomain string `yaml:"preview_domain"`
	// CORSAllowedOrigins are the web pages that may use the API from a browser, such as https://console.example.org; "*" is
	// all of them. Empty: none.
	CORSAllowedOrigins []string `yaml:"cors_allowed_origins"`
	// AllowedHosts are names, beside loopback's, under which requests may address the server.
	AllowedHosts []string `yaml:"allowed_hosts"`
	// ShutdownTimeout is how long requests under way may take after SIGTERM.
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout"`
}

// Worker is this machine.
type Worker struct {
	// ID names this machine in the store; it must stay the same over restarts. Empty: "local".
	ID string `yaml:"id"`
}

// Providers are the engines.
type Providers struct {
	Default string   `yaml:"default"`
	GVisor  Provider `yaml:"gvisor"`
	Mock    Provider `yaml:"mock"`
}

// Provider is one engine's switch.
type Provider struct {
	Enabled bool `yaml:"enabled"`
}

// Defaults fill what a request leaves empty, and bound it. 0 is no limit where not said otherwise.
type Defaults struct {
	Image                string        `yaml:"image"`
	MemoryMB             int           `yaml:"memory_mb"`    // MiB
	VCPUs                int           `yaml:"vcpus"`        //
	DiskSizeMB           int           `yaml:"disk_size_mb"` // MiB
	TTL                  time.Duration `yaml:"ttl"`
	MaxTTL               time.Duration `yaml:"max_ttl"`
	DefaultExecTimeout   time.Duration `yaml:"default_exec_timeout"` // 0: none
	MaxExecTimeout       time.Duration `yaml:"max_exec_timeout"`
	MaxSandboxes         int           `yaml:"max_sandboxes"`
	MaxSandboxesPerOwner int           `yaml:"max_sandboxes_per_owner"`
}

// Auth says who may call.
type Auth struct {
	// Enabled refuses a start without any key. A key turns authentication on by itself.
	Enabled         bool   `yaml:"enabled"`
	APIKey          string `yaml:"api_key" secret:"true"`
	APIKeyFile      string `yaml:"api_key_file"`
	AdminAPIKey     string `yaml:"admin_api_key" secret:"true"`
	AdminAPIKeyFile string `yaml:"admin_api_key_file"`
	// AdminFallbackEnabled lets the client key open admin routes when there is no admin key.
	AdminFallbackEnabled bool `yaml:"admin_fallback_enabled"`
}

// RateLimit bounds each caller's requests.
type RateLimit struct {
	Enabled           bool `yaml:"enabled"`
	RequestsPerMinute int  `yaml:"requests_per_minute"`
	Burst             int  `yaml:"burst"`
}

// Database is the store.
type Database struct {
	Driver string `yaml:"driver"` // sqlite (sqlite3)
	Path   string `yaml:"path"`   // of the SQLite file; empty: stacyvm.db in data_dir
}

// Audit is the record of what callers did.
type Audit struct {
	// Sync writes each line before the operation is answered, instead of within 100 ms.
	Sync bool `yaml:"sync"`
}

// Logging is the server's own log, on standard error.
type Logging struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // json, pretty
}

// Default gives every key's default.
func Default() Config {
	return Config{
		DataDir:   defaultDataDir(),
		Server:    Server{Host: "127.0.0.1", Port: 7423, ShutdownTimeout: 30 * time.Second},
		Worker:    Worker{ID: "local"},
		Providers: Providers{Default: "gvisor", GVisor: Provider{Enabled: true}},
		Defaults: Defaults{
			Image: "host", MemoryMB: 1024, VCPUs: 1, DiskSizeMB: 1024,
			TTL: 30 * time.Minute, MaxTTL: 24 * time.Hour, MaxExecTimeout: 10 * time.Minute,
		},
		Auth:      Auth{AdminFallbackEnabled: true},
		RateLimit: RateLimit{RequestsPerMinute: 120, Burst: 60},
		Database:  Database{Driver: "sqlite"},
		Logging:   Logging{Level: "info", Format: "json"},
	}
}

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/stacyvm"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "stacyvm-data" // no home: below the working directory
	}
	return filepath.Join(home, ".local", "share", "stacyvm")
}

// DatabasePath is where the SQLite file is.
func (c Config) DatabasePath() string {
	if c.Database.Path != "" {
		return c.Database.Path
	}
	return filepath.Join(c.DataDir, "stacyvm.db")
}
