package control

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/stacyvm/stacyvm/internal/auth"
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
func claim(ctx context.Context, tx store.Tx, key Idempotency, id stacyvm.SandboxID) (*stacyvm.Sandbox, error) {
	if key.Key == "" {
		return nil, nil
	}
	mine := store.IdempotencyRecord{Scope: key.scope(auth.From(ctx)), Key: key.Key, BodyHash: key.BodyHash, Sandbox: id}
	known, err := tx.Idempotency().Begin(ctx, mine)
	switch {
	case err != nil || known == nil:
		return nil, err
	case known.BodyHash != key.BodyHash:
		return nil, stacyvm.Errorf(stacyvm.CodeKeyReused, "Idempotency-Key: it came before with another body")
	case known.Done:
		var first stacyvm.Sandbox
		if err := json.Unmarshal(known.Body, &first); err != nil {
			return nil, fmt.Errorf("decode the stored answer of a key: %w", err)
		}
		return &first, nil
	}
	// The first request has no answer yet: it is under way, or its process died. The row knows.
	first, err := tx.Sandboxes().Get(ctx, known.Sandbox)
	switch {
	case err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound:
		return nil, err
	case err != nil || first.State == stacyvm.StateError || first.State == stacyvm.StateDestroyed:
		if err := tx.Idempotency().Abandon(ctx, mine.Scope, mine.Key); err != nil {
			return nil, err
		}
		_, err := tx.Idempotency().Begin(ctx, mine)
		return nil, err
	case first.State == stacyvm.StateCreating:
		return nil, stacyvm.Errorf(stacyvm.CodeInProgress, "the first request with this Idempotency-Key is not answered yet")
	}
	return &first, finish(ctx, tx, key, first)
}

// finish stores the answer to a key.
func finish(ctx context.Context, tx store.Tx, key Idempotency, sandbox stacyvm.Sandbox) error {
	if key.Key == "" {
		return nil
	}
	body, err := json.Marshal(sandbox)
	if err != nil {
		return err
	}
	return tx.Idempotency().Finish(ctx, key.scope(auth.From(ctx)), key.Key, statusCreated, body)
}

func abandon(ctx context.Context, tx store.Tx, key Idempotency) error {
	if key.Key == "" {
		return nil
	}
	return tx.Idempotency().Abandon(ctx, key.scope(auth.From(ctx)), key.Key)
}
