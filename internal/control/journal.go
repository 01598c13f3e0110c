package control

import (
	"context"
	"log/slog"
	"sync"
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

// journal writes audit and exec log lines, and what subscribers are told of them, in batches, so that commands do not wait for the disk. A full queue makes its
// callers wait: lines are late then, never lost.
type journal struct {
	store store.Store
	log   *slog.Logger
	queue chan line
	done  chan struct{} // closed when run has written its last batch

	mu     sync.RWMutex // held for reading while a line is put into the queue
	closed bool
}

func newJournal(s store.Store, log *slog.Logger) *journal {
	return &journal{store: s, log: log, queue: make(chan line, journalQueue), done: make(chan struct{})}
}

// add hands a line over. After the end of run it writes the line itself.
func (j *journal) add(l line) {
	j.mu.RLock()
	closed := j.closed
	if !closed {
		j.queue <- l // run goes on reading until no caller is here
	}
	j.mu.RUnlock()
	if closed {
		j.last([]line{l})
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
		err := j.append(ctx, batch)
		if err == nil {
			return
		}
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
	if err := j.append(ctx, batch); err != nil {
		j.log.Error("audit lines could not be written", "lines", len(batch), "error", err)
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
