package audit

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	queueSize = 4096
	batchSize = 512
	// batchDelay is how long the first line of a batch waits for company; with the write itself
	// it stays below 100 ms.
	batchDelay = 40 * time.Millisecond
	// retryPause is the pause after a write that failed.
	retryPause = 200 * time.Millisecond
	// lastWithin bounds the last write at shutdown.
	lastWithin = 5 * time.Second
)

// entry is what is written of one thing that happened; parts that are nil are left out.
type entry struct {
	operation *stacyvm.Operation
	admin     *stacyvm.AdminCall
	exec      *stacyvm.ExecRecord
	event     *stacyvm.Event
}

// parts gives an entry for each part.
func (e entry) parts() (parts []entry) {
	if e.operation != nil {
		parts = append(parts, entry{operation: e.operation})
	}
	if e.admin != nil {
		parts = append(parts, entry{admin: e.admin})
	}
	if e.exec != nil {
		parts = append(parts, entry{exec: e.exec})
	}
	if e.event != nil {
		parts = append(parts, entry{event: e.event})
	}
	return parts
}

// LogValue implements slog.LogValuer: it says what an entry is about.
func (e entry) LogValue() slog.Value {
	var about []slog.Attr
	if o := e.operation; o != nil {
		about = append(about, slog.String("action", o.Action), slog.String("sandbox", string(o.SandboxID)),
			slog.String("actor", o.Actor), slog.String("tenant", o.TenantID), slog.String("status", o.Status))
	}
	if c := e.admin; c != nil {
		about = append(about, slog.String("method", c.Method), slog.String("path", c.Path),
			slog.String("caller", c.Actor), slog.Int("answer", c.Status))
	}
	if x := e.exec; x != nil {
		about = append(about, slog.String("exec_sandbox", string(x.SandboxID)),
			slog.String("process", x.ProcessID), slog.Int("exit", x.ExitCode))
	}
	if n := e.event; n != nil {
		about = append(about, slog.String("event", string(n.Kind)), slog.String("event_sandbox", string(n.SandboxID)))
	}
	return slog.GroupValue(about...)
}

// Config is what a Writer is made from.
type Config struct {
	Store store.Store
	// Sync writes each audit line before the operation is answered instead of within 100 ms.
	Sync   bool
	Logger *slog.Logger
}

// Writer writes audit and exec log lines, and events, in batches, so that commands do not wait
// for the disk. A full queue makes its callers wait for as long as their contexts live. A line is
// lost only when the store refuses what is in it, or when its caller left while the queue was
// full: such a line is counted and goes to the log.
type Writer struct {
	store   store.Store
	sync    bool
	log     *slog.Logger
	queue   chan entry
	dropped atomic.Int64 // lines that no store has

	mu     sync.RWMutex // held for reading while a line is put into the queue
	closed bool
}

// NewWriter makes a writer; Run must run for as long as it is used.
func NewWriter(c Config) *Writer {
	return &Writer{store: c.Store, sync: c.Sync, log: c.Logger, queue: make(chan entry, queueSize)}
}

// Dropped is the number of lines that are in the log alone, since the start of this process.
func (w *Writer) Dropped() int64 { return w.dropped.Load() }

// add hands a line over. While the queue is full it waits, at most until ctx ends. After the end
// of Run it writes the line itself.
func (w *Writer) add(ctx context.Context, e entry) {
	if closed := w.enqueue(ctx, e); closed {
		w.last([]entry{e})
	}
}

// enqueue reports whether nobody reads the queue any more.
func (w *Writer) enqueue(ctx context.Context, e entry) (closed bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return true
	}
	select {
	case w.queue <- e: // also for a caller that has left
		return false
	default:
	}
	select {
	case w.queue <- e: // Run goes on reading until no caller is here
	case <-ctx.Done():
		w.drop([]entry{e}, context.Cause(ctx))
	}
	return false
}

// drop counts lines that are lost and leaves them to the log.
func (w *Writer) drop(lines []entry, cause error) {
	w.dropped.Add(int64(len(lines)))
	for _, e := range lines {
		w.log.Error("an audit line is lost", "line", e, "error", cause)
	}
}

// Run writes until ctx ends and then everything that is still there. It ends after the last
// request.
func (w *Writer) Run(ctx context.Context) error {
	for {
		select {
		case first := <-w.queue:
			w.write(ctx, w.collect(ctx, first))
		case <-ctx.Done():
			w.drain()
			return nil
		}
	}
}

// collect waits a moment for lines that come together.
func (w *Writer) collect(ctx context.Context, first entry) []entry {
	batch := []entry{first}
	delay := time.NewTimer(batchDelay)
	defer delay.Stop()
	for len(batch) < batchSize {
		select {
		case next := <-w.queue:
			batch = append(batch, next)
		case <-delay.C:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

// write tries until the batch is on disk or ctx ends; then the last try follows.
func (w *Writer) write(ctx context.Context, batch []entry) {
	for {
		rest, err := w.save(ctx, batch)
		if err == nil {
			return
		}
		batch = rest
		if ctx.Err() != nil {
			w.last(batch)
			return
		}
		w.log.Warn("audit lines wait for the store", "lines", len(batch), "error", err)
		_ = retry.Sleep(ctx, retryPause) // after ctx's end the last try follows
	}
}

// save writes a batch. A batch that the store refuses is written in halves, down to the line that
// it refuses alone; that line is dropped and the others are kept. The error is a fault that
// passes, and rest is what is not written then.
func (w *Writer) save(ctx context.Context, batch []entry) (rest []entry, err error) {
	err = w.append(ctx, batch)
	switch {
	case err == nil:
		return nil, nil
	case isTransient(err):
		return batch, err
	case len(batch) == 1:
		return w.saveParts(ctx, batch[0].parts())
	}
	half := len(batch) / 2
	if rest, err = w.save(ctx, batch[:half]); err != nil {
		return slices.Concat(rest, batch[half:]), err
	}
	return w.save(ctx, batch[half:])
}

// saveParts writes the parts of a refused line one by one and drops those that are refused again.
func (w *Writer) saveParts(ctx context.Context, parts []entry) (rest []entry, err error) {
	for i, part := range parts {
		err := w.append(ctx, []entry{part})
		if isTransient(err) {
			return parts[i:], err
		}
		if err != nil {
			w.drop([]entry{part}, err)
		}
	}
	return nil, nil
}

// isTransient reports a fault that is the store's and not the line's: the same line can be
// written later.
func isTransient(err error) bool {
	switch stacyvm.CodeOf(err) {
	case stacyvm.CodeUnavailable, stacyvm.CodeStorageFull:
		return true
	default:
		return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	}
}

// drain takes what callers have put in and lets nobody put in more.
func (w *Writer) drain() {
	var rest []entry
	closed := make(chan struct{})
	go func() { // waits for callers that are in add; they need us to read
		w.mu.Lock()
		w.closed = true
		w.mu.Unlock()
		close(closed)
	}()
	for waiting := true; waiting; {
		select {
		case e := <-w.queue:
			rest = append(rest, e)
		case <-closed:
			waiting = false
		}
	}
	for len(w.queue) > 0 {
		rest = append(rest, <-w.queue)
	}
	if len(rest) > 0 {
		w.last(rest)
	}
}

// last writes without a caller's context; a failure is all that the log can keep.
func (w *Writer) last(batch []entry) {
	ctx, cancel := context.WithTimeout(context.Background(), lastWithin)
	defer cancel()
	if rest, err := w.save(ctx, batch); err != nil {
		w.drop(rest, err)
	}
}

func (w *Writer) append(ctx context.Context, batch []entry) error {
	var operations []stacyvm.Operation
	var admins []stacyvm.AdminCall
	var execs []stacyvm.ExecRecord
	var events []stacyvm.Event
	for _, e := range batch {
		if e.operation != nil {
			operations = append(operations, *e.operation)
		}
		if e.admin != nil {
			admins = append(admins, *e.admin)
		}
		if e.exec != nil {
			execs = append(execs, *e.exec)
		}
		if e.event != nil {
			events = append(events, *e.event)
		}
	}
	return w.store.Update(ctx, func(tx store.Tx) error {
		if len(operations) > 0 {
			if err := tx.Audit().AppendOperations(ctx, operations); err != nil {
				return err
			}
		}
		if len(admins) > 0 {
			if err := tx.AdminAudit().Append(ctx, admins); err != nil {
				return err
			}
		}
		if len(execs) > 0 {
			if err := tx.Audit().AppendExecs(ctx, execs); err != nil {
				return err
			}
		}
		return tx.Events().Append(ctx, events)
	})
}
