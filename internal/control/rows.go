package control

import (
	"context"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// rowLife is how long a row may be used without asking the store. A worker refuses the fence
	// of a row that is too old, so the worst is a refusal.
	rowLife = 2 * time.Second
	// rowCount bounds the cache.
	rowCount = 4096
)

// row is a sandbox as it was read, with its expiry on this process's own clock.
type row struct {
	stacyvm.Sandbox
	expires time.Time // monotonic
	stale   time.Time // monotonic
}

// rowCache keeps rows for the byte path, which must not ask the store.
type rowCache struct {
	mu      sync.Mutex
	rows    map[stacyvm.SandboxID]row
	version uint64 // counts drops; a row that was read before a drop is not put in after it
}

func newRowCache() *rowCache { return &rowCache{rows: map[stacyvm.SandboxID]row{}} }

// find gives a fresh row, or the version to put one with.
func (c *rowCache) find(id stacyvm.SandboxID) (found row, version uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok = c.rows[id]
	if ok && time.Now().After(found.stale) {
		delete(c.rows, id)
		ok = false
	}
	return found, c.version, ok
}

func (c *rowCache) put(fresh row, version uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version != c.version {
		return
	}
	if len(c.rows) >= rowCount {
		clear(c.rows)
	}
	c.rows[fresh.ID] = fresh
}

// drop forgets a row that this process has changed.
func (c *rowCache) drop(id stacyvm.SandboxID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	delete(c.rows, id)
}

// absent is the one answer for what is not there and for what the caller may not see.
func absent(id stacyvm.SandboxID) error {
	return stacyvm.Errorf(stacyvm.CodeNotFound, "sandbox %.64q does not exist", string(id))
}

// visible reads a live sandbox that the caller may see.
func visible(
	ctx context.Context, from store.SandboxReader, caller stacyvm.Principal, id stacyvm.SandboxID,
) (stacyvm.Sandbox, error) {
	if !id.Valid() {
		return stacyvm.Sandbox{}, absent(id)
	}
	sandbox, err := from.Get(ctx, id)
	if stacyvm.CodeOf(err) == stacyvm.CodeNotFound {
		return stacyvm.Sandbox{}, absent(id)
	}
	if err != nil {
		return stacyvm.Sandbox{}, err
	}
	if !caller.Sees(sandbox.TenantID) || !sandbox.State.Active() {
		return stacyvm.Sandbox{}, absent(id)
	}
	return sandbox, nil
}

// target is what a verb acts on: a sandbox, and the caller that the context named at the verb's
// door.
type target struct {
	caller stacyvm.Principal
	row    row  // until it is read it has the id alone
	fresh  bool // row was read for the connection that comes next; later ones read it again
}

// targetOf takes the caller from the context. Nothing is read yet.
func targetOf(ctx context.Context, id stacyvm.SandboxID) target {
	return target{caller: auth.From(ctx), row: row{Sandbox: stacyvm.Sandbox{ID: id}}}
}

// later is the target for a connection of its own, at any time.
func (t target) later() target {
	t.fresh = false
	return t
}

// resolve reads the target's row, from the cache where it is there. CodeNotFound: no such
// sandbox, or the caller may not see it.
func (s *Service) resolve(ctx context.Context, t *target) error {
	id := t.row.ID
	found, version, ok := s.rows.find(id)
	if ok {
		if !t.caller.Sees(found.TenantID) {
			return absent(id)
		}
		t.row, t.fresh = found, true
		return nil
	}
	err := s.store.View(ctx, func(tx store.Tx) error {
		sandbox, err := visible(ctx, tx.Sandboxes(), t.caller, id)
		if err != nil {
			return err
		}
		now, err := tx.Now(ctx)
		if err != nil {
			return err
		}
		// The database's clock decides; only the distance to the expiry is taken over to ours.
		read := time.Now()
		found = row{Sandbox: sandbox, expires: read.Add(sandbox.ExpiresAt.Sub(now)), stale: read.Add(rowLife)}
		return nil
	})
	if err != nil {
		return err
	}
	s.rows.put(found, version)
	t.row, t.fresh = found, true
	return nil
}

// usable refuses a sandbox that cannot run commands now, and says why. CodeUnavailable: nobody
// reaches it now, which may pass.
func (r row) usable() error {
	switch {
	case r.Desired == stacyvm.DesiredDestroyed:
		return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s is being destroyed", r.ID)
	case r.State == stacyvm.StateUnhealthy:
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "sandbox %s is %s (%s)", r.ID, r.State, r.Reason)
	case r.State != stacyvm.StateRunning && r.Reason != "":
		return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s is %s (%s)", r.ID, r.State, r.Reason)
	case r.State != stacyvm.StateRunning:
		return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s is %s", r.ID, r.State)
	case !time.Now().Before(r.expires):
		return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s has expired", r.ID)
	}
	return nil
}
