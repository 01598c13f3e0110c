package control

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Sandbox gives one sandbox. CodeNotFound: absent, destroyed, or of another tenant.
func (s *Service) Sandbox(ctx context.Context, id stacyvm.SandboxID) (sandbox stacyvm.Sandbox, err error) {
	if err := authorise(ctx, scopeRead); err != nil {
		return sandbox, err
	}
	err = s.store.View(ctx, func(tx store.Tx) error {
		sandbox, err = visible(ctx, tx, id)
		return err
	})
	return s.placed(sandbox)[0], err
}

// Sandboxes gives the sandboxes that the caller may see, newest first, without destroyed ones: those behind cursor, from the
// newest on when it is empty, and at most limit, 0 for all. next is the cursor for those behind these; empty: there are none.
// CodeInvalid: a cursor that was not given out here.
func (s *Service) Sandboxes(ctx context.Context, cursor string, limit int) (sandboxes []stacyvm.Sandbox, next string, err error) {
	if err := authorise(ctx, scopeRead); err != nil {
		return nil, "", err
	}
	page := store.Page{}
	if page.After, err = cursorOf(cursor); err != nil {
		return nil, "", err
	}
	if limit > 0 {
		page.Limit = limit + 1 // the one too many says that there is more
	}
	err = s.store.View(ctx, func(tx store.Tx) error {
		sandboxes, err = tx.Sandboxes().List(ctx, store.SandboxFilter{Tenant: auth.From(ctx).Tenant, Page: page})
		return err
	})
	if limit > 0 && len(sandboxes) > limit {
		sandboxes = sandboxes[:limit]
		next = cursorText(sandboxes[limit-1])
	}
	return s.placed(sandboxes...), next, err
}

// cursorText names the place behind a row. It is packed so that nobody makes one up: what it is made of may change.
func cursorText(last stacyvm.Sandbox) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", last.CreatedAt.UnixMicro(), last.ID))
}

func cursorOf(text string) (place store.Cursor, err error) {
	if text == "" {
		return place, nil
	}
	plain, err := base64.RawURLEncoding.Strict().DecodeString(text)
	micros, id, _ := strings.Cut(string(plain), " ")
	created, bad := strconv.ParseInt(micros, 10, 64)
	if err != nil || bad != nil || !stacyvm.SandboxID(id).Valid() {
		return place, stacyvm.Invalid("cursor", "is none that a list gave")
	}
	return store.Cursor{CreatedAt: time.UnixMicro(created), ID: id}, nil
}
