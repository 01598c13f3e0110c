package node

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/space"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/local"
)

// SpaceOf is what to watch: the data directory, and where it is on another file system the
// database.
func SpaceOf(c config.Config) space.Config {
	s := space.Config{
		Dirs:    []string{c.DataDir},
		MinFree: int64(c.Disk.MinFreeMB) << 20,
		Reserve: int64(c.Disk.ReserveMB) << 20,
	}
	if !c.Postgres() && c.Database.Path != "" {
		s.Dirs = append(s.Dirs, filepath.Dir(c.DatabasePath()))
	}
	return s
}

// OpenGuard watches the disk of a server or worker that has locked its data directory, and makes
// its reserve, or gives a part of it up.
func OpenGuard(c config.Config, log *slog.Logger) (*space.Guard, error) {
	watched := SpaceOf(c)
	watched.Logger = log
	for _, dir := range watched.Dirs {
		if err := MakeDataDir(dir); err != nil {
			return nil, err
		}
	}
	guard, err := space.New(watched)
	if err == nil {
		guard.Start()
	}
	return guard, err
}

// GuardedWorker is this machine's worker: it takes no more room when the disk is full, and removes
// with the reserve.
type GuardedWorker struct {
	*local.Worker
	Guard *space.Guard
}

var (
	_ worker.Worker  = GuardedWorker{}
	_ worker.Expirer = GuardedWorker{}
)

// Create implements worker.Worker. CodeStorageFull: the disk is full.
func (w GuardedWorker) Create(
	ctx context.Context,
	ref stacyvm.Ref,
	request worker.CreateRequest,
) (worker.Created, error) {
	if err := w.Guard.Full(); err != nil {
		return worker.Created{}, err
	}
	return w.Worker.Create(ctx, ref, request)
}

// Destroy implements worker.Worker.
func (w GuardedWorker) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	return w.Guard.Spare(func() error { return w.Worker.Destroy(ctx, ref) })
}

// Expire implements worker.Expirer.
func (w GuardedWorker) Expire(ctx context.Context, ref stacyvm.Ref, at time.Time) error {
	return w.Guard.Spare(func() error { return w.Worker.Expire(ctx, ref, at) })
}

// Guest implements worker.Worker: the connection refuses to write files while the disk is full.
func (w GuardedWorker) Guest(ctx context.Context, ref stacyvm.Ref, scope guest.Scope) (guest.Conn, error) {
	conn, err := w.Worker.Guest(ctx, ref, scope)
	if err == nil && scope == guest.ScopeFiles {
		conn.HTTP = guardedFiles{conn.HTTP, w.Guard}
	}
	return conn, err
}

type guardedFiles struct {
	guest.Doer
	guard *space.Guard
}

// Do implements guest.Doer.
func (s guardedFiles) Do(request *http.Request) (*http.Response, error) {
	if guest.TakesRoom(request.URL.Path) {
		if err := s.guard.Full(); err != nil {
			if request.Body != nil {
				_ = request.Body.Close() // who writes it must learn of the refusal
			}
			return nil, err
		}
	}
	return s.Doer.Do(request)
}
