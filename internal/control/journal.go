package control

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	journalQueue = 4096
	journalBatch = 512
	// journalDelay is how long the first line of a batch waits for company; with the write itself it stays below 100 ms.
	journalDelay = 40 * time.Millisecond
	// journalRetry is the pause after a write that failed.
	journalRetry = 200 * time.Millisecond
	// journalLast bounds the last write at shutdown.
	journalLast = 5 * time.Second
)

// line is what there is to write of one thing that happened; parts that are nil are left out.
type line struct {
	operation *stacyvm.Operation
	admin     *stacyvm.AdminCall
	exec      *stacyvm.ExecRecord
	notice    *stacyvm.Notice
}

// parts gives a line for each part.
func (l line) parts() (parts []line) {
	if l.operation != nil {
		parts = append(parts, line{operation: l.operation})
	}
	if l.admin != nil {
		parts = append(parts, line{admin: l.admin})
	}
	if l.exec != nil {
		parts = append(parts, line{exec: l.exec})
	}
	if l.notice != nil {
		parts = append(parts, line{notice: l.notice})
	}
	return parts
}

// LogValue implements slog.LogValuer: it tells what a line was about.
func (l line) LogValue() slog.Value {
	var about []slog.Attr
	if o := l.operation; o != nil {
		about = append(about, slog.String("action", o.Action), slog.String("sandbox", string(o.SandboxID)), slog.String("actor", o.Actor),
			slog.String("tenant", o.TenantID), slog.String("status", o.Status))
	}
	if c := l.admin; c != nil {
		about = append(about, slog.String("method", c.Method), slog.String("path", c.Path), slog.String("caller", c.Actor), slog.Int("answer", c.Status))
	}
	if e := l.exec; e != nil {
		about = append(about, slog.String("exec_sandbox", string(e.SandboxID)), slog.String("process", e.ProcessID), slog.Int("exit", e.ExitCode))
	}
	if n := l.notice; n != nil {
		about = append(about, slog.String("event", string(n.Kind)), slog.String("event_sandbox", string(n.SandboxID)))
	}
	return slog.GroupValue(about...)
}

// journal writes audit and exec log lines, and events, in batches, so that commands do not wait for the disk. A full queue
// makes its callers wait for as long as their contexts live. A line is lost only when the store refuses it for what is in it,
// or when its caller left while the queue was full: such a line is counted and goes to the log.
type journal struct {
	store   store.Store
	log     *slog.Logger
	queue   chan line
	done    chan struct{} // closed when run has written its last batch
	dropped atomic.Int64  // lines that no store has

	mu     sync.RWMutex // held for reading while a line is put into the queue
	closed bool
}

func newJournal(s store.Store, log *slog.Logger) *journal {
	return &journal{store: s, log: log, queue: make(chan line, journalQueue), done: make(chan struct{})}
}

// add hands a line over. While the queue is full it waits, at most until ctx ends. After the end of run it writes the line
// itself.
func (j *journal) add(ctx context.Context, l line) {
	if closed := j.enqueue(ctx, l); closed {
		j.last([]line{l})
	}
}

// enqueue reports whether nobody reads the queue any more.
func (j *journal) enqueue(ctx context.Context, l line) (closed bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.closed {
		return true
	}
	select {
	case j.queue <- l: // also for a caller that has left
		return false
	default:
	}
	select {
	case j.queue <- l: // run goes on reading until no caller is here
	case <-ctx.Done():
		j.drop([]line{l}, context.Cause(ctx))
	}
	return false
}

// drop counts lines that are lost and leaves them to the log.
func (j *journal) drop(lines []line, cause error) {
	j.dropped.Add(int64(len(lines)))
	for _, l := range lines {
		j.log.Error("an audit line is lost", "line", l, "error", cause)
	}
}

// run writes until ctx ends and then everything that is still there.
func (j *journal) run(ctx context.Context) error {
	defer close(j.done)
	for {
		select {
		case first := <-j.queue:
			j.write(ctx, j.collect(ctx, first))
		case <-ctx.Done():
			j.drain()
			return nil
		}
	}
}

// collect waits a moment for lines that come together.
func (j *journal) collect(ctx context.Context, first line) []line {
	batch := []line{first}
	delay := time.NewTimer(journalDelay)
	defer delay.Stop()
	for len(batch) < journalBatch {
		select {
		case next := <-j.queue:
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
func (j *journal) write(ctx context.Context, batch []line) {
	for {
		rest, err := j.save(ctx, batch)
		if err == nil {
			return
		}
		batch = rest
		if ctx.Err() != nil {
			j.last(batch)
			return
		}
		j.log.Warn("audit lines wait for the store", "lines", len(batch), "error", err)
		select {
		case <-time.After(journalRetry):
		case <-ctx.Done():
		}
	}
}

// save writes a batch. A batch that the store refuses is written in halves, down to the line that it refuses alone; that line
// is dropped and the others are kept. The error is a fault that passes, and rest is what is not written then.
func (j *journal) save(ctx context.Context, batch []line) (rest []line, err error) {
	err = j.append(ctx, batch)
	switch {
	case err == nil:
		return nil, nil
	case passing(err):
		return batch, err
	case len(batch) == 1:
		return j.saveParts(ctx, batch[0].parts())
	}
	half := len(batch) / 2
	if rest, err = j.save(ctx, batch[:half]); err != nil {
		return slices.Concat(rest, batch[half:]), err
	}
	return j.save(ctx, batch[half:])
}

// saveParts writes the parts of a refused line one by one and drops those that are refused again.
func (j *journal) saveParts(ctx context.Context, parts []line) (rest []line, err error) {
	for i, part := range parts {
		err := j.append(ctx, []line{part})
		if passing(err) {
			return parts[i:], err
		}
		if err != nil {
			j.drop([]line{part}, err)
		}
	}
	return nil, nil
}

// passing reports a fault that is the store's and not the line's: the same line can be written later.
func passing(err error) bool {
	switch stacyvm.CodeOf(err) {
	case stacyvm.CodeUnavailable, stacyvm.CodeStorageFull:
		return true
	default:
		return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	}
}

// drain takes what callers have put in and lets nobody put in more.
func (j *journal) drain() {
	var rest []line
	closed := make(chan struct{})
	go func() { // waits for callers that are in add; they need us to read
		j.mu.Lock()
		j.closed = true
		j.mu.Unlock()
		close(closed)
	}()
	for waiting := true; waiting; {
		select {
		case l := <-j.queue:
			rest = append(rest, l)
		case <-closed:
			waiting = false
		}
	}
	for len(j.queue) > 0 {
		rest = append(rest, <-j.queue)
	}
	if len(rest) > 0 {
		j.last(rest)
	}
}

// last writes without a caller's context; a failure is all that the log can keep.
func (j *journal) last(batch []line) {
	ctx, cancel := context.WithTimeout(context.Background(), journalLast)
	defer cancel()
	if rest, err := j.save(ctx, batch); err != nil {
		j.drop(rest, err)
	}
}

func (j *journal) append(ctx context.Context, batch []line) error {
	var operations []stacyvm.Operation
	var admins []stacyvm.AdminCall
	var execs []stacyvm.ExecRecord
	var notices []stacyvm.Notice
	for _, l := range batch {
		if l.operation != nil {
			operations = append(operations, *l.operation)
		}
		if l.admin != nil {
			admins = append(admins, *l.admin)
		}
		if l.exec != nil {
			execs = append(execs, *l.exec)
		}
		if l.notice != nil {
			notices = append(notices, *l.notice)
		}
	}
	return j.store.Update(ctx, func(tx store.Tx) error {
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
		return tx.Events().Append(ctx, notices)
	})
}
