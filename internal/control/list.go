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
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadSandboxes); err != nil {
		return sandbox, err
	}
	sandbox, err = visible(ctx, s.store.Sandboxes(), caller, id)
	return s.placement.WithPlaces(sandbox)[0], err
}

// SandboxPage says which part of the list is wanted. The cursors are of those that were given out
// here.
type SandboxPage struct {
	After string // behind this one; empty: from the newest on
	Until string // up to this one; empty: to the oldest
	Limit int    // at least 1
}

// Sandboxes gives the sandboxes of a page that the caller may see, newest first, without
// destroyed ones. next is the cursor for those behind these; empty: there are none. CodeInvalid:
// a cursor that was not given out here.
func (s *Service) Sandboxes(ctx context.Context, p SandboxPage) (sandboxes []stacyvm.Sandbox, next string, err error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadSandboxes); err != nil {
		return nil, "", err
	}
	page := store.Page{Limit: p.Limit + 1} // the one too many says that there is more
	if page.After, err = cursorOf(p.After); err != nil {
		return nil, "", err
	}
	if page.Until, err = cursorOf(p.Until); err != nil {
		return nil, "", err
	}
	sandboxes, err = s.page(ctx, caller, page)
	if len(sandboxes) > p.Limit {
		sandboxes = sandboxes[:p.Limit]
		next = cursorText(sandboxes[p.Limit-1])
	}
	return s.placement.WithPlaces(sandboxes...), next, err
}

// SandboxCursor gives the cursor behind the first n sandboxes after a cursor; empty: there are
// none behind these. Codes as for Sandboxes.
func (s *Service) SandboxCursor(ctx context.Context, after string, n int) (next string, err error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadSandboxes); err != nil {
		return "", err
	}
	page := store.Page{Limit: 2, Skip: n - 1}
	if page.After, err = cursorOf(after); err != nil {
		return "", err
	}
	sandboxes, err := s.page(ctx, caller, page)
	if len(sandboxes) == 2 {
		next = cursorText(sandboxes[0])
	}
	return next, err
}

func (s *Service) page(
	ctx context.Context, caller stacyvm.Principal, page store.Page,
) ([]stacyvm.Sandbox, error) {
	return s.store.Sandboxes().List(ctx, store.SandboxFilter{Tenant: caller.Tenant, Page: page})
}

// cursorText names the place behind a row. It is packed so that nobody makes one up: what it is
// made of may change.
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
