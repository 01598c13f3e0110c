package store

import (
	"context"
	"slices"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// audit implements Audit.
type audit struct{ tx }

const (
	operationFields = `actor, action, sandbox_id, resource, provider, status, detail, tenant_id, created_us`
	execFields      = `sandbox_id, process_id, command, exit_code, duration_us, created_us`

	// linesAtOnce is how many lines one statement takes: few enough to keep it prepared.
	linesAtOnce = 25
	// listed is how many an answer holds without a limit.
	listed = 100
)

// AppendOperations implements Audit.
func (t audit) AppendOperations(ctx context.Context, lines []stacyvm.Operation) error {
	return appendLines(ctx, t.tx, `operation_audit (`+operationFields+`)`, lines, func(c *clause, now int64, l stacyvm.Operation) string {
		return c.list(l.Actor, l.Action, string(l.SandboxID), l.Resource, l.Provider, l.Status, l.Detail, l.TenantID, or(l.CreatedUS, now))
	})
}

// AppendExecs implements Audit.
func (t audit) AppendExecs(ctx context.Context, lines []stacyvm.ExecRecord) error {
	return appendLines(ctx, t.tx, `exec_log (`+execFields+`)`, lines, func(c *clause, now int64, l stacyvm.ExecRecord) string {
		return c.list(string(l.SandboxID), l.ProcessID, l.Command, int64(l.ExitCode), l.DurationUS, or(l.CreatedUS, now))
	})
}

func appendLines[T any](ctx context.Context, t tx, into string, lines []T, values func(*clause, int64, T) string) error {
	now, err := t.NowUS(ctx)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(lines, linesAtOnce) {
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

func or(us, now int64) int64 {
	if us == 0 {
		return now
	}
	return us
}

// Operations implements Audit.
func (t audit) Operations(ctx context.Context, f OperationFilter) ([]stacyvm.Operation, error) {
	var c clause
	for _, equal := range []struct{ part, value string }{
		{`actor = %s`, f.Actor}, {`action = %s`, f.Action}, {`sandbox_id = %s`, string(f.Sandbox)}, {`tenant_id = %s`, f.Tenant},
	} {
		if equal.value != "" {
			c.add(equal.part, equal.value)
		}
	}
	if f.Before != 0 {
		c.add(`id < %s`, f.Before)
	}
	text := `SELECT id, ` + operationFields + ` FROM operation_audit` + c.where() + ` ORDER BY id DESC LIMIT ` + c.arg(limited(f.Limit, listed))
	return sqldb.All(ctx, t.Tx, func(row sqldb.Scanner) (o stacyvm.Operation, err error) {
		err = row.Scan(&o.ID, &o.Actor, &o.Action, &o.SandboxID, &o.Resource, &o.Provider, &o.Status, &o.Detail, &o.TenantID, &o.CreatedUS)
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
	text := `SELECT id, ` + execFields + ` FROM exec_log` + c.where() + ` ORDER BY id DESC LIMIT ` + c.arg(limited(f.Limit, listed))
	return sqldb.All(ctx, t.Tx, func(row sqldb.Scanner) (e stacyvm.ExecRecord, err error) {
		err = row.Scan(&e.ID, &e.SandboxID, &e.ProcessID, &e.Command, &e.ExitCode, &e.DurationUS, &e.CreatedUS)
		return e, err
	}, text, c.args...)
}
