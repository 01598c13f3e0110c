package config

import (
	"cmp"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// check refuses values that have no meaning in any version of the product, and fills in what an
// empty value stands for. The error names the key. What is meaningful and unsafe is for refuse and
// Lint.
func (c *Config) check() error {
	return cmp.Or(
		c.checkPlaces(),
		c.checkServer(),
		c.checkNumbers(),
		c.checkDurations(),
		c.checkWords(),
	)
}

func (c *Config) checkPlaces() error {
	absolute, err := filepath.Abs(cmp.Or(c.DataDir, defaultDataDir()))
	if err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	c.DataDir = absolute
	if c.Worker.ID != "" && !stacyvm.WorkerID(c.Worker.ID).Valid() {
		return fmt.Errorf("worker.id: %q must be 1 to 64 letters, digits, '.', '_' or '-'", c.Worker.ID)
	}
	for id := range c.Auth.WorkerTokens {
		if !stacyvm.WorkerID(id).Valid() {
			return fmt.Errorf("auth.worker_tokens: %q is not a worker's id", id)
		}
	}
	return nil
}

func (c *Config) checkServer() error {
	if c.Server.Port < 0 || c.Server.Port > 65535 {
		return fmt.Errorf("server.port: %d is not between 0 and 65535", c.Server.Port)
	}
	if c.Server.Host == "" {
		return fmt.Errorf("server.host: must be an address, such as 127.0.0.1, or 0.0.0.0 for all")
	}
	if err := cmp.Or(checkURL("server.url", c.Server.URL), checkURL("worker.rpc_url", c.Worker.RPCURL)); err != nil {
		return err
	}
	for _, origin := range c.Server.CORSAllowedOrigins {
		if err := checkOrigin(origin); err != nil {
			return err
		}
	}
	if slices.Contains(c.Server.AllowedHosts, "") ||
		slices.ContainsFunc(c.Server.AllowedHosts, func(h string) bool { return strings.ContainsAny(h, "/ ") }) {
		return fmt.Errorf("server.allowed_hosts: must be host names such as sandboxes.example.org")
	}
	return nil
}

// checkURL refuses what is not the address of a server; empty is good.
func checkURL(key, text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" ||
		u.Fragment != "" ||
		u.User != nil {
		return fmt.Errorf("%s: %q is not of the form https://host[:port]", key, text)
	}
	return nil
}

func checkOrigin(origin string) error {
	if origin == "*" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" ||
		u.Fragment != "" ||
		u.User != nil {
		return fmt.Errorf("server.cors_allowed_origins: %q is not of the form https://host[:port]", origin)
	}
	return nil
}

func (c *Config) checkNumbers() error {
	bounds := []struct {
		key        string
		value, low int
	}{
		{"defaults.memory_mb", c.Defaults.MemoryMB, 64},
		{"defaults.vcpus", c.Defaults.VCPUs, 1},
		{"defaults.disk_size_mb", c.Defaults.DiskSizeMB, 16},
		{"server.request_memory_mb", c.Server.RequestMemoryMB, 32},
		{"server.max_streams", c.Server.MaxStreams, 16},
		{"server.max_streams_per_caller", c.Server.MaxStreamsPerCaller, 1},
		{"defaults.max_sandboxes", c.Defaults.MaxSandboxes, 0},
		{"defaults.max_sandboxes_per_owner", c.Defaults.MaxSandboxesPerOwner, 0},
		{"defaults.max_spawn_queue", c.Defaults.MaxSpawnQueue, 0},
		{"rate_limit.requests_per_minute", c.RateLimit.RequestsPerMinute, 0},
		{"rate_limit.burst", c.RateLimit.Burst, 0},
		{"worker.max_sandboxes", c.Worker.MaxSandboxes, 0},
		{"worker.memory_mb", c.Worker.MemoryMB, 0},
		{"worker.vcpus", c.Worker.VCPUs, 0},
		{"worker.parallel_creates", c.Worker.ParallelCreates, 0},
		{"database.max_open_conns", c.Database.MaxOpenConns, 0},
		{"database.max_idle_conns", c.Database.MaxIdleConns, 0},
	}
	for _, b := range bounds {
		if b.value < b.low {
			return fmt.Errorf("%s: %d is less than %d", b.key, b.value, b.low)
		}
	}
	return nil
}

func (c *Config) checkDurations() error {
	for _, k := range keys(c) {
		if value, ok := reflect.TypeAssert[time.Duration](k.field); ok && value < 0 {
			return fmt.Errorf("%s: %s is negative", k.name, value)
		}
	}
	if c.Defaults.TTL == 0 {
		return fmt.Errorf("defaults.ttl: must be more than zero")
	}
	if c.Defaults.MaxTTL > 0 && c.Defaults.TTL > c.Defaults.MaxTTL {
		return fmt.Errorf("defaults.ttl: %s is over defaults.max_ttl", c.Defaults.TTL)
	}
	return nil
}

// checkWords looks at the keys whose values are from a list.
func (c *Config) checkWords() error {
	c.Database.Driver = cmp.Or(c.Database.Driver, "sqlite")
	return cmp.Or(
		oneOf(
			"providers.default",
			c.Providers.Default,
			"gvisor",
			"mock",
			"docker",
			"firecracker",
			"e2b",
			"proot",
			"auto",
			cmp.Or(c.Providers.Custom.Name, "custom"),
		),
		oneOf("database.driver", c.Database.Driver, "sqlite", "sqlite3", "postgres", "postgresql"),
		oneOf(
			"database.exec_mode",
			c.Database.ExecMode,
			"",
			"cache_statement",
			"cache_describe",
			"describe_exec",
			"exec",
			"simple_protocol",
		),
		oneOf("defaults.spawn_overflow", c.Defaults.SpawnOverflow, overflowReject, OverflowQueue),
		oneOf("pool.overflow", c.Pool.Overflow, overflowReject, OverflowQueue),
		oneOf("rate_limit.key_by", c.RateLimit.KeyBy, "owner", "api_key", "ip"),
		oneOf("logging.level", c.Logging.Level, "debug", "info", "warn", "error"),
		oneOf("logging.format", c.Logging.Format, "json", "pretty"),
	)
}

func oneOf(key, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	allowed = slices.DeleteFunc(allowed, func(word string) bool { return word == "" })
	return fmt.Errorf("%s: %q is unknown; allowed: %s", key, value, strings.Join(allowed, ", "))
}
