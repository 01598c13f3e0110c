package store

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
)

// explainer asks for the plan of each query before it runs it.
type explainer struct {
	*sql.Conn
	word  string
	plans []string
}

func (e *explainer) explain(ctx context.Context, text string, args []any) error {
	rows, err := e.Conn.QueryContext(ctx, e.word+text, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		into := []any{&id, &parent, &unused, &detail}
		if columns, _ := rows.Columns(); len(columns) == 1 {
			into = into[3:]
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		e.plans = append(e.plans, detail)
	}
	return rows.Err()
}

func (e *explainer) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	if err := e.explain(ctx, text, args); err != nil {
		return nil, err
	}
	return e.Conn.QueryContext(ctx, text, args...)
}

func (e *explainer) ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error) {
	if err := e.explain(ctx, text, args); err != nil {
		return nil, err
	}
	return e.Conn.ExecContext(ctx, text, args...)
}

// planCase is a query with what its plan must hold on each database.
type planCase struct {
	run              func(tx) error
	sqlite, postgres string
}

func planCases(ctx context.Context) map[string]planCase {
	after := Page{Limit: 100, After: Cursor{CreatedAt: time.Now(), ID: "sb-x"}}
	list := func(f SandboxFilter) func(tx) error {
		return func(t tx) error { _, err := t.Sandboxes().List(ctx, f); return err }
	}
	operations := func(f OperationFilter) func(tx) error {
		return func(t tx) error { _, err := t.Audit().Operations(ctx, f); return err }
	}
	return map[string]planCase{
		"active":            {list(SandboxFilter{Page: after}), "INDEX sandboxes_active ((created_us,id)<(?,?))", "sandboxes_active"},
		"by state":          {list(SandboxFilter{States: []stacyvm.State{stacyvm.StateRunning}, Page: after}), "INDEX sandboxes_active ((created_us,id)<(?,?))", "sandboxes_active"},
		"by owner":          {list(SandboxFilter{Owner: "o", Page: after}), "INDEX sandboxes_owner (owner_id=? AND (created_us,id)<(?,?))", "sandboxes_owner"},
		"by tenant":         {list(SandboxFilter{Tenant: "t", Page: after}), "INDEX sandboxes_tenant (tenant_id=? AND (created_us,id)<(?,?))", "sandboxes_tenant"},
		"by worker":         {list(SandboxFilter{Worker: "w", Page: after}), "INDEX sandboxes_worker (worker_id=? AND (created_us,id)<(?,?))", "sandboxes_"},
		"expired of worker": {list(SandboxFilter{Worker: "w", Expired: true}), "INDEX sandboxes_expiry (worker_id=? AND due_us<?)", "sandboxes_expiry"},
		"count":             {func(t tx) error { _, err := t.Sandboxes().Count(ctx, SandboxFilter{}); return err }, "SCAN sandboxes USING INDEX", "sandboxes_"},
		"count of owner":    {func(t tx) error { _, err := t.Sandboxes().Count(ctx, SandboxFilter{Owner: "o"}); return err }, "INDEX sandboxes_owner (owner_id=?)", "sandboxes_owner"},
		"count of worker":   {func(t tx) error { _, err := t.Sandboxes().Count(ctx, SandboxFilter{Worker: "w"}); return err }, "(worker_id=?)", "sandboxes_"},
		"offer of worker":   {offered(ctx), "(worker_id=?)", "sandboxes_"},
		"loads":             {func(t tx) error { _, err := t.Workers().Loads(ctx, time.Time{}); return err }, "SCAN sandboxes USING", "sandboxes_"},
		"late loads":        {func(t tx) error { _, err := t.Workers().Loads(ctx, time.Now()); return err }, "INDEX sandboxes_active (created_us>?)", "sandboxes_active"},
		"get":               {func(t tx) error { _, err := t.Leases().Get(ctx, "x"); return ignoreNotFound(err) }, "(resource_id=?)", "leases_pkey"},
		"leases of holder":  {func(t tx) error { _, err := t.Leases().List(ctx, "w", Page{}); return err }, "INDEX leases_holder (holder_id=?)", "leases_holder"},
		"renew": {func(t tx) error {
			_, err := t.Leases().Renew(ctx, "w", "s", []Held{{"x", 1}}, time.Minute)
			return err
		}, "(resource_id=?)", "leases_pkey"},
		// by its key, newest first, to the limit
		"audit":            {operations(OperationFilter{}), "SCAN operation_audit", "operation_audit_pkey"},
		"audit of sandbox": {operations(OperationFilter{Sandbox: "x", Before: 9}), "INDEX operation_audit_sandbox (sandbox_id=? AND id<?)", "operation_audit_sandbox"},
		"audit of tenant":  {operations(OperationFilter{Tenant: "x", Before: 9}), "INDEX operation_audit_tenant (tenant_id=? AND id<?)", "operation_audit_tenant"},
		"audit of actor":   {operations(OperationFilter{Actor: "x", Before: 9}), "INDEX operation_audit_actor (actor=? AND id<?)", "operation_audit_actor"},
		"exec log":         {func(t tx) error { _, err := t.Audit().Execs(ctx, ExecFilter{Sandbox: "x"}); return err }, "INDEX exec_log_sandbox (sandbox_id=?)", "exec_log_sandbox"},
		"key":              {func(t tx) error { _, err := t.Idempotency().Begin(ctx, IdempotencyRecord{Key: "k"}); return err }, "", ""},
		"purge of keys":    {func(t tx) error { _, err := t.Idempotency().Purge(ctx); return err }, "INDEX idempotency_keys_age (created_us<?)", "idempotency_keys_age"},
	}
}

// TestQueriesUseIndexes holds for every query: no table is read from end to end, and nothing but
// the short lists of what has expired, and of what was made late, is sorted.
func TestQueriesUseIndexes(t *testing.T) {
	conn := sqliteConn(t)
	for name, tt := range planCases(t.Context()) {
		t.Run(name, func(t *testing.T) {
			e := &explainer{Conn: conn, word: "EXPLAIN QUERY PLAN "}
			if err := tt.run(tx{&sqldb.Tx{Conn: e, Dialect: sqlite.Dialect(""), Clock: &sqldb.Clock{}}}); err != nil {
				t.Fatal(err)
			}
			plan := strings.Join(e.plans, "\n")
			if !strings.Contains(plan, tt.sqlite) {
				t.Errorf("the plan lacks %q:\n%s", tt.sqlite, plan)
			}
			sorted := strings.Contains(plan, "TEMP B-TREE") && !strings.HasPrefix(name, "expired") && name != "late loads"
			read := strings.Contains(plan, "SCAN sandboxes") && !strings.Contains(plan, "SCAN sandboxes USING")
			if sorted || read || strings.Contains(plan, "SCAN leases") {
				t.Errorf("the plan reads or sorts a whole table:\n%s", plan)
			}
		})
	}
}

// sqliteConn is a connection to a new database, past the store.
func sqliteConn(t *testing.T) *sql.Conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stacyvm.db")
	s, err := NewSQLiteStore(t.Context(), path)
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Connect(path, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// offered asks for the offer of a worker that has a limit.
func offered(ctx context.Context) func(tx) error {
	return func(t tx) error {
		if _, err := t.Workers().Save(ctx, stacyvm.Worker{ID: "w", Capacity: stacyvm.Capacity{VCPUs: 1}}); err != nil {
			return err
		}
		_, _, err := t.Workers().Offer(ctx, "w")
		return err
	}
}

func ignoreNotFound(err error) error {
	if stacyvm.CodeOf(err) == stacyvm.CodeNotFound {
		return nil
	}
	return err
}
