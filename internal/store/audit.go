package store

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Audit is append-only.
type Audit interface {
	// AppendOperations writes audit lines; CreatedUS 0 becomes now.
	AppendOperations(ctx context.Context, lines []stacyvm.Operation) error
	// Operations lists lines newest first.
	Operations(ctx context.Context, filter OperationFilter) ([]stacyvm.Operation, error)
	// AppendExecs writes exec log lines.
	AppendExecs(ctx context.Context, lines []stacyvm.ExecRecord) error
	// Execs lists a sandbox's exec log newest first.
	Execs(ctx context.Context, filter ExecFilter) ([]stacyvm.ExecRecord, error)
}

// OperationFilter selects audit lines; empty fields select all.
type OperationFilter struct {
	Actor   string
	Action  string
	Sandbox stacyvm.SandboxID
	Tenant  string
	Limit   int   // 0: 100
	Before  int64 // ID of the last line that was seen
}

// ExecFilter selects lines of one sandbox's exec log.
type ExecFilter struct {
	Sandbox stacyvm.SandboxID
	Limit   int   // 0: 100
	Before  int64 // ID of the last line that was seen
}

// audit implements Audit.
type audit struct{ tx }

const (
	operationFields = `actor, action, sandbox_id, resource, provider, status, detail, tenant_id, created_us`
	execFields      = `sandbox_id, process_id, command, exit_code, duration_us, created_us`

	// listed is how many an answer holds without a limit.
	listed = 100
)

// AppendOperations implements Audit.
func (t audit) AppendOperations(ctx context.Context, lines []stacyvm.Operation) error {
	return appendLines(
		ctx,
		t.tx,
		`operation_audit (`+operationFields+`)`,
		lines,
		func(c *clause, now int64, l stacyvm.Operation) string {
			return c.list(
				l.Actor,
				l.Action,
				string(l.SandboxID),
				l.Resource,
				l.Provider,
				l.Status,
				l.Detail,
				l.TenantID,
				cmp.Or(l.CreatedUS, now),
			)
		},
	)
}

// AppendExecs implements Audit.
func (t audit) AppendExecs(ctx context.Context, lines []stacyvm.ExecRecord) error {
	return appendLines(
		ctx,
		t.tx,
		`exec_log (`+execFields+`)`,
		lines,
		func(c *clause, now int64, l stacyvm.ExecRecord) string {
			return c.list(
				string(l.SandboxID),
				l.ProcessID,
				l.Command,
				int64(l.ExitCode),
				l.DurationUS,
				cmp.Or(l.CreatedUS, now),
			)
		},
	)
}

func appendLines[T any](
	ctx context.Context,
	t tx,
	into string,
	lines []T,
	values func(*clause, int64, T) string,
) error {
	now, err := t.NowUS(ctx)
	if err != nil {
		return err
	}
	for part := range inParts(lines) {
		var c clause
		for _, line := range part {
			c.parts = append(c.parts, values(&c, now, line))
		}
		if err := t.Later(ctx, `INSERT INTO `+into+` VALUES `+strings.Join(c.parts, ", "), c.args...); err != nil {
			return err
		}
	}
	return nil
}

// Operations implements Audit.
func (t audit) Operations(ctx context.Context, f OperationFilter) ([]stacyvm.Operation, error) {
	var c clause
	c.equal(`actor`, f.Actor)
	c.equal(`action`, f.Action)
	c.equal(`sandbox_id`, string(f.Sandbox))
	c.named(`tenant_id`, f.Tenant)
	if f.Before != 0 {
		c.add(`id < %s`, f.Before)
	}
	text := `SELECT id, ` + operationFields + ` FROM operation_audit` + c.where() + ` ORDER BY id DESC LIMIT ` + c.arg(
		limited(f.Limit, listed),
	)
	return sqldb.All(ctx, t.Tx, func(row sqldb.Scanner) (o stacyvm.Operation, err error) {
		err = row.Scan(
			&o.ID,
			&o.Actor,
			&o.Action,
			&o.SandboxID,
			&o.Resource,
			&o.Provider,
			&o.Status,
			&o.Detail,
			&o.TenantID,
			&o.CreatedUS,
		)
		return o, err
	}, text, c.args...)
}

// Execs implements Audit.
func (t audit) Execs(ctx context.Context, f ExecFilter) ([]stacyvm.ExecRecord, error) {
	var c clause
	c.add(`sandbox_id = %s`, string(f.Sandbox))
	if f.Before != 0 {
		c.add(`id < %s`, f.Before)
	}
	text := `SELECT id, ` + execFields + ` FROM exec_log` + c.where() + ` ORDER BY id DESC LIMIT ` + c.arg(
		limited(f.Limit, listed),
	)
	return sqldb.All(ctx, t.Tx, func(row sqldb.Scanner) (e stacyvm.ExecRecord, err error) {
		err = row.Scan(&e.ID, &e.SandboxID, &e.ProcessID, &e.Command, &e.ExitCode, &e.DurationUS, &e.CreatedUS)
		return e, err
	}, text, c.args...)
}

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
	return appendLines(
		ctx,
		t.tx,
		`admin_audit (`+adminFields+`)`,
		calls,
		func(c *clause, now int64, l stacyvm.AdminCall) string {
			return c.list(
				l.Actor,
				l.Method,
				l.Path,
				int64(l.Status),
				l.Duration.Microseconds(),
				l.RequestID,
				l.RemoteAddr,
				l.UserAgent,
				l.TenantID,
				cmp.Or(toUS(l.CreatedAt), now),
			)
		},
	)
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
	text := `SELECT id, ` + adminFields + ` FROM admin_audit` + c.where() + ` ORDER BY id DESC LIMIT ` + c.arg(
		limited(f.Limit, listed),
	)
	return sqldb.All(ctx, t.Tx, func(row sqldb.Scanner) (l stacyvm.AdminCall, err error) {
		var duration, created int64
		err = row.Scan(
			&l.ID,
			&l.Actor,
			&l.Method,
			&l.Path,
			&l.Status,
			&duration,
			&l.RequestID,
			&l.RemoteAddr,
			&l.UserAgent,
			&l.TenantID,
			&created,
		)
		l.Duration, l.CreatedAt = fromMicros(duration), fromUS(created)
		return l, err
	}, text, c.args...)
}

// DeleteBefore implements AdminAudit.
func (t adminAudit) DeleteBefore(ctx context.Context, before time.Time) (int, error) {
	n, err := t.Exec(ctx, `DELETE FROM admin_audit WHERE created_us < $1`, toUS(before))
	return int(n), err
}
