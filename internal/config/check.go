package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

var workerID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// check refuses values that no part of the product can work with. The error names the key.
func (c *Config) check() error {
	return cmp.Or(
		c.checkPlaces(),
		c.checkServer(),
		c.checkProviders(),
		c.checkNumbers(),
		c.checkDurations(),
		oneOf("database.driver", c.Database.Driver, "sqlite", "sqlite3"),
		oneOf("logging.level", c.Logging.Level, "debug", "info", "warn", "error"),
		oneOf("logging.format", c.Logging.Format, "json", "pretty"),
	)
}

func (c *Config) checkPlaces() error {
	if c.DataDir == "" {
		return fmt.Errorf("data_dir: must be a directory")
	}
	absolute, err := filepath.Abs(c.DataDir)
	if err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	c.DataDir = absolute
	if !workerID.MatchString(c.Worker.ID) {
		return fmt.Errorf("worker.id: %q must be 1 to 64 letters, digits, '.', '_' or '-'", c.Worker.ID)
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
	for _, origin := range c.Server.CORSAllowedOrigins {
		if err := checkOrigin(origin); err != nil {
			return err
		}
	}
	if slices.Contains(c.Server.AllowedHosts, "") || slices.ContainsFunc(c.Server.AllowedHosts, func(h string) bool { return strings.ContainsAny(h, "/ ") }) {
		return fmt.Errorf("server.allowed_hosts: must be host names such as sandboxes.example.org")
	}
	if c.Auth.Enabled && c.Auth.APIKey == "" && c.Auth.AdminAPIKey == "" {
		return fmt.Errorf("auth.enabled: is true, but neither auth.api_key nor auth.admin_api_key is set")
	}
	if !c.Loopback() && c.Auth.APIKey == "" && c.Auth.AdminAPIKey == "" {
		return fmt.Errorf("server.host: %s is reachable from other machines and there is no key: set auth.api_key (or STACYVM_AUTH_API_KEY), or use 127.0.0.1", c.Server.Host)
	}
	return nil
}

// Loopback reports whether only this machine can reach the listener.
func (c *Config) Loopback() bool {
	if c.Server.Host == "localhost" {
		return true
	}
	ip := net.ParseIP(c.Server.Host)
	return ip != nil && ip.IsLoopback()
}

func checkOrigin(origin string) error {
	if origin == "*" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("server.cors_allowed_origins: %q is not of the form https://host[:port]", origin)
	}
	return nil
}

func (c *Config) checkProviders() error {
	enabled := map[string]bool{"gvisor": c.Providers.GVisor.Enabled, "mock": c.Providers.Mock.Enabled}
	if err := oneOf("providers.default", c.Providers.Default, "gvisor", "mock"); err != nil {
		return err
	}
	if !enabled[c.Providers.Default] {
		return fmt.Errorf("providers.default: %s is not enabled (providers.%s.enabled)", c.Providers.Default, c.Providers.Default)
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
		{"defaults.max_sandboxes", c.Defaults.MaxSandboxes, 0},
		{"defaults.max_sandboxes_per_owner", c.Defaults.MaxSandboxesPerOwner, 0},
		{"rate_limit.requests_per_minute", c.RateLimit.RequestsPerMinute, 0},
		{"rate_limit.burst", c.RateLimit.Burst, 0},
	}
	for _, b := range bounds {
		if b.value < b.low {
			return fmt.Errorf("%s: %d is less than %d", b.key, b.value, b.low)
		}
	}
	if c.RateLimit.Enabled && (c.RateLimit.RequestsPerMinute == 0 || c.RateLimit.Burst == 0) {
		return fmt.Errorf("rate_limit.enabled: needs requests_per_minute and burst of at least 1")
	}
	return nil
}

func (c *Config) checkDurations() error {
	for key, value := range map[string]time.Duration{
		"defaults.max_ttl":              c.Defaults.MaxTTL,
		"defaults.default_exec_timeout": c.Defaults.DefaultExecTimeout,
		"defaults.max_exec_timeout":     c.Defaults.MaxExecTimeout,
		"server.shutdown_timeout":       c.Server.ShutdownTimeout,
	} {
		if value < 0 {
			return fmt.Errorf("%s: %s is negative", key, value)
		}
	}
	if c.Defaults.TTL <= 0 {
		return fmt.Errorf("defaults.ttl: must be more than zero")
	}
	if c.Defaults.MaxTTL > 0 && c.Defaults.TTL > c.Defaults.MaxTTL {
		return fmt.Errorf("defaults.ttl: %s is over defaults.max_ttl", c.Defaults.TTL)
	}
	return nil
}

func oneOf(key, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s: %q is unknown; allowed: %s", key, value, strings.Join(allowed, ", "))
}
