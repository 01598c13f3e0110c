// Package config is everything that an operator can set: one struct with every key, its defaults,
// strict decoding of the file, overrides from the environment, secrets from files, lint and
// redaction. It knows no other part of the product.
//
// Order: environment over file over default. A key `a.b_c` is STACYVM_A_B_C in the environment;
// lists are separated by commas there, maps stand in the file only. A secret `x` may be given as
// `x_file`, the path of a file that holds it.
//
// Keys of features that this build does not have are decoded and checked like the others, so that
// one file serves several versions; unbuilt.go lists them and what happens when one is set.
package config

import (
	"cmp"
	"path/filepath"
	"time"
)

// Config holds every key. The yaml tags are the keys' names; the tag secret marks what is never
// shown and may come from a file of its own.
type Config struct {
	// DataDir holds everything that the product keeps; safe to delete when nothing runs. Empty:
	// the default place.
	DataDir   string    `yaml:"data_dir"`
	Server    Server    `yaml:"server"`
	Worker    Worker    `yaml:"worker"`
	PKI       PKI       `yaml:"pki"`
	Providers Providers `yaml:"providers"`
	Defaults  Defaults  `yaml:"defaults"`
	Auth      Auth      `yaml:"auth"`
	RateLimit RateLimit `yaml:"rate_limit"`
	Database  Database  `yaml:"database"`
	Disk      Disk      `yaml:"disk"`
	Audit     Audit     `yaml:"audit"`
	Logging   Logging   `yaml:"logging"`
	Pool      Pool      `yaml:"pool"`
}

// Server is the API's listener.
type Server struct {
	Host string `yaml:"host"`
	Port int    `yaml:"port"`
	// PreviewDomain is told to clients, who make addresses of sandboxes' ports from it; empty:
	// none is told.
	PreviewDomain string `yaml:"preview_domain"`
	// CORSAllowedOrigins are the web pages that may use the API from a browser, such as
	// https://console.example.org; "*" is all of them. Empty: none.
	CORSAllowedOrigins []string `yaml:"cors_allowed_origins"`
	// AllowedHosts are names, beside loopback's, under which requests may address the server.
	AllowedHosts []string `yaml:"allowed_hosts"`
	// ShutdownTimeout is how long requests under way may take after SIGTERM.
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout"`
	// RequestMemoryMB is what all requests together may hold in memory, in MiB: answers, lists and
	// bodies that are read whole.
	RequestMemoryMB int `yaml:"request_memory_mb"`
	// MaxStreams is how many uploads, downloads, commands that are waited for, and followed
	// outputs and events may be open at once; one credential gets three quarters of them.
	MaxStreams int `yaml:"max_streams"`
	// MaxStreamsPerCaller is how many of them one caller may hold: an owner of a tenant under one
	// credential, without a credential an address.
	MaxStreamsPerCaller int `yaml:"max_streams_per_caller"`
	// URL is where clients and workers of other machines reach this server; empty: they were told
	// otherwise.
	URL string `yaml:"url"`
	// Worker runs sandboxes on this machine too. Without, the server is a control plane alone and
	// needs no engine.
	Worker bool `yaml:"worker"`
}

// PKI is the cluster's own certificates, as `stacyvm pki` makes them.
type PKI struct {
	// Dir holds this machine's certificate and ca-bundle.pem. With it a server listens with TLS
	// and calls workers with its certificate; it accepts join tokens when ca.pem is there too.
	// Empty: no certificates; for a worker process pki in data_dir.
	Dir string `yaml:"dir"`
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
	// SpawnOverflow says what happens to a create that finds no room, or is over a number of
	// sandboxes: "reject", or "queue" for SpawnQueueTimeout.
	SpawnOverflow     string        `yaml:"spawn_overflow"`
	SpawnQueueTimeout time.Duration `yaml:"spawn_queue_timeout"`
	MaxSpawnQueue     int           `yaml:"max_spawn_queue"` // waiting creates
	PoolSize          int           `yaml:"pool_size"`       // sandboxes kept ready
	PoolTemplate      string        `yaml:"pool_template"`
}

// RateLimit bounds each caller's requests.
type RateLimit struct {
	Enabled           bool `yaml:"enabled"`
	RequestsPerMinute int  `yaml:"requests_per_minute"`
	Burst             int  `yaml:"burst"`
	// KeyBy says what is counted: "owner" (who the caller is, else its address), "api_key" or
	// "ip".
	KeyBy           string        `yaml:"key_by"`
	BucketTTL       time.Duration `yaml:"bucket_ttl"` // after which an unused count is forgotten
	CleanupInterval time.Duration `yaml:"cleanup_interval"`
}

// Database is the store.
type Database struct {
	Driver string `yaml:"driver"` // sqlite (sqlite3, empty), postgres (postgresql)
	Path   string `yaml:"path"`   // of the SQLite file; empty: stacyvm.db in data_dir
	// DSN is PostgreSQL's connection string: postgres://... or keyword=value pairs.
	DSN     string `yaml:"dsn" secret:"true"`
	DSNFile string `yaml:"dsn_file"`
	// ListenDSN is a second way to the same PostgreSQL database, for events, where DSN leads
	// through a pooler that swallows notifications. Empty: DSN.
	ListenDSN     string `yaml:"listen_dsn" secret:"true"`
	ListenDSNFile string `yaml:"listen_dsn_file"`
	MaxOpenConns  int    `yaml:"max_open_conns"` // PostgreSQL; 0: 20
	MaxIdleConns  int    `yaml:"max_idle_conns"` // PostgreSQL; 0: as many
	// ExecMode is how statements are sent to PostgreSQL, in pgx's words; empty: cache_statement.
	// Poolers that give each transaction another session need "cache_describe" or "exec".
	ExecMode string `yaml:"exec_mode"`
}

// Disk is the room on the file systems of data_dir and of the SQLite file.
type Disk struct {
	// MinFreeMB is how much is to stay free, in MiB: with less, creates and writes of files are
	// refused. At most a twentieth of the file system counts.
	MinFreeMB int `yaml:"min_free_mb"`
	// ReserveMB is held back, in MiB, for what frees room on a full disk. At most a fiftieth of
	// the file system; 0: nothing.
	ReserveMB int `yaml:"reserve_mb"`
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

// Pool puts several users' sandboxes into shared virtual machines.
type Pool struct {
	Enabled       bool   `yaml:"enabled"`
	MaxVMs        int    `yaml:"max_vms"`
	MaxUsersPerVM int    `yaml:"max_users_per_vm"`
	Image         string `yaml:"image"`
	MemoryMB      int    `yaml:"memory_mb"` // MiB
	VCPUs         int    `yaml:"vcpus"`
	Overflow      string `yaml:"overflow"` // reject, queue
}

// DatabasePath is where the SQLite file is.
func (c Config) DatabasePath() string {
	return cmp.Or(c.Database.Path, filepath.Join(c.DataDir, "stacyvm.db"))
}

// Postgres reports whether the store is PostgreSQL.
func (c Config) Postgres() bool {
	return c.Database.Driver == "postgres" || c.Database.Driver == "postgresql"
}

// Keyless reports that nothing says who may call.
func (c Config) Keyless() bool {
	return c.Auth.APIKey == "" && c.Auth.AdminAPIKey == "" && !c.Auth.OIDCEnabled
}
