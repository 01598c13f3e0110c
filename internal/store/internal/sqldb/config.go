// Package sqldb is the ground floor under both databases: the configuration, a transaction with
// its statements, what differs between the dialects, the clock, the migrations and the notifier.
// It knows neither a driver nor a table of the store but the one row that holds the database's
// identity.
package sqldb

import (
	"cmp"
	"time"
)

// Config says which database to open.
type Config struct {
	// Driver is "sqlite" (also "sqlite3" or empty) or "postgres" (also "postgresql").
	Driver string
	// Path is SQLite's file. It is made, readable for its owner only, when it does not exist.
	Path string
	// Alone says that nobody else opens SQLite's file while this store is open. Reads of sandboxes
	// by their ids are then answered from memory.
	Alone bool
	// DSN is PostgreSQL's connection string, postgres://... or keyword=value pairs. It may hold a
	// password and appears in no error. With several hosts the one that takes writes is used.
	DSN string
	// ListenDSN is a second way to the same PostgreSQL database, past a pooler that does not keep
	// sessions. Empty: DSN.
	ListenDSN string
	// MaxOpenConns and MaxIdleConns bound PostgreSQL's connections; 0: 20, and as many idle ones
	// as open ones. The least is 2.
	MaxOpenConns, MaxIdleConns int
	// ExecMode is how statements are sent to PostgreSQL, in pgx's words: cache_statement (empty),
	// cache_describe, describe_exec, exec or simple_protocol. Poolers that give each transaction
	// another session need one that leaves no prepared statements behind: cache_describe or exec.
	ExecMode string
	// ConnectTimeout bounds how long a new connection to PostgreSQL, or a free one of the pool, is
	// waited for; 0: 5 s.
	ConnectTimeout time.Duration
	// QueryTimeout bounds each statement; 0: 15 s. SQLite's shared writes are not interrupted.
	QueryTimeout time.Duration
	// Warn, when set, is told at the opening what does not work with this database as it should.
	Warn func(message string)
	// Skew, when set, is added to the database's clock. It exists for tests of what time does to
	// leases.
	Skew func() time.Duration
	// WatchEvery is how often watchers look for new events without being told of them: another
	// process may have written, or its message got lost. 0: 500 ms.
	WatchEvery time.Duration
}

const (
	defaultConns          = 20
	leastConns            = 2 // a migration holds its lock on a connection of its own
	defaultConnectTimeout = 5 * time.Second
	defaultQueryTimeout   = 15 * time.Second
	defaultWatchEvery     = 500 * time.Millisecond
)

// WithDefaults fills in the limits that are not set.
func (c Config) WithDefaults() Config {
	c.MaxOpenConns = max(leastConns, cmp.Or(c.MaxOpenConns, defaultConns))
	c.MaxIdleConns = cmp.Or(c.MaxIdleConns, c.MaxOpenConns)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, defaultConnectTimeout)
	c.QueryTimeout = cmp.Or(c.QueryTimeout, defaultQueryTimeout)
	c.WatchEvery = cmp.Or(c.WatchEvery, defaultWatchEvery)
	return c
}

// Cluster is the identity of a database.
type Cluster struct {
	ID          string // random, made with the schema
	Incarnation int64  // raised by a restore from backup
}
