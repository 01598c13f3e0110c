package postgres

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

const (
	// channel is where processes notify each other of commits. A process that gets no notification
	// (a pooler swallows it, a connection is being made anew) finds the commit by polling each
	// WatchEvery.
	channel = "stacyvm_events"
	// announcePause lets commits that come together be numbered and told of together.
	announcePause = 5 * time.Millisecond
	// announceWithin bounds one message, and listenAgain is the pause before the next try to
	// listen.
	announceWithin = 5 * time.Second
	listenAgain    = time.Second
)

// Tables is what this package needs done to tables of the store. Each is called within a
// transaction.
type Tables struct {
	// BumpIncarnation makes the next incarnation of the database.
	BumpIncarnation func(context.Context, *sqldb.Tx) error
	// Unnumbered tells whether an event has no number yet, and the last number.
	Unnumbered func(context.Context, *sqldb.Tx) (waiting bool, last int64, err error)
	// Number gives numbers to events without one. more: some may be left. last is the last number.
	Number func(context.Context, *sqldb.Tx) (more bool, last int64, err error)
}

// host is the database that an announcer serves.
type host interface {
	View(ctx context.Context, read func(*sqldb.Tx) error) error
	Update(ctx context.Context, write func(*sqldb.Tx) error) error
	Watched() bool
	Broadcast()
	// exec runs a statement outside of any transaction.
	exec(ctx context.Context, text string) error
}

// announcer numbers events and tells of them, between the processes on one database. It begins
// with the first event or watcher. The message to the others does not go with the commit:
// PostgreSQL lets commits that notify wait for each other's sync.
type announcer struct {
	host   host
	tables Tables
	listen *pgx.ConnConfig // nil: look only
	news   chan struct{}   // somebody committed events; at most one waits
	owed   atomic.Bool     // this process did, and the others were not notified yet
	poll   time.Duration   // between looks without news
	seen   int64           // the last number that watchers were told of; run's own

	ctx                   context.Context // its life
	stop                  context.CancelFunc
	announcing, listening sync.Once
	running               sync.WaitGroup
}

func newAnnouncer(h host, tables Tables, listen *pgx.ConnConfig, poll time.Duration) *announcer {
	a := &announcer{host: h, tables: tables, listen: listen, news: make(chan struct{}, 1), poll: poll, seen: -1}
	a.ctx, a.stop = context.WithCancel(context.Background())
	return a
}

// committed is called after a commit with events in it, while Close waits for it.
func (a *announcer) committed() {
	a.announcing.Do(func() { a.running.Go(a.run) })
	a.owed.Store(true)
	a.poke()
}

func (a *announcer) poke() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// run makes a round whenever there is news, and each WatchEvery.
func (a *announcer) run() {
	poll := time.NewTicker(a.poll)
	defer poll.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-a.news:
		case <-poll.C:
		}
		if a.host.Watched() {
			a.number()
		}
		if a.owed.Swap(false) {
			a.notify()
		}
		if retry.Sleep(a.ctx, announcePause) != nil {
			return
		}
	}
}

// number numbers what has none and wakes the watchers when there are new numbers, whoever gave
// them. After an error the next round does it.
func (a *announcer) number() {
	var waiting bool
	var last int64
	err := a.host.View(a.ctx, func(t *sqldb.Tx) (err error) {
		waiting, last, err = a.tables.Unnumbered(a.ctx, t)
		return err
	})
	for err == nil && waiting {
		err = a.host.Update(a.ctx, func(t *sqldb.Tx) (err error) {
			waiting, last, err = a.tables.Number(a.ctx, t)
			return err
		})
	}
	if err == nil && last != a.seen {
		a.seen = last
		a.host.Broadcast()
	}
}

// notify tells the other processes. A message that is lost is made good by their looking.
func (a *announcer) notify() {
	ctx, cancel := context.WithTimeout(a.ctx, announceWithin)
	defer cancel()
	_ = a.host.exec(ctx, "NOTIFY "+channel)
}

// listenLoop listens on a connection of its own, and makes it anew when it breaks.
func (a *announcer) listenLoop() {
	for {
		_ = a.listenOnce()
		if retry.Sleep(a.ctx, listenAgain) != nil {
			return
		}
	}
}

func (a *announcer) listenOnce() error {
	conn, err := pgx.ConnectConfig(a.ctx, a.listen.Copy())
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), cancelWithin)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if _, err := conn.Exec(a.ctx, "LISTEN "+channel); err != nil {
		return err
	}
	for {
		a.poke() // the first time for what came while nobody listened
		if _, err := conn.WaitForNotification(a.ctx); err != nil {
			return err
		}
	}
}

// listenConfig says how to listen. Behind a pooler, which the exec mode tells, it takes a way past
// it.
func listenConfig(config sqldb.Config) (*pgx.ConnConfig, error) {
	field, dsn := "database.listen_dsn", config.ListenDSN
	if dsn == "" {
		if field, dsn = "database.dsn", config.DSN; config.ExecMode != "" && config.ExecMode != "cache_statement" {
			return nil, nil
		}
	}
	parsed, err := ParseDSN(field, dsn)
	if err != nil {
		return nil, err
	}
	parsed.ConnectTimeout = config.ConnectTimeout
	if parsed.ValidateConnect == nil {
		parsed.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	return parsed, nil
}
