package postgres

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
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
func (s *DB) prepare(ctx context.Context) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := s.learn(ctx); err != nil {
		return err
	}
	if err := s.Update(ctx, sqldb.Identify); err != nil {
		return err
	}
	return s.follow(ctx) // gives a new row its lineage
}

// check refuses a server that is too old, or that answers before a commit is on disk.
func (s *DB) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.connectTimeout+s.limit)
	defer cancel()
	var version int
	var commits string
	var schema *string
	backoff := newBackoff()
	for try := 1; ; try++ {
		err := s.db.QueryRowContext(ctx, `
			SELECT CAST(current_setting('server_version_num') AS BIGINT), current_setting('synchronous_commit'), CAST(current_schema() AS TEXT)`,
		).Scan(&version, &commits, &schema)
		if err == nil {
			break
		}
		if !isTransient(err) || try == maxTries || backoff.Wait(ctx) != nil {
			return err
		}
	}
	switch {
	case version < oldestPostgres:
		return stacyvm.Errorf(
			stacyvm.CodeUnsupported,
			"the PostgreSQL server is too old: version %d or later is needed",
			oldestPostgres/10000,
		)
	case commits == "off":
		return stacyvm.Invalid("database.dsn", "the server's synchronous_commit is off: answered writes could be lost")
	case schema == nil:
		return stacyvm.Invalid("database.dsn", "the database has no schema that search_path names")
	}
	return nil
}

// learn asks the server, once, and tells what it refuses.
func (s *DB) learn(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, s.connectTimeout+s.limit)
	defer cancel()
	backoff := newBackoff()
	for try := 1; ; try++ {
		if s.history, err = ReadHistory(ctx, s.db); err == nil {
			break
		}
		if !isTransient(err) || try == maxTries || backoff.Wait(ctx) != nil {
			return err
		}
	}
	if blind := s.history.Blind(); blind != "" && s.warn != nil {
		s.warn(blind)
	}
	return nil
}

// migrate applies what is missing. Of several processes one does so, and the others wait.
func (s *DB) migrate(ctx context.Context) error {
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
	_, err = conn.send(
		ctx,
		"BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; "+migrateLock,
	)
	if err != nil {
		return err
	}
	return sqldb.NotMigrated(s.dialect, sqldb.MigrateOnce(ctx, s.dialect, s.db))
}

// follow compares the server's history with the one that the database knows. Another one may lack
// the last commits of the first, epochs among them, so it is another incarnation; whoever comes
// first makes it. Until the owners have had time to notice, nothing of theirs is taken over.
func (s *DB) follow(ctx context.Context) error {
	x := &session{db: s, writes: true, follows: true}
	t, err := s.begin(ctx, x)
	if err != nil {
		return s.dialect.ContextError(ctx, err)
	}
	kept := false
	defer func() { x.end(ctx, kept) }()
	moved, err := s.moved(ctx, t)
	if err != nil {
		return err
	}
	kept = true
	if _, err := s.commit(ctx, x.pgConn, t); err != nil {
		return err
	}
	if moved {
		s.clock.Pause(time.Now())
	}
	s.timeline.Store(x.timeline)
	return nil
}

// moved notes the server's lineage, and raises the incarnation when there was another.
func (s *DB) moved(ctx context.Context, t *sqldb.Tx) (bool, error) {
	words := func(row sqldb.Scanner) (pair [2]string, err error) {
		err = row.Scan(&pair[0], &pair[1])
		return pair, err
	}
	pair, ok, err := sqldb.One(
		ctx,
		t,
		words,
		`SELECT lineage, `+s.history.lineage()+` FROM cluster WHERE one = 1`+t.RowLock(),
	)
	if err != nil || !ok {
		return false, err
	}
	now, moved := joinLineage(pair[0], pair[1])
	if now == pair[0] {
		return false, nil
	}
	if _, err := t.Exec(ctx, `UPDATE cluster SET lineage = $1 WHERE one = 1`, now); err != nil || !moved {
		return false, err
	}
	return true, s.tables.BumpIncarnation(ctx, t)
}
