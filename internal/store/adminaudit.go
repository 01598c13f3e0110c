package store

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// AdminAudit holds the calls of administrative routes.
type AdminAudit interface {
	// Append writes lines; a zero CreatedAt becomes now.
	Append(ctx context.Context, calls []stacyvm.AdminCall) error
	// List gives lines newest first.
	List(ctx context.Context, filter AdminFilter) ([]stacyvm.AdminCall, error)
	// DeleteBefore forgets lines that are older than before and returns their number.
	DeleteBefore(ctx context.Context, before time.Time) (int, error)
}

// AdminFilter selects lines; empty fields select all.
type AdminFilter struct {
	Actor  string
	Method string
	Status int
	Path   string // part of the path; capitals count
	Tenant string
	Limit  int   // 0: 100
	Before int64 // ID of the last line that was seen
}

// adminAudit implements AdminAudit.
type adminAudit struct{ tx }

const adminFields = `actor, method, path, status, duration_us, request_id, remote_addr, user_agent, tenant_id, created_us`

// Append implements AdminAudit.
func (t adminAudit) Append(ctx context.Context, calls []stacyvm.AdminCall) error {
	return appendLines(ctx, t.tx, `admin_audit (`+adminFields+`)`, calls, func(c *clause, now int64, l stacyvm.AdminCall) string {
		return c.list(l.Actor, l.Method, l.Path, int64(l.Status), l.Duration.Microseconds(), l.RequestID, l.RemoteAddr, l.UserAgent,
			l.TenantID, or(toUS(l.CreatedAt), now))
	})
}

// List implements AdminAudit.
func (t adminAudit) List(ctx context.Context, f AdminFilter) ([]stacyvm.AdminCall, error) {
	var c clause
	c.equal(`actor`, f.Actor)
	c.equal(`method`, f.Method)
	c.equal(`tenant_id`, f.Tenant)
	if f.Status != 0 {
		c.add(`status = %s`, int64(f.Status))
	}
	if f.Path != "" { // of all searches for a part of a text, this is the one that both databases have
		c.add(`replace(path, %s, '') <> path`, f.Path)
	}
	if f.Before != 0 {
		c.add(`id < %s`, f.Before)
	}
	text := `SELECT id, ` + adminFields + ` FROM admin_audit` + c.where() + ` ORDER BY id DESC LIMIT ` + c.arg(limited(f.Limit, listed))
	return sqldb.All(ctx, t.Tx, func(row sqldb.Scanner) (l stacyvm.AdminCall, err error) {
		var duration, created int64
		err = row.Scan(&l.ID, &l.Actor, &l.Method, &l.Path, &l.Status, &duration, &l.RequestID, &l.RemoteAddr, &l.UserAgent, &l.TenantID, &created)
		l.Duration, l.CreatedAt = fromMicros(duration), fromUS(created)
		return l, err
	}, text, c.args...)
}

// DeleteBefore implements AdminAudit.
func (t adminAudit) DeleteBefore(ctx context.Context, before time.Time) (int, error) {
	n, err := t.Exec(ctx, `DELETE FROM admin_audit WHERE created_us < $1`, toUS(before))
	return int(n), err
}
