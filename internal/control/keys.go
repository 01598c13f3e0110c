package control

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// statusCreated is what the transport answers to a create; it is stored with the key.
const statusCreated = 201

// check refuses a malformed key.
func (k Idempotency) check() error {
	if len(k.Key) > 255 || strings.ContainsFunc(k.Key, func(r rune) bool { return r < '!' || r > '~' }) {
		return stacyvm.Invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
	}
	return nil
}

// scope keeps equal keys of different callers and routes apart.
func (k Idempotency) scope(principal stacyvm.Principal) string {
	return fmt.Sprintf("%q %q %q", principal.Tenant, principal.Subject, k.Route)
}

// claim takes a key for a new sandbox, or gives the sandbox that it made before.
func claim(ctx context.Context, tx store.Tx, c creation, id stacyvm.SandboxID) (*stacyvm.Sandbox, error) {
	if c.key.Key == "" {
		return nil, nil
	}
	mine := c.record(id)
	known, err := tx.Idempotency().Begin(ctx, mine)
	switch {
	case err != nil || known == nil:
		return nil, err
	case known.BodyHash != c.key.BodyHash:
		return nil, stacyvm.Errorf(stacyvm.CodeKeyReused, "Idempotency-Key: it came before with another body")
	case known.Done:
		return answered(ctx, tx, *known)
	}
	// The first request has no answer yet: it is under way, or its process died. The row knows.
	first, err := tx.Sandboxes().Get(ctx, known.Sandbox)
	switch {
	case err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound:
		return nil, err
	case err != nil || first.State == stacyvm.StateError || first.State == stacyvm.StateDestroyed:
		if err := tx.Idempotency().Abandon(ctx, *known); err != nil {
			return nil, err
		}
		known, err := tx.Idempotency().Begin(ctx, mine)
		if err == nil && known != nil { // another repeat was faster
			return nil, errInProgress
		}
		return nil, err
	case first.State == stacyvm.StateCreating:
		return nil, errInProgress
	}
	return &first, finish(ctx, tx, c, first)
}

// answered gives the sandbox of a key that was answered, as it is now. The stored answer is for
// one whose row is forgotten.
func answered(ctx context.Context, tx store.Tx, known store.IdempotencyRecord) (*stacyvm.Sandbox, error) {
	now, err := tx.Sandboxes().Get(ctx, known.Sandbox)
	switch stacyvm.CodeOf(err) {
	case "":
		return &now, nil
	case stacyvm.CodeNotFound:
	default:
		return nil, err
	}
	var first stacyvm.Sandbox
	if err := json.Unmarshal(known.Body, &first); err != nil {
		return nil, fmt.Errorf("decode the stored answer of a key: %w", err)
	}
	first.State, first.Desired = stacyvm.StateDestroyed, stacyvm.DesiredDestroyed
	return &first, nil
}

var errInProgress = stacyvm.Errorf(stacyvm.CodeInProgress,
	"the first request with this Idempotency-Key is not answered yet")

// record is the claim of a sandbox's create.
func (c creation) record(id stacyvm.SandboxID) store.IdempotencyRecord {
	return store.IdempotencyRecord{Scope: c.key.scope(c.caller), Key: c.key.Key, BodyHash: c.key.BodyHash, Sandbox: id}
}

// claimed is the record of a create's key; nil: it has none.
func (c creation) claimed(id stacyvm.SandboxID) *store.IdempotencyRecord {
	if c.key.Key == "" {
		return nil
	}
	record := c.record(id)
	return &record
}

// finish stores the answer to a key, if the key is still claimed for this sandbox. The sandbox
// runs in any case.
func finish(ctx context.Context, tx store.Tx, c creation, sandbox stacyvm.Sandbox) error {
	if c.key.Key == "" {
		return nil
	}
	answer, err := c.answer(sandbox)
	if err != nil {
		return err
	}
	return tx.Idempotency().Finish(ctx, answer)
}

// abandon frees the key that is claimed for a sandbox's create; another sandbox's claim stays.
func abandon(ctx context.Context, tx store.Tx, c creation, id stacyvm.SandboxID) error {
	if c.key.Key == "" {
		return nil
	}
	return tx.Idempotency().Abandon(ctx, c.record(id))
}
