package postgres

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// heardWithin is how lately the server must have answered for a transaction's begin to go with its
// first statement, which may take longer than it takes to find out that no server is there.
const heardWithin = time.Second

// session is a connection with a transaction, which begins with its first message.
type session struct {
	pgConn
	db       *DB
	writes   bool
	follows  bool // any timeline will do
	begun    bool
	timeline string // the server's, once it has begun
}

// Pipeline implements sqldb.Pipeliner. The begin is the transaction, its bounds on the server's side
// (as SET LOCAL would, so that a pooler hands them to nobody else), the clock, the timeline and the
// identity.
func (x *session) Pipeline(
	ctx context.Context, t *sqldb.Tx, statements []sqldb.Statement, read func(sqldb.Scanner) error,
) (changed int64, err error) {
	err = x.driver(func(conn *pgx.Conn) error {
		var batch pgx.Batch
		if !x.begun {
			x.queueBegin(&batch)
		}
		for _, s := range statements {
			batch.Queue(s.Text, s.Args...)
		}
		if batch.Len() == 0 {
			return nil
		}
		results := conn.SendBatch(ctx, &batch)
		var err error
		if !x.begun {
			err = x.readBegin(results, t)
		}
		for i := 0; i < len(statements) && err == nil; i++ {
			if i == len(statements)-1 && read != nil {
				rows, failed := results.Query()
				err = readAll(rows, failed, read)
				continue
			}
			tag, failed := results.Exec()
			changed, err = tag.RowsAffected(), failed
		}
		closing := results.Close()
		if err == nil {
			err = closing
		}
		return err
	})
	return changed, err
}

func (x *session) queueBegin(batch *pgx.Batch) {
	text := "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
	if x.writes {
		text = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"
	}
	batch.Queue(text)
	batch.Queue(`SELECT `+pgNow+`, `+x.db.history.timeline+`, coalesce((SELECT id FROM cluster WHERE one = 1), ''),
		coalesce((SELECT incarnation FROM cluster WHERE one = 1), 0),
		set_config('statement_timeout', $1, TRUE), set_config('idle_in_transaction_session_timeout', $2, TRUE)`,
		strconv.FormatInt(x.db.limit.Milliseconds(), 10), strconv.FormatInt(idleWithin.Milliseconds(), 10))
}

// readBegin reads what the server says to the begin. errMoved: its timeline is another than the last
// one.
func (x *session) readBegin(results pgx.BatchResults, t *sqldb.Tx) error {
	var us int64
	var cluster sqldb.Cluster // zero in a database that has no identity yet
	if _, err := results.Exec(); err != nil {
		return err
	}
	x.begun = true
	if err := results.QueryRow().Scan(&us, &x.timeline, &cluster.ID, &cluster.Incarnation, nil, nil); err != nil {
		return err
	}
	x.db.clock.Answered(time.Now())
	t.SetNow(us)
	if cluster.ID != "" {
		t.SetCluster(cluster)
	}
	if x.timeline != x.db.timeline.Load() && !x.follows {
		return errMoved
	}
	return nil
}

// end ends what was not committed, and gives the connection back to the pool.
func (x *session) end(ctx context.Context, committed bool) {
	if x.begun && !committed {
		x.rollback(ctx)
	}
	_ = x.Close()
}
