package store

import (
	"context"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
)

func TestNoTakeoverAfterAClockJump(t *testing.T) {
	conn, dialect, clock := sqliteConn(t), sqlite.Dialect(""), &sqldb.Clock{}
	var jump time.Duration
	dialect.Clock = func(context.Context, sqldb.Querier) (int64, error) { return time.Now().Add(jump).UnixMicro(), nil }
	acquire := func(holder stacyvm.WorkerID) error {
		x := tx{&sqldb.Tx{Conn: conn, Dialect: dialect, Clock: clock, Writes: true}}
		_, err := x.Leases().Acquire(t.Context(), LeaseRequest{Resource: "d", Type: "duty", Holder: holder, Session: "s", TTL: time.Minute})
		return err
	}
	if err := acquire("w1"); err != nil {
		t.Fatal(err)
	}
	jump = time.Hour // every lease seems to have run out
	if err := acquire("w2"); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("another took over: %v", err)
	}
	if err := acquire("w1"); err != nil {
		t.Errorf("the owner could not take its lease again: %v", err)
	}
}
