package local

import (
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// upkeep is what is done now and then, after the engines were asked.
type upkeep struct {
	images     atomic.Bool  // holders were looked through
	tombstones atomic.Int64 // Unix seconds of the last look
}

const tombstonesEvery = time.Hour

// tidy releases, once, the images of sandboxes whose end could not be written down whole, and
// removes old tombstones. all is everything that is on the machine.
func (w *Worker) tidy(all []found) {
	here := make(map[stacyvm.SandboxID]bool, len(all))
	for _, f := range all {
		here[f.ID] = true
	}
	if w.upkeep.images.CompareAndSwap(false, true) {
		if err := w.releaseGone(here); err != nil {
			w.log.Warn("images that nobody uses cannot be released", "error", err)
		}
	}
	now := time.Now()
	if last := w.upkeep.tombstones.Load(); now.Unix()-last >= int64(tombstonesEvery/time.Second) &&
		w.upkeep.tombstones.CompareAndSwap(last, now.Unix()) {
		w.forgetOldTombstones(now.Add(-tombstoneLife), here)
	}
}

// releaseGone releases images whose holder has a tombstone: tombstones are on disk at once, and
// the end of a hold is not when the machine loses its power. A holder that this journal does not
// know is another worker's.
func (w *Worker) releaseGone(here map[stacyvm.SandboxID]bool) error {
	holders, err := w.images.Holders()
	if err != nil {
		return err
	}
	for _, holder := range holders {
		id := stacyvm.SandboxID(holder)
		if !id.Valid() || here[id] {
			continue
		}
		err := w.quietly(id, func() error {
			if w.journal.tombstone(id) == nil {
				return nil
			}
			return w.images.Release(holder)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Worker) forgetOldTombstones(before time.Time, here map[stacyvm.SandboxID]bool) {
	for _, id := range w.journal.old(before) {
		if here[id] {
			continue
		}
		_ = w.quietly(id, func() error { // which has none
			w.journal.forget(id)
			return nil
		})
	}
}

// quietly does something for a sandbox that is not here, while nothing else goes on with it.
func (w *Worker) quietly(id stacyvm.SandboxID, do func() error) error {
	b, release := w.acquire(id)
	defer release()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.record != nil || b.damaged != nil || b.job != nil {
		return nil
	}
	return do()
}
