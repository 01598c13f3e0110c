package daemon

import (
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/store"
)

// StoreConfig is the database that the configuration names.
func StoreConfig(c config.Config) store.Config { return storeConfig(c, c.DatabasePath()) }

// storeConfig is StoreConfig with SQLite's file at path.
func storeConfig(c config.Config, path string) store.Config {
	return store.Config{
		Driver: c.Database.Driver, Path: path, DSN: c.Database.DSN, ListenDSN: c.Database.ListenDSN,
		MaxOpenConns: c.Database.MaxOpenConns, MaxIdleConns: c.Database.MaxIdleConns, ExecMode: c.Database.ExecMode,
	}
}

// What holds for a server on PostgreSQL that runs sandboxes in its own process, and what to do
// then.
const (
	OwnWorkerAlone = "other servers on this database do not reach the sandboxes of this server's own worker (server.worker): they answer 503 for them"
	OwnWorkerFix   = "with more than one server set server.worker to false and run `stacyvm worker` on each machine (docs/cluster.md)"
)

// HistoryFix is what to do where the database does not tell its history.
const HistoryFix = "after a failover that may have lost commits, and after a restore, stop all servers and run `stacyvm db raise-incarnation --yes`"
