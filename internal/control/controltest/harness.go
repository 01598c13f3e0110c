package controltest

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// Self is the worker id of every harness.
const Self stacyvm.WorkerID = "here"

// OpenStore opens an empty store that ends with the test: SQLite, or PostgreSQL in the second run
// of OnEachDatabase.
func OpenStore(t testing.TB) store.Store {
	t.Helper()
	if onPostgres {
		return OpenAny(t)
	}
	return OpenSQLite(t)
}

// OpenAny is OpenStore for one test of a package whose others run on SQLite alone: it opens
// PostgreSQL where there is one.
func OpenAny(t testing.TB) store.Store {
	t.Helper()
	if havePostgres() {
		return Open(t, store.Config{Driver: "postgres", DSN: postgrestest.Schema(t)})
	}
	return OpenSQLite(t)
}

// OpenSQLite is OpenStore for tests in a bubble of testing/synctest, whose clock stands still
// while a network is waited for.
func OpenSQLite(t testing.TB) store.Store {
	t.Helper()
	return Open(t, store.Config{Path: filepath.Join(t.TempDir(), "stacyvm.db")})
}

// Open opens a store that ends with the test.
func Open(t testing.TB, config store.Config) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Defaults are small limits that tests change as they need.
func Defaults() control.Defaults {
	return control.Defaults{
		Image: "host", Provider: "mock", MemoryMB: 1024, VCPUs: 1, DiskMB: 1024,
		TTL: 30 * time.Minute, MaxTTL: 24 * time.Hour, MaxExecTimeout: 10 * time.Minute,
	}
}

// NewService makes a service over a store and one worker, and runs its background part until the
// test ends.
func NewService(t testing.TB, s store.Store, w worker.Worker, change func(*control.Config)) *control.Service {
	t.Helper()
	config := control.Config{
		Store: s, Self: Self, Session: "session-1", Defaults: Defaults(),
		Workers: func(id stacyvm.WorkerID) (worker.Worker, error) {
			if id == Self {
				return w, nil
			}
			return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "worker %s does not answer", id)
		},
	}
	if change != nil {
		change(&config)
	}
	service := control.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := service.Background(ctx); err != nil {
			t.Errorf("background: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return service
}

// Register writes the record of the worker Self.
func Register(t testing.TB, s store.Store) {
	t.Helper()
	Update(t, s, func(tx store.Tx) error {
		_, err := tx.Workers().Save(t.Context(),
			stacyvm.Worker{ID: Self, Status: "online", Session: "session-1", Providers: []string{"mock"}})
		return err
	})
}

// Update runs one transaction that must succeed.
func Update(t testing.TB, s store.Store, write func(store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), write); err != nil {
		t.Fatal(err)
	}
}

// Row reads a row as the store has it, tombstones too.
func Row(t testing.TB, s store.Store, id stacyvm.SandboxID) (row stacyvm.Sandbox) {
	t.Helper()
	err := s.View(t.Context(), func(tx store.Tx) (err error) {
		row, err = tx.Sandboxes().Get(t.Context(), id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// As gives a context of a caller with every scope of a client.
func As(ctx context.Context, subject, tenant string) context.Context {
	return auth.With(ctx, stacyvm.Principal{Subject: subject, Tenant: tenant, Scopes: []string{"read:*", "api:*"}})
}

// AsAdmin gives a context of an administrator.
func AsAdmin(ctx context.Context) context.Context {
	return auth.With(ctx, stacyvm.Principal{Subject: "root", Scopes: []string{"read:*", "admin:*"}})
}

// AsWorker gives a context of a worker's process.
func AsWorker(ctx context.Context, id stacyvm.WorkerID, scopes ...string) context.Context {
	return auth.With(ctx, auth.WorkerIdentity{WorkerID: id, Scopes: scopes}.Principal())
}

// Beat is a heartbeat of the worker Self.
func Beat(session string, register bool) cluster.Beat {
	w := stacyvm.Worker{ID: Self, Session: session, Providers: []string{"mock"}}
	return cluster.Beat{Register: register, Worker: w}
}
