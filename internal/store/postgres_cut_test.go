package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/postgres"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

// cutter stands between a store and its server, and ends a connection when a client's message
// holds a word.
type cutter struct {
	net.Listener
	network, server string
	wait            sync.WaitGroup
	next            atomic.Pointer[cut]
	answers         atomic.Int64 // how often the server said that it is ready for the next message
}

type cut struct {
	word string
	pass bool // the server gets the message and answers; only the answer is lost
	hold bool // the connection stays open, and nothing comes any more
}

// newCutter gives a DSN that leads to the same place through a cutter.
func newCutter(t *testing.T, dsn string) (*cutter, string) {
	t.Helper()
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatal("the DSN of the test's server cannot be read")
	}
	c := &cutter{}
	c.network, c.server = pgconn.NetworkAddress(config.Host, config.Port)
	dir := t.TempDir()
	if c.Listener, err = net.Listen("unix", filepath.Join(dir, fmt.Sprintf(".s.PGSQL.%d", config.Port))); err != nil {
		t.Fatal(err)
	}
	c.wait.Go(func() {
		for {
			client, err := c.Accept()
			if err != nil {
				return
			}
			c.wait.Go(func() { c.serve(client) })
		}
	})
	t.Cleanup(func() { _ = c.Close(); c.wait.Wait() })
	return c, postgrestest.With(dsn, "host", dir)
}

func (c *cutter) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial(c.network, c.server)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	var losing atomic.Bool
	lost := make(chan struct{})
	c.wait.Go(func() {
		defer close(lost)
		relay(server, client, func(message []byte) bool {
			c.answers.Add(int64(bytes.Count(message, []byte("Z\x00\x00\x00\x05"))))
			return !losing.Load()
		})
		_, _ = io.Copy(io.Discard, server) // until it ends
		_ = client.Close()
	})
	relay(client, server, func(message []byte) bool {
		now := c.next.Load()
		if now == nil || !bytes.Contains(message, []byte(now.word)) || !c.next.CompareAndSwap(now, nil) {
			return true
		}
		losing.Store(true)
		if now.hold {
			_, _ = io.Copy(io.Discard, client) // until it gives up
		}
		if now.pass {
			// The server ends when it has done everything before the message that says good-bye:
			// only then is a commit to be seen, and what it answers earlier says nothing of it.
			_, _ = server.Write(append(bytes.Clone(message), 'X', 0, 0, 0, 4))
			<-lost
		}
		return false
	})
}

// relay copies until either side ends or one message may not pass.
func relay(from, to net.Conn, pass func([]byte) bool) {
	for buffer := make([]byte, 64<<10); ; {
		n, err := from.Read(buffer)
		if err != nil || !pass(buffer[:n]) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// TestLostConnections ends a connection at each point of a transaction. What cannot have been
// committed is done again, and a commit without an answer never is.
func TestLostConnections(t *testing.T) {
	for mode, sent := range map[string]func(text string) string{
		"exec": func(text string) string { return text },
		// Once prepared a statement goes by the name that pgx makes of its text.
		"cache_statement": func(text string) string { return fmt.Sprintf("stmtcache_%.24x", sha256.Sum256([]byte(text))) },
	} {
		t.Run(mode, func(t *testing.T) { lostConnections(t, mode, sent) })
	}
}

func lostConnections(t *testing.T, mode string, sent func(text string) string) {
	const begin, commit = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE", "COMMIT"
	c, dsn := newCutter(t, postgrestest.Schema(t))
	s, err := Open(t.Context(), Config{Driver: "postgres", DSN: dsn, ExecMode: mode})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for name, tt := range map[string]struct {
		cut  cut
		code stacyvm.Code
		runs int
		kept bool
	}{
		"begin is not sent":       {cut{word: sent(begin)}, "", 2, true},
		"begin gets no answer":    {cut{word: sent(begin), pass: true}, "", 2, true},
		"statement is not sent":   {cut{word: "sb-"}, "", 2, true},
		"statement has no answer": {cut{word: "sb-", pass: true}, "", 2, true},
		// Between two zero bytes it is executed; a new connection prepares it before, behind the
		// length of a message.
		"commit is not sent":   {cut{word: "\x00" + sent(commit) + "\x00"}, stacyvm.CodeUnavailable, 1, false},
		"commit has no answer": {cut{word: "\x00" + sent(commit) + "\x00", pass: true}, stacyvm.CodeUnavailable, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			// a connection that is good, and has prepared all that is sent
			err := s.Update(t.Context(), func(tx Tx) error {
				_, err := tx.Sandboxes().Insert(t.Context(), stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), State: stacyvm.StateRunning})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			c.next.Store(&tt.cut)
			id, runs := stacyvm.NewSandboxID(), 0
			err = s.Update(t.Context(), func(tx Tx) error {
				runs++
				_, err := tx.Sandboxes().Insert(t.Context(), stacyvm.Sandbox{ID: id, State: stacyvm.StateRunning})
				return err
			})
			if stacyvm.CodeOf(err) != tt.code || runs != tt.runs {
				t.Errorf("got %v after %d runs, want %q after %d", err, runs, tt.code, tt.runs)
			}
			err = s.View(t.Context(), func(tx Tx) error {
				_, err := tx.Sandboxes().Get(t.Context(), id)
				return err
			})
			if code := stacyvm.CodeOf(err); code != "" && code != stacyvm.CodeNotFound || (code == "") != tt.kept {
				t.Errorf("the row: %v, want it kept: %v", err, tt.kept)
			}
			if c.next.Load() != nil {
				t.Error("nothing was cut")
			}
		})
	}
}

// TestReadsAreOneMessage: a read without a transaction is one message once its statement is
// prepared, and comes through when its connection is lost.
func TestReadsAreOneMessage(t *testing.T) {
	c, dsn := newCutter(t, postgrestest.Schema(t))
	s, err := Open(t.Context(), Config{Driver: "postgres", DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	id := stacyvm.NewSandboxID()
	err = s.Update(t.Context(), func(tx Tx) error {
		_, err := tx.Sandboxes().Insert(t.Context(), stacyvm.Sandbox{ID: id, State: stacyvm.StateRunning})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func() error{
		"get": func() error { _, err := s.Sandboxes().Get(t.Context(), id); return err },
		"list": func() error {
			rows, err := s.Sandboxes().List(t.Context(), SandboxFilter{Tenant: "", Page: Page{Limit: 1000}})
			if err == nil && len(rows) != 1 {
				err = fmt.Errorf("%d rows", len(rows))
			}
			return err
		},
	} {
		if err := read(); err != nil { // prepares
			t.Fatal(err)
		}
		before := c.answers.Load()
		if err := read(); err != nil {
			t.Error(err)
		}
		if n := c.answers.Load() - before; n != 1 {
			t.Errorf("%s took %d messages", name, n)
		}
		for _, pass := range []bool{false, true} {
			c.next.Store(&cut{word: "15000", pass: pass}) // the bound that goes with each read
			if err := read(); err != nil {
				t.Errorf("%s on a connection that was lost: %v", name, err)
			}
			if c.next.Load() != nil {
				t.Error("nothing was cut")
			}
		}
	}
}

// TestMessagesOfWrites: the begin of a transaction goes with its first statement, and what gives
// nothing to read goes with the commit.
func TestMessagesOfWrites(t *testing.T) {
	c, dsn := newCutter(t, postgrestest.Schema(t))
	s, err := Open(t.Context(), Config{Driver: "postgres", DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	ctx := t.Context()
	var row stacyvm.Sandbox
	create := func(tx Tx) error {
		if _, _, err := tx.Workers().Offer(ctx, "w"); err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
			return err
		}
		rows, err := tx.Sandboxes().InsertHeld(ctx, "s", time.Minute, stacyvm.Sandbox{
			ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning, WorkerID: "w",
			Fence: stacyvm.Fence{Incarnation: 1},
		})
		if err == nil {
			row = rows[0]
		}
		return err
	}
	line := []stacyvm.Operation{{Actor: "a"}}
	for _, tt := range []struct {
		name  string
		most  int64
		write func(Tx) error
	}{
		{"create", 2, create},
		{"create with a key", 3, func(tx Tx) error {
			if _, err := tx.Idempotency().Begin(ctx, IdempotencyRecord{Key: string(stacyvm.NewSandboxID())}); err != nil {
				return err
			}
			return create(tx)
		}},
		{"run", 2, func(tx Tx) error {
			var err error
			row, err = tx.Sandboxes().Apply(ctx, row.ID, row.Fence, Change{State: stacyvm.StateRunning})
			if err != nil {
				return err
			}
			return tx.Idempotency().Finish(ctx, IdempotencyRecord{Sandbox: row.ID})
		}},
		{"destroy", 2, func(tx Tx) error {
			if _, err := tx.Sandboxes().Want(ctx, row.ID, Wish{Desired: stacyvm.DesiredDestroyed}); err != nil {
				return err
			}
			return tx.Audit().AppendOperations(ctx, line)
		}},
		{"tombstone", 2, func(tx Tx) error {
			if _, err := tx.Sandboxes().Apply(ctx, row.ID, row.Fence, Change{State: stacyvm.StateDestroyed}); err != nil {
				return err
			}
			return tx.Leases().ReleaseHeld(ctx, string(row.ID), "w", 1)
		}},
		{"lines", 2, func(tx Tx) error { return tx.Audit().AppendOperations(ctx, line) }},
	} {
		took := int64(math.MaxInt64)
		// The first one prepares, and beside others the notifications of those before are sent.
		for try := 0; try < 200 && took > tt.most; try++ {
			if tt.name == "tombstone" || tt.name == "run" || tt.name == "destroy" {
				if err := s.Update(ctx, create); err != nil {
					t.Fatal(err)
				}
			}
			before := c.answers.Load()
			if err := s.Update(ctx, tt.write); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			took = min(took, c.answers.Load()-before)
		}
		if took != tt.most {
			t.Errorf("%s took %d messages, want %d", tt.name, took, tt.most)
		}
	}
}

// TestSilentCommit: a server that gives no answer to a commit is waited for as long as a caller
// should, and no longer. No other limit would end it.
func TestSilentCommit(t *testing.T) {
	c, dsn := newCutter(t, postgrestest.Schema(t))
	s, err := Open(t.Context(), Config{Driver: "postgres", DSN: dsn, ExecMode: "exec", QueryTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c.next.Store(&cut{word: "COMMIT\x00", hold: true})
	began := time.Now()
	err = s.Update(t.Context(), func(tx Tx) error {
		_, err := tx.Sandboxes().Insert(t.Context(), stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), State: stacyvm.StateRunning})
		return err
	})
	took := time.Since(began)
	t.Logf("it was given up after %s", took.Round(time.Millisecond))
	if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || took < postgres.CommitTimeout || took > 4*postgres.CommitTimeout {
		t.Errorf("after %s: %v", took, err)
	}
}

// TestGivenUpWaitsEnd leaves a lock's queue: the statement ends on the server too, and the
// connection stays good.
func TestGivenUpWaitsEnd(t *testing.T) {
	s, err := Open(t.Context(), Config{Driver: "postgres", DSN: postgrestest.Schema(t), MaxOpenConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	count := func(ctx context.Context) error {
		return s.Update(ctx, func(tx Tx) error {
			_, err := tx.Sandboxes().Count(ctx, SandboxFilter{})
			return err
		})
	}
	err = s.Update(t.Context(), func(x Tx) error {
		if _, err := x.Sandboxes().Count(t.Context(), SandboxFilter{}); err != nil {
			return err
		}
		for range 3 { // with two connections, none may be lost for good
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan error)
			go func() { left <- count(ctx) }()
			waitLocked(t, x.(tx).Conn)
			leave()
			if err := <-left; stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
				t.Errorf("who left got %v", err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := count(t.Context()); err != nil {
		t.Error(err)
	}
}

// waitLocked waits until somebody waits for an advisory lock that this transaction has.
func waitLocked(t *testing.T, on sqldb.Querier) {
	t.Helper()
	until(func() bool {
		rows, err := on.QueryContext(t.Context(), `
			SELECT count(*) FROM pg_locks AS w JOIN pg_locks AS h USING (locktype, database, classid, objid, objsubid)
			WHERE locktype = 'advisory' AND NOT w.granted AND h.granted AND h.pid = pg_backend_pid()`)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		var waiting int
		for rows.Next() {
			if err := rows.Scan(&waiting); err != nil {
				t.Fatal(err)
			}
		}
		return rows.Err() == nil && waiting > 0
	})
}

func until(condition func() bool) {
	for !condition() {
		time.Sleep(50 * time.Microsecond)
	}
}
