package config

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
)

func (l *linter) server() {
	const cors = "server.cors_allowed_origins"
	switch origins := l.c.Server.CORSAllowedOrigins; {
	case len(origins) == 0:
		l.hard(
			cors,
			"no web page may use the API from a browser",
			"list the origin of your console, such as https://console.example.org",
		)
	case slices.Contains(origins, "*"):
		l.hard(cors, "every web page may use the API from a browser", "list the origin of your console instead of *")
	default:
		l.pass(cors, fmt.Sprintf("%d origin(s) may use the API from a browser", len(origins)))
	}
	rate := l.c.RateLimit
	l.demand(
		rate.Enabled,
		"rate_limit.enabled",
		"requests are bounded",
		"requests are not bounded",
		"set rate_limit.enabled to true",
	)
	l.demand(rate.RequestsPerMinute > 0 && rate.Burst > 0, "rate_limit.capacity",
		fmt.Sprintf("%d requests per minute, %d at once", rate.RequestsPerMinute, rate.Burst),
		"no request would be let through", "set rate_limit.requests_per_minute and rate_limit.burst to more than 0")
	l.advise(
		rate.KeyBy != "ip",
		"rate_limit.key_by",
		"requests are counted by "+rate.KeyBy,
		"requests are counted by address: all behind one proxy share a limit",
		"set rate_limit.key_by to owner",
	)
	l.demand(l.c.Logging.Format == "json", "logging.format",
		"the log is JSON", "the log is for people, not for programs that collect it", "set logging.format to json")
}

func (l *linter) database() {
	if l.c.Postgres() {
		l.pass("database.driver", "PostgreSQL")
		if err := l.c.checkDatabase(); err != nil {
			l.fail(
				"database.dsn",
				err.Error(),
				"set database.dsn_file to a file with postgres://user:...@host/database",
			)
		} else {
			l.pass("database.dsn", "a connection string is set")
		}
		return
	}
	l.demand(
		filepath.IsAbs(l.c.DatabasePath()),
		"database.path",
		l.c.DatabasePath(),
		"the path is relative to the directory that the server starts in",
		"set database.path to an absolute path, or leave it empty for data_dir",
	)
}

// muchParallel is how many starts for each processor are too many.
const muchParallel = 8

func (l *linter) defaults() {
	d := l.c.Defaults
	l.demand(
		d.MaxSandboxes > 0 && d.MaxSandboxesPerOwner > 0,
		"defaults.sandbox_caps",
		fmt.Sprintf("at most %d sandboxes, %d for one owner", d.MaxSandboxes, d.MaxSandboxesPerOwner),
		"the number of sandboxes, or that of one owner, has no limit",
		"set defaults.max_sandboxes and defaults.max_sandboxes_per_owner",
	)
	l.demand(
		d.MaxSpawnQueue > 0,
		"defaults.max_spawn_queue",
		fmt.Sprintf(
			"at most %d creates wait",
			d.MaxSpawnQueue,
		),
		"the queue of creates has no limit",
		"set defaults.max_spawn_queue",
	)
	l.advise(
		l.c.Worker.ParallelCreates <= muchParallel*runtime.NumCPU(),
		"worker.parallel_creates",
		"no more sandboxes are started at a time than end in time",
		fmt.Sprintf(
			"%d sandboxes at a time are many for %d processors: they slow each other down",
			l.c.Worker.ParallelCreates,
			runtime.NumCPU(),
		),
		"set worker.parallel_creates to 0",
	)
	l.demand(
		d.DefaultExecTimeout > 0 && d.MaxExecTimeout > 0,
		"defaults.exec_timeouts",
		fmt.Sprintf("commands end after %s, at most %s", d.DefaultExecTimeout, d.MaxExecTimeout),
		"commands, or those that ask for it, have no time limit",
		"set defaults.default_exec_timeout and defaults.max_exec_timeout",
	)
	l.demand(d.MaxTTL > 0, "defaults.max_ttl",
		fmt.Sprintf("sandboxes live for at most %s", d.MaxTTL), "sandboxes may live for ever", "set defaults.max_ttl")
}
