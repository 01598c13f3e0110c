package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// engines are those of this build.
var engines = []string{"gvisor", "mock"}

// refuse says why no server may run with the configuration: it would be unsafe, or could not work
// in this build. Lint has its own words for the same, which is why it does not come here.
func (l *Loaded) refuse() error {
	return cmp.Or(
		l.refuseUnbuilt(),
		l.checkAccess(),
		l.checkCluster(),
		l.checkDefaultEngine(),
		l.checkRate(),
		l.checkDatabase(),
	)
}

func (c *Config) checkAccess() error {
	if c.Auth.Enabled && c.Keyless() {
		return fmt.Errorf("auth.enabled: is true, but neither auth.api_key nor auth.admin_api_key is set")
	}
	if !c.Loopback() && c.Keyless() {
		return fmt.Errorf(
			"server.host: %s is reachable from other machines and there is no key: set auth.api_key (or STACYVM_AUTH_API_KEY), or use 127.0.0.1",
			c.Server.Host,
		)
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

// checkCluster refuses what would let anybody pass for a worker.
func (c *Config) checkCluster() error {
	if c.Worker.RPCTLS.InsecureSkipVerify {
		return fmt.Errorf(
			"worker.rpc_tls.insecure_skip_verify: is true: whoever is in between could pass for any worker; name the authority in worker.rpc_tls.ca_file, or set pki.dir",
		)
	}
	return nil
}

// checkDefaultEngine is about the engines of this machine: a control plane alone has none.
func (c *Config) checkDefaultEngine() error {
	if !c.Server.Worker {
		return nil
	}
	name := c.Providers.Default
	if !slices.Contains(engines, name) {
		return fmt.Errorf(
			"providers.default: this build does not have the engine %s; it has %s",
			name,
			strings.Join(engines, ", "),
		)
	}
	if name == "gvisor" && !c.Providers.GVisor.Enabled || name == "mock" && !c.Providers.Mock.Enabled {
		return fmt.Errorf("providers.default: %s is not enabled (providers.%s.enabled)", name, name)
	}
	return nil
}

func (c *Config) checkRate() error {
	if c.RateLimit.Enabled && (c.RateLimit.RequestsPerMinute == 0 || c.RateLimit.Burst == 0) {
		return fmt.Errorf("rate_limit.enabled: needs requests_per_minute and burst of at least 1")
	}
	return nil
}

func (c *Config) checkDatabase() error {
	if !c.Postgres() {
		return nil
	}
	if c.Database.DSN == "" {
		return fmt.Errorf("database.dsn: is missing; %s needs it (or database.dsn_file)", c.Database.Driver)
	}
	if err := checkDSN("database.dsn", c.Database.DSN); err != nil || c.Database.ListenDSN == "" {
		return err
	}
	return checkDSN("database.listen_dsn", c.Database.ListenDSN)
}

// checkDSN looks at the form of a connection string. Nothing of it is in the error: it may hold a
// password anywhere.
func checkDSN(key, dsn string) error {
	if scheme, _, isURL := strings.Cut(dsn, "://"); isURL && !strings.ContainsAny(scheme, "= ") {
		if u, err := url.Parse(dsn); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
			return nil
		}
	} else if name, _, isPair := strings.Cut(dsn, "="); isPair && strings.TrimSpace(name) != "" && !strings.ContainsAny(strings.TrimSpace(name), " :/@") {
		return nil
	}
	return fmt.Errorf("%s: is neither postgres://user@host/database nor of the form host=HOST dbname=NAME", key)
}
