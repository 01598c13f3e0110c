package store

import (
	"cmp"
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Config says which database to open.
type Config struct {
	// Driver is "sqlite" (also "sqlite3" or empty) or "postgres" (also "postgresql").
	Driver string
	// Path is SQLite's file. It is made, readable for its owner only, when it does not exist.
	Path string
	// DSN is PostgreSQL's connection string, postgres://... or keyword=value pairs. It may hold a password and appears in
	// no error. With several hosts the one that takes writes is used.
	DSN string
	// ListenDSN is a second way to the same PostgreSQL database, past a pooler that does not keep sessions. Empty: DSN.
	ListenDSN string
	// MaxOpenConns and MaxIdleConns bound PostgreSQL's connections; 0: 20, and as many idle ones as open ones. The least is 2.
	MaxOpenConns, MaxIdleConns int
	// ExecMode is how statements are sent to PostgreSQL, in pgx's words: cache_statement (empty), cache_describe,
	// describe_exec, exec or simple_protocol. Poolers that give each transaction another session need one that leaves no
	// prepared statements behind: cache_describe or exec.
	ExecMode string
	// ConnectTimeout bounds how long a new connection to PostgreSQL, or a free one of the pool, is waited for; 0: 5 s.
	ConnectTimeout time.Duration
	// QueryTimeout bounds each statement; 0: 15 s. SQLite's shared writes are not interrupted.
	QueryTimeout time.Duration
	// Warn, when set, is told at the opening what does not work with this database as it should.
	Warn func(message string)
	// Skew, when set, is added to the database's clock. It exists for tests of what time does to leases.
	Skew func() time.Duration
}

// Open opens the database that config names and brings its schema up to date. Several processes may open a new database
// at the same time. CodeInvalid: the configuration is wrong, the server refuses the user, or the file is not a database;
// CodeUnavailable: the server does not answer; CodeUnsupported: the server is too old, or the schema is newer than this
// program.
func Open(ctx context.Context, config Config) (Store, error) {
	switch config.Driver {
	case "", "sqlite", "sqlite3":
		return openSQLite(ctx, config)
	case "postgres", "postgresql":
		return openPostgres(ctx, config)
	}
	return nil, unknownDriver(config.Driver)
}

func unknownDriver(driver string) error {
	return stacyvm.Invalid("database.driver", "%.32q is not known: use sqlite (also sqlite3) or postgres (also postgresql)", driver)
}

// NewSQLiteStore opens a SQLite file; see Open.
func NewSQLiteStore(ctx context.Context, path string) (Store, error) {
	return Open(ctx, Config{Driver: "sqlite", Path: path})
}

// NewPostgresStore opens a PostgreSQL database; see Open.
func NewPostgresStore(ctx context.Context, config Config) (Store, error) {
	config.Driver = "postgres"
	return Open(ctx, config)
}

const (
	defaultConns          = 20
	leastConns            = 2 // a migration holds its lock on a connection of its own
	defaultConnectTimeout = 5 * time.Second
	defaultQueryTimeout   = 15 * time.Second
)

func (c Config) queryTimeout() time.Duration { return cmp.Or(c.QueryTimeout, defaultQueryTimeout) }
func (c Config) connectTimeout() time.Duration {
	return cmp.Or(c.ConnectTimeout, defaultConnectTimeout)
}
func (c Config) maxOpenConns() int { return max(leastConns, cmp.Or(c.MaxOpenConns, defaultConns)) }
func (c Config) maxIdleConns() int { return cmp.Or(c.MaxIdleConns, c.maxOpenConns()) }
