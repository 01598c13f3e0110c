package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/store/internal/postgres"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

// manyRows is a database in which a plan matters: most sandboxes are tombstones, as after some
// weeks.
var manyRows = []string{
	`INSERT INTO sandboxes (id, state, reason, desired, provider, image, spec, owner_id, tenant_id, worker_id, incarnation, fence, runtime_id,
		recovered, unenforced, metadata, created_us, updated_us, expires_us) SELECT 'sb-' || n, CASE WHEN n % 10 = 0 THEN 'running' ELSE 'destroyed' END, '', 'running', 'mock', 'host', '{}',
		'o' || n % 50, 't' || n % 50, CASE n % 4 WHEN 0 THEN 'w' ELSE 'w' || n % 4 END, 1, 1, '', FALSE, 'null', 'null', n, n, n + CASE WHEN n % 1000 = 0 THEN 0 ELSE 9000000000000000 END
		FROM generate_series(1, 30000) AS n`,
	`INSERT INTO leases SELECT 'sb-' || n, 'sandbox', 'w' || n % 20, 's', 1, 1, n FROM generate_series(1, 30000) AS n`,
	`INSERT INTO operation_audit (actor, action, sandbox_id, resource, provider, status, detail, tenant_id, created_us)
		SELECT 'o' || n % 50, 'exec', 'sb-' || n, '', '', 'ok', '', 't' || n % 50, n FROM generate_series(1, 30000) AS n`,
	`INSERT INTO exec_log (sandbox_id, process_id, command, exit_code, duration_us, created_us)
		SELECT 'sb-' || n % 3000, '', '', 0, 0, n FROM generate_series(1, 30000) AS n`,
	`INSERT INTO idempotency_keys SELECT 's', 'k' || n, '', '', TRUE, 201, NULL, 9000000000000000 - n FROM generate_series(1, 30000) AS n`,
	`INSERT INTO workers SELECT 'w' || n, 'w' || n, 'online', 's', 'null', 'null', '{}', n, n, n FROM generate_series(1, 3000) AS n`,
	`UPDATE sandboxes SET due_us = expires_us`,
	`VACUUM ANALYZE`,
}

// postgresSchema is the DSN of a schema that is up to date.
func postgresSchema(t *testing.T) (dsn string) {
	t.Helper()
	dsn = postgrestest.Schema(t)
	s, err := NewPostgresStore(t.Context(), Config{DSN: dsn})
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

// explainPostgres asks for plans in a transaction that is rolled back when the test ends.
func explainPostgres(t *testing.T, dsn string) *explainer {
	t.Helper()
	conn, err := postgrestest.Connect(t, dsn).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the context of the test has ended
		_, err := conn.ExecContext(context.Background(), "ROLLBACK")
		if err := errors.Join(err, conn.Close()); err != nil {
			t.Error(err)
		}
	})
	if _, err := conn.ExecContext(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	return &explainer{Conn: conn, word: "EXPLAIN "}
}

// postgresTx is a transaction on a connection that explains.
func postgresTx(e *explainer) tx {
	t := &sqldb.Tx{Conn: e, Dialect: postgres.Dialect(""), Clock: &sqldb.Clock{}}
	t.SetNow(time.Now().UnixMicro())
	return tx{t}
}

// TestPostgresQueriesUseIndexes asks the planner about each query on a database of ordinary size.
func TestPostgresQueriesUseIndexes(t *testing.T) {
	dsn := postgresSchema(t)
	for _, text := range manyRows {
		if _, err := postgrestest.Connect(t, dsn).ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range planCases(t.Context()) {
		t.Run(name, func(t *testing.T) {
			e := explainPostgres(t, dsn)
			if err := tt.run(postgresTx(e)); err != nil {
				t.Fatal(err)
			}
			plan := strings.Join(e.plans, "\n")
			if !strings.Contains(plan, tt.postgres) {
				t.Errorf("the plan lacks %q:\n%s", tt.postgres, plan)
			}
			page := strings.HasPrefix(name, "by ") || strings.HasPrefix(name, "audit") || name == "active"
			if strings.Contains(plan, "Seq Scan") || page && strings.Contains(plan, "Sort") {
				t.Errorf("the plan reads or sorts a whole table:\n%s", plan)
			}
		})
	}
}
