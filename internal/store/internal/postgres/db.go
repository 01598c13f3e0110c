// Package postgres is the store's machinery on a PostgreSQL server: connections, transactions that
// are tried again, errors, the server's history, and the messages between processes that wake
// watchers. Of the store's tables it knows the one that holds the database's identity; what it
// needs of others it is given as Tables.
package postgres

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// DB is a database on a server, for any number of processes. All methods may be called
// concurrently.
type DB struct {
	sqldb.Notifier
	tables         Tables
	dialect        *sqldb.Dialect
	clock          *sqldb.Clock
	db             *sql.DB
	idle           int // connections that the pool keeps
	connectTimeout time.Duration
	limit          time.Duration // of a statement
	timeline       atomic.Value  // string: the server's, as it was last seen
	history        History
	warn           func(string)

	announcer *announcer

	mu     sync.RWMutex
	closed bool
	inside sync.WaitGroup // transactions
}

// errMoved is a transaction that began on another timeline than the last one.
var errMoved = stacyvm.Errorf(stacyvm.CodeUnavailable, "the database moved to another server")

// exec implements host.
func (s *DB) exec(ctx context.Context, text string) error {
	_, err := s.db.ExecContext(ctx, text)
	return err
}

// closeIdle closes the connections that wait in the pool. After a restart of the server all of
// them have ended.
func (s *DB) closeIdle() {
	s.db.SetMaxIdleConns(-1)
	s.db.SetMaxIdleConns(s.idle)
}
