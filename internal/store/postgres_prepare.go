package store

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// migrateWithin bounds a migration, and the wait for another process that migrates.
	migrateWithin = 10 * time.Minute
	// oldestPostgres is the first version that this text was made for, in server_version_num.
	oldestPostgres = 130000

	// migrateLock is held by the one process that migrates.
	migrateLock = `SELECT pg_advisory_xact_lock(hashtextextended('stacyvm schema in ' || current_schema(), 0))`
)

// prepare checks the server, brings the schema up to date and gives a new database its identity.
func (s *postgresStore) prepare(ctx context.Context) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := s.learn(ctx); err != nil {
		return err
	}
	if err := s.Update(ctx, identify); err != nil {
		return err
	}
	return s.follow(ctx) // gives a new row its lineage
}

// check refuses a server that is too old, or that answers before a commit is on disk.
func (s *postgresStore) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience+s.limit)
	defer cancel()
	var version int
	var commits string
	var schema *string
	for try := 1; ; try++ {
		err := s.db.QueryRowContext(ctx, `
			SELECT CAST(current_setting('server_version_num') AS BIGINT), current_setting('synchronous_commit'), CAST(current_schema() AS TEXT)`,
		).Scan(&version, &commits, &schema)
		if err == nil {
			break
		}
		if !passing(err) || try == postgresTries || !rest(ctx, try) {
			return err
		}
	}
	switch {
	case version < oldestPostgres:
		return stacyvm.Errorf(stacyvm.CodeUnsupported, "the PostgreSQL server is too old: version %d or later is needed", oldestPostgres/10000)
	case commits == "off":
		return stacyvm.Invalid("database.dsn", "the server's synchronous_commit is off: answered writes could be lost")
	case schema == nil:
		return stacyvm.Invalid("database.dsn", "the database has no schema that search_path names")
	}
	return nil
}

// migrate applies what is missing. Of several processes one does so, and the others wait.
func (s *postgresStore) migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, migrateWithin)
	defer cancel()
	raw, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	conn := pgConn{raw}
	defer func() {
		conn.rollback(ctx) // lets go of the lock
		_ = conn.Close()
	}()
	_, err = conn.send(ctx, "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; "+migrateLock)
	if err != nil {
		return err
	}
	return notMigrated(s.dialect, migrateOnce(ctx, s.dialect, s.db))
}

// errMoved is a transaction that began on another timeline than the last one.
var errMoved = stacyvm.Errorf(stacyvm.CodeUnavailable, "the database moved to another server")

// follow compares the server's history with the one that the database knows. Another one may lack the last commits of the
// first, epochs among them, so it is another incarnation; whoever comes first makes it. Until the owners have had time to
// notice, nothing of theirs is taken over.
func (s *postgresStore) follow(ctx context.Context) error {
	conn, began, err := s.begin(ctx, true)
	if err != nil {
		return blame(ctx, s.dialect, err)
	}
	t := s.transaction(conn, began, true)
	open := true
	defer func() {
		if open {
			conn.rollback(ctx)
		}
		_ = conn.Close()
	}()
	moved, err := t.moved(ctx, s.history)
	if err != nil {
		return err
	}
	open = false
	if _, err := s.settle(ctx, conn, t); err != nil {
		return err
	}
	if moved {
		s.clock.pause(time.Now())
	}
	s.timeline.Store(began.timeline)
	return nil
}

// moved notes the server's lineage, and raises the incarnation when there was another.
func (t *tx) moved(ctx context.Context, history pgHistory) (bool, error) {
	words := func(row scanner) (pair [2]string, err error) {
		err = row.Scan(&pair[0], &pair[1])
		return pair, err
	}
	pair, ok, err := one(ctx, t, words, `SELECT lineage, `+history.lineage()+` FROM cluster WHERE one = 1`+t.lock())
	if err != nil || !ok {
		return false, err
	}
	now, moved := joinLineage(pair[0], pair[1])
	if now == pair[0] {
		return false, nil
	}
	if _, err := t.exec(ctx, `UPDATE cluster SET lineage = $1 WHERE one = 1`, now); err != nil || !moved {
		return false, err
	}
	_, err = t.reincarnate(ctx, 0)
	return true, err
}
