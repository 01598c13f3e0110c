package store

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
)

// entityCases are the walks of the smaller tables: each, in the middle of a walk, goes on where an
// index says.
func entityCases(ctx context.Context) map[string]planCase {
	behind := Page{Limit: 10, After: Cursor{CreatedAt: time.Now(), ID: "x"}}
	admin := func(f AdminFilter) func(tx) error {
		return func(t tx) error { _, err := t.AdminAudit().List(ctx, f); return err }
	}
	told := func(f EventFilter) func(tx) error {
		return func(t tx) error { _, err := t.Events().List(ctx, f); return err }
	}
	builds := func(f BuildFilter) func(tx) error {
		return func(t tx) error { f.Page = behind; _, err := t.Builds().List(ctx, f); return err }
	}
	return map[string]planCase{
		"admin audit":           {admin(AdminFilter{Method: "GET", Path: "x", Before: 9}), "INTEGER PRIMARY KEY (rowid<?)", "admin_audit_pkey"},
		"admin audit of actor":  {admin(AdminFilter{Actor: "x", Before: 9}), "INDEX admin_audit_actor (actor=? AND id<?)", "admin_audit_actor"},
		"admin audit by status": {admin(AdminFilter{Status: 500, Before: 9}), "INDEX admin_audit_status (status=? AND id<?)", "admin_audit_status"},
		"admin audit of tenant": {admin(AdminFilter{Tenant: "x", Before: 9}), "INDEX admin_audit_tenant (tenant_id=? AND id<?)", "admin_audit_tenant"},
		"admin audit purge":     {func(t tx) error { _, err := t.AdminAudit().DeleteBefore(ctx, time.Now()); return err }, "INDEX admin_audit_age (created_us<?)", "admin_audit_age"},
		"quotas":                {func(t tx) error { _, err := t.Quotas().List(ctx, behind); return err }, "(owner_id>?)", "owner_quotas_pkey"},
		"provider configs":      {func(t tx) error { _, err := t.ProviderConfigs().List(ctx, behind); return err }, "(name>?)", "provider_configs_pkey"},
		"templates":             {func(t tx) error { _, err := t.Templates().List(ctx, behind); return err }, "(name>?)", "templates_pkey"},
		"environments": {func(t tx) error { _, err := t.Environments().List(ctx, "o", behind); return err },
			"INDEX environment_specs_owner (owner_id=? AND (created_us,id)<(?,?))", "environment_specs_owner"},
		"builds of owner":       {builds(BuildFilter{Owner: "o"}), "INDEX environment_builds_owner (owner_id=? AND (created_us,id)<(?,?))", "environment_builds_owner"},
		"builds of environment": {builds(BuildFilter{Environment: "e"}), "INDEX environment_builds_spec (spec_id=? AND (created_us,id)<(?,?))", "environment_builds_spec"},
		"artifacts":             {func(t tx) error { _, err := t.Builds().Artifacts(ctx, "a", "b"); return err }, "environment_artifacts USING INDEX", "environment_artifacts_pkey"},
		"connections": {func(t tx) error { _, err := t.Connections().List(ctx, "o", behind); return err },
			"INDEX registry_connections_owner (owner_id=? AND (created_us,id)<(?,?))", "registry_connections_owner"},
		"default connection": {func(t tx) error {
			_, err := t.Connections().Save(ctx, stacyvm.Connection{ID: "c", OwnerID: "o", Provider: "p", Default: true})
			return err
		}, "(owner_id=? AND provider=?", "registry_connections_owner_id_provider"},
		"tenants":          {func(t tx) error { _, err := t.Tenants().List(ctx, behind); return err }, "(id>?)", "tenants_pkey"},
		"members":          {func(t tx) error { _, err := t.Members().List(ctx, "t", behind); return err }, "(tenant_id=? AND user_id>?)", "tenant_members_pkey"},
		"policies":         {func(t tx) error { _, err := t.Policies().List(ctx, "t", behind); return err }, "INDEX policies_tenant (tenant_id=?", "policies_tenant"},
		"join tokens":      {func(t tx) error { _, err := t.JoinTokens().List(ctx, behind); return err }, "INDEX join_tokens_age ((created_us,id)<(?,?))", "join_tokens_age"},
		"join token purge": {func(t tx) error { _, err := t.JoinTokens().Purge(ctx, time.Hour); return err }, "INDEX join_tokens_expiry (expires_us<?)", "join_tokens_expiry"},
		"join token":       {func(t tx) error { _, err := t.JoinTokens().Use(ctx, "j", "w"); return ignoreConflict(err) }, "(id=?)", "join_tokens_pkey"},
		"events":           {told(EventFilter{After: 9}), "(number>?)", "events_number_key"},
		"events of tenant": {told(EventFilter{Tenant: "t", After: 9}), "INDEX events_tenant (tenant_id=? AND number>?)", "events_tenant"},
		"oldest event":     {func(t tx) error { _, err := t.Events().Span(ctx); return err }, "events USING COVERING INDEX", "events_number_key"},
		"unnumbered":       {func(t tx) error { _, _, err := events{t}.number(ctx); return err }, "(number=?)", "events_unnumbered"},
		"purge of events":  {func(t tx) error { _, err := t.Events().Purge(ctx, time.Hour, 10); return err }, "(number<?)", "events_number_key"},
	}
}

func ignoreConflict(err error) error {
	if stacyvm.CodeOf(err) == stacyvm.CodeConflict {
		return nil
	}
	return err
}

func TestEntitiesUseIndexes(t *testing.T) {
	conn := sqliteConn(t)
	for name, tt := range entityCases(t.Context()) {
		t.Run(name, func(t *testing.T) {
			e := &explainer{Conn: conn, word: "EXPLAIN QUERY PLAN "}
			if err := tt.run(tx{&sqldb.Tx{Conn: e, Dialect: sqlite.Dialect(""), Clock: &sqldb.Clock{}}}); err != nil {
				t.Fatal(err)
			}
			plan := strings.Join(e.plans, "\n")
			// two short lists in one
			sorted := strings.Contains(plan, "TEMP B-TREE") && name != "policies" && name != "artifacts"
			if !strings.Contains(plan, tt.sqlite) || sorted {
				t.Errorf("the plan sorts, or lacks %q:\n%s", tt.sqlite, plan)
			}
		})
	}
}

// TestPostgresEntitiesUseIndexes asks the planner to do without sorting and without reading whole
// tables, which it would find cheaper while they are small.
func TestPostgresEntitiesUseIndexes(t *testing.T) {
	dsn := postgresSchema(t)
	for name, tt := range entityCases(t.Context()) {
		t.Run(name, func(t *testing.T) {
			e := explainPostgres(t, dsn)
			for _, way := range []string{"seqscan", "bitmapscan", "sort"} {
				if _, err := e.Conn.ExecContext(t.Context(), "SET LOCAL enable_"+way+" = off"); err != nil {
					t.Fatal(err)
				}
			}
			if err := tt.run(postgresTx(e)); err != nil {
				t.Fatal(err)
			}
			plan := strings.Join(e.plans, "\n")
			sorted := strings.Contains(plan, "Sort") && name != "policies" && name != "artifacts"
			if !strings.Contains(plan, tt.postgres) || sorted {
				t.Errorf("the plan sorts, or lacks %q:\n%s", tt.postgres, plan)
			}
		})
	}
}
