package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// idleWithin is how long the server waits for the next statement of a transaction. A process that was stopped in the
	// middle of one lets go of its rows before a lease's grace is over.
	idleWithin = 5 * time.Second
	// endWithin bounds a commit or rollback.
	endWithin = 10 * time.Second
	// answerWithin is how much longer than the server this side waits, so that the server's answer comes first.
	answerWithin = 2 * time.Second
)

// pgTime reads the server's clock in microseconds, and pgTimeline the number that rises with every promotion.
const (
	pgTime     = `CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)`
	pgTimeline = `substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`
)

// pgConn is a connection in a transaction of ours.
type pgConn struct{ *sql.Conn }

// stamp is what the begin of a transaction brings.
type stamp struct {
	us       int64
	timeline string
}

// beginText is one message: the transaction, its bounds on the server's side, the clock and the timeline.
func beginText(writes bool, limit time.Duration) string {
	mode := "REPEATABLE READ, READ ONLY"
	if writes {
		mode = "READ COMMITTED, READ WRITE"
	}
	return fmt.Sprintf(`BEGIN ISOLATION LEVEL %s; SET LOCAL statement_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d; SELECT %s, %s`,
		mode, limit.Milliseconds(), idleWithin.Milliseconds(), pgTime, pgTimeline)
}

// begin begins a transaction with beginText.
func (c pgConn) begin(ctx context.Context, text string) (s stamp, err error) {
	results, err := c.send(ctx, text)
	if err != nil {
		return s, err
	}
	last := results[len(results)-1]
	if len(last.Rows) != 1 || len(last.Rows[0]) != 2 {
		return s, errors.New("a transaction began without its time")
	}
	s.timeline = string(last.Rows[0][1])
	s.us, err = strconv.ParseInt(string(last.Rows[0][0]), 10, 64)
	return s, err
}

// errUndone is a commit that the server answered with a rollback.
var errUndone = errors.New("the transaction was rolled back")

// commit ends the transaction; known is whether its outcome is certain when it fails.
func (c pgConn) commit(ctx context.Context) (known bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	if c.dead() {
		return true, driver.ErrBadConn
	}
	results, err := c.send(ctx, "COMMIT")
	if err == nil {
		if tag := results[0].CommandTag.String(); tag != "COMMIT" {
			return true, errUndone
		}
		return true, nil
	}
	// An ERROR is the server's refusal. Anything worse may have struck after the commit was on disk; pgconn.SafeToRetry is no
	// help, it also holds for a connection that ended before the answer.
	failed, ok := errors.AsType[*pgconn.PgError](err)
	return ok && failed.SeverityUnlocalized == "ERROR", err
}

// rollback ends the transaction. When it fails the connection is closed, and the server rolls back.
func (c pgConn) rollback(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	if !c.dead() {
		_, _ = c.send(ctx, "ROLLBACK")
	}
}

// send runs statements without arguments in one round trip.
func (c pgConn) send(ctx context.Context, text string) (results []*pgconn.Result, err error) {
	err = c.raw(func(conn *pgconn.PgConn) error {
		results, err = conn.Exec(ctx, text).ReadAll()
		return err
	})
	return results, err
}

// dead reports whether the connection is closed.
func (c pgConn) dead() bool {
	dead := true
	_ = c.raw(func(conn *pgconn.PgConn) error {
		dead = conn.IsClosed()
		return nil
	})
	return dead
}

func (c pgConn) raw(use func(*pgconn.PgConn) error) error {
	return c.Raw(func(conn any) error {
		own, ok := conn.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("a connection is a %T", conn)
		}
		return use(own.Conn().PgConn())
	})
}
