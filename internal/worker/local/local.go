// Package local is the worker on this machine: it turns create requests into runtimes of its
// engines, remembers on disk whose calls count, and gives connections to guests. It knows no
// store, no control plane and no transport.
//
// What it keeps is one small file per sandbox. A sandbox's calls that change something run one
// after the other, those of different sandboxes in parallel; there is no lock over all of them.
package local

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// Images gives sandboxes their root file systems; *image.Store does. The holder of an image is the
// sandbox's id.
type Images interface {
	// Resolve finds an image and keeps it until the holder lets go.
	Resolve(ctx context.Context, name, holder string) (image.Root, error)
	// Release lets go; of nothing is a success.
	Release(holder string) error
	// Holders lists who holds an image.
	Holders() ([]string, error)
}

// Config is what a Worker is made from.
type Config struct {
	ID stacyvm.WorkerID
	// Dir holds the journal; made when missing. One process at a time may use it.
	Dir string
	// Engines in order of preference; they stay the caller's to close, after the worker.
	Engines []engine.Engine
	// Default names the engine of a spec that names none; empty: the first.
	Default string
	Images  Images
	// ParallelCreates is how many runtimes are made at a time, whoever asks; 0: any number.
	ParallelCreates int
	Logger          *slog.Logger // nil: none
}

// Worker implements worker.Worker.
type Worker struct {
	id       stacyvm.WorkerID
	engines  []engine.Engine
	fallback string
	images   Images
	log      *slog.Logger
	journal  *journal
	upkeep   upkeep
	starts   *semaphore.Weighted // held while a runtime is made
	pings    pings
	opened   time.Time

	life context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup // jobs and probes under way

	mu     sync.RWMutex // taken after an entry's
	closed bool
	// closed when Run has asked the guests for the first time; nil: it does not run
	first   chan struct{}
	entries map[stacyvm.SandboxID]*entry // those with a record, and those somebody works on

	probing singleflight.Group
	probeMu sync.Mutex
	probes  map[string]worker.Provider
}

var _ worker.Worker = (*Worker)(nil)

// Open reads the journal and nothing else: runtimes are found when they are asked for.
// CodeInvalid: the configuration is wrong or the directory cannot be used.
func Open(config Config) (*Worker, error) {
	if len(config.Engines) == 0 {
		return nil, stacyvm.Invalid("providers", "a worker needs an engine")
	}
	if config.Default == "" {
		config.Default = config.Engines[0].Name()
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.ParallelCreates == 0 {
		config.ParallelCreates = math.MaxInt
	}
	files, err := openJournal(config.Dir)
	if err != nil {
		return nil, err
	}
	w := &Worker{
		id: config.ID, engines: config.Engines, fallback: config.Default, images: config.Images, log: config.Logger,
		pings: usualPings, opened: time.Now(),
		starts:  semaphore.NewWeighted(int64(config.ParallelCreates)),
		journal: files, entries: map[stacyvm.SandboxID]*entry{}, probes: map[string]worker.Provider{},
	}
	if w.engine(config.Default) == nil {
		return nil, errors.Join(
			stacyvm.Invalid("providers", "the default engine %.64q is not among the engines", config.Default),
			files.close(),
		)
	}
	w.life, w.end = context.WithCancel(context.Background())
	if err := w.load(); err != nil {
		w.end()
		return nil, errors.Join(err, files.close())
	}
	return w, nil
}

// load fills the map with what the journal has.
func (w *Worker) load() error {
	entries, err := w.journal.load()
	if err != nil {
		return err
	}
	for id, kept := range entries {
		b := &entry{id: id, read: true, damaged: kept.damaged}
		if kept.damaged != nil {
			w.log.Error(
				"a sandbox's journal entry is damaged; it is kept until the sandbox is destroyed",
				"sandbox",
				id,
				"error",
				kept.damaged,
			)
		} else {
			b.record, b.fence = kept.record, kept.record.Fence
		}
		w.entries[id] = b
	}
	return nil
}

// Close ends what is under way, undoing creates that are not finished, and closes the connections
// to guests. Runtimes stay when their engine keeps them. Calls after it are CodeUnavailable.
func (w *Worker) Close() error {
	w.mu.Lock()
	again := w.closed
	w.closed = true
	w.mu.Unlock()
	if again {
		return nil
	}
	w.end()
	w.work.Wait()
	for _, b := range w.all() {
		b.mu.Lock()
		b.disconnect()
		b.mu.Unlock()
	}
	return w.journal.close()
}

// enter counts a piece of work that Close waits for.
func (w *Worker) enter() error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return errClosed
	}
	w.work.Add(1)
	return nil
}

// whileOpen gives a context that also ends with the worker.
func (w *Worker) whileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(w.life, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

var errClosed = stacyvm.Errorf(stacyvm.CodeUnavailable, "the worker is shutting down")

// engine finds an engine by name; nil: there is none.
func (w *Worker) engine(name string) engine.Engine {
	for _, e := range w.engines {
		if e.Name() == name {
			return e
		}
	}
	return nil
}

// failure gives err a code if it has none.
func failure(err error, message string) error {
	var coded *stacyvm.Error
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return stacyvm.Wrap(stacyvm.CodeTimeout, err, message)
	case errors.Is(err, context.Canceled):
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, message)
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, message)
}
