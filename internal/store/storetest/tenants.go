package storetest

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

func createTenant(n stacyvm.Tenant) step[stacyvm.Tenant] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.Tenant, error) { return tx.Tenants().Create(ctx, n) }
}

func createPolicy(p stacyvm.Policy) step[stacyvm.Policy] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.Policy, error) { return tx.Policies().Create(ctx, p) }
}

func saveMember(m stacyvm.Member) step[stacyvm.Member] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.Member, error) { return tx.Members().Save(ctx, m) }
}

func tenantLife(r *rig) {
	get := func(id string) step[stacyvm.Tenant] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Tenant, error) { return tx.Tenants().Get(ctx, id) }
	}
	update := func(n stacyvm.Tenant) step[stacyvm.Tenant] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Tenant, error) { return tx.Tenants().Update(ctx, n) }
	}
	first := done(r, createTenant(stacyvm.Tenant{ID: "t1", Name: "Acme", OwnerID: "ann", Settings: json.RawMessage(`{"a":[1]}`)}))
	same(r, stacyvm.Tenant{ID: "t1", Name: "Acme", OwnerID: "ann", Settings: json.RawMessage(`{"a":[1]}`), CreatedAt: first.CreatedAt, UpdatedAt: first.CreatedAt}, first)
	refused(r, stacyvm.CodeConflict, createTenant(stacyvm.Tenant{ID: "t1", Name: "other"}))
	r.clock.advance(time.Second)
	second := done(r, update(stacyvm.Tenant{ID: "t1", Name: "Acme 2"}))
	same(r, stacyvm.Tenant{ID: "t1", Name: "Acme 2", CreatedAt: first.CreatedAt, UpdatedAt: second.UpdatedAt}, done(r, get("t1")))
	refused(r, stacyvm.CodeNotFound, update(stacyvm.Tenant{ID: "t9"}))
	refused(r, stacyvm.CodeNotFound, get("t9"))
	for _, id := range []string{"t3", "t2"} {
		done(r, createTenant(stacyvm.Tenant{ID: id}))
	}
	walk(r, func(n stacyvm.Tenant) store.Cursor { return store.Cursor{ID: n.ID} }, []string{"t1", "t2", "t3"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Tenant, error) {
			return tx.Tenants().List(ctx, page)
		})

	done(r, saveMember(stacyvm.Member{TenantID: "t1", UserID: "ann", Role: "admin"}))
	done(r, createPolicy(stacyvm.Policy{ID: "of t1", TenantID: "t1"}))
	done(r, createPolicy(stacyvm.Policy{ID: "global"}))
	remove := nothing(func(ctx context.Context, tx store.Tx) error { return tx.Tenants().Delete(ctx, "t1") })
	done(r, remove)
	refused(r, stacyvm.CodeNotFound, remove)
	r.view(func(ctx context.Context, tx store.Tx) error {
		members, err := tx.Members().List(ctx, "t1", store.Page{})
		if len(members) != 0 || err != nil {
			r.Errorf("a deleted tenant has members %v, %v", members, err)
		}
		policies, err := tx.Policies().List(ctx, "t1", store.Page{})
		if len(policies) != 1 || policies[0].ID != "global" {
			r.Errorf("a deleted tenant has policies %v", policies)
		}
		return err
	})
}

func memberLife(r *rig) {
	done(r, createTenant(stacyvm.Tenant{ID: "t1"}))
	done(r, createTenant(stacyvm.Tenant{ID: "t2"}))
	get := func(ctx context.Context, tx store.Tx) (stacyvm.Member, error) {
		return tx.Members().Get(ctx, "t1", "ann")
	}
	refused(r, stacyvm.CodeNotFound, saveMember(stacyvm.Member{TenantID: "t9", UserID: "ann"}))
	refused(r, stacyvm.CodeNotFound, get)
	first := done(r, saveMember(stacyvm.Member{TenantID: "t1", UserID: "ann", Role: "viewer"}))
	r.clock.advance(time.Second)
	second := done(r, saveMember(stacyvm.Member{TenantID: "t1", UserID: "ann", Role: "admin"}))
	same(r, stacyvm.Member{TenantID: "t1", UserID: "ann", Role: "admin", CreatedAt: first.CreatedAt, UpdatedAt: second.UpdatedAt}, done(r, get))
	for _, m := range []stacyvm.Member{{TenantID: "t1", UserID: "cid"}, {TenantID: "t1", UserID: "bob"}, {TenantID: "t2", UserID: "ann"}} {
		done(r, saveMember(m))
	}
	walk(r, func(m stacyvm.Member) store.Cursor { return store.Cursor{ID: m.UserID} }, []string{"ann", "bob", "cid"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Member, error) {
			return tx.Members().List(ctx, "t1", page)
		})
	remove := nothing(func(ctx context.Context, tx store.Tx) error { return tx.Members().Delete(ctx, "t1", "ann") })
	done(r, remove)
	refused(r, stacyvm.CodeNotFound, remove)
	refused(r, stacyvm.CodeNotFound, get)
	walk(r, func(m stacyvm.Member) store.Cursor { return store.Cursor{ID: m.UserID} }, []string{"ann"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Member, error) {
			return tx.Members().List(ctx, "t2", page)
		})
}

func policyLife(r *rig) {
	get := func(ctx context.Context, tx store.Tx) (stacyvm.Policy, error) { return tx.Policies().Get(ctx, "p1") }
	policy := stacyvm.Policy{ID: "p1", TenantID: "t1", ResourceType: "image", Effect: "deny", Pattern: "evil/*", Priority: -3}
	first := done(r, createPolicy(policy))
	policy.CreatedAt, policy.UpdatedAt = first.CreatedAt, first.CreatedAt
	same(r, policy, done(r, get))
	refused(r, stacyvm.CodeConflict, createPolicy(stacyvm.Policy{ID: "p1"}))
	r.update(func(ctx context.Context, tx store.Tx) error {
		for id, tenant := range map[stacyvm.PolicyID]string{"p2": "", "p3": "t1", "p4": "t2", "p5": "", "p6": "t1"} {
			if _, err := tx.Policies().Create(ctx, stacyvm.Policy{ID: id, TenantID: tenant}); err != nil {
				return err
			}
		}
		return nil
	})
	for tenant, want := range map[string][]string{
		"t1": {"p6", "p5", "p3", "p2", "p1"}, "t2": {"p5", "p4", "p2"}, "t3": {"p5", "p2"}, "": {"p5", "p2"},
	} {
		walk(r, func(p stacyvm.Policy) store.Cursor { return store.Cursor{CreatedAt: p.CreatedAt, ID: string(p.ID)} }, want,
			func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Policy, error) {
				return tx.Policies().List(ctx, tenant, page)
			})
	}
	remove := nothing(func(ctx context.Context, tx store.Tx) error { return tx.Policies().Delete(ctx, "p1") })
	done(r, remove)
	refused(r, stacyvm.CodeNotFound, remove)
	refused(r, stacyvm.CodeNotFound, get)
}

func adminAudit(r *rig) {
	full := stacyvm.AdminCall{
		Actor: "ann", Method: "PUT", Path: "/api/v1/admin/Tenants/t_1%", Status: 200, Duration: 1500 * time.Microsecond, RequestID: "r",
		RemoteAddr: "127.0.0.1:1", UserAgent: "ü'\"", TenantID: "t1", CreatedAt: time.UnixMicro(12345).UTC(),
	}
	calls := []stacyvm.AdminCall{full, {Actor: "ann", Method: "GET", Path: "/x", Status: 403}, {Actor: "bob", Method: "GET", Path: "/admin/tenants", Status: 200, TenantID: "t1"}}
	for range 120 {
		calls = append(calls, stacyvm.AdminCall{Actor: "many", Path: "/many", Status: 204})
	}
	r.update(func(ctx context.Context, tx store.Tx) error { return tx.AdminAudit().Append(ctx, calls) })
	list := func(filter store.AdminFilter) []stacyvm.AdminCall {
		return done(r, func(ctx context.Context, tx store.Tx) ([]stacyvm.AdminCall, error) {
			return tx.AdminAudit().List(ctx, filter)
		})
	}
	for name, tt := range map[string]struct {
		filter store.AdminFilter
		want   []string // paths, newest first
	}{
		"actor":              {store.AdminFilter{Actor: "ann"}, []string{"/x", full.Path}},
		"method":             {store.AdminFilter{Method: "GET"}, []string{"/admin/tenants", "/x"}},
		"status":             {store.AdminFilter{Status: 200}, []string{"/admin/tenants", full.Path}},
		"tenant":             {store.AdminFilter{Tenant: "t1"}, []string{"/admin/tenants", full.Path}},
		"part of the path":   {store.AdminFilter{Path: "enants"}, []string{"/admin/tenants", full.Path}},
		"capitals count":     {store.AdminFilter{Path: "Tenants"}, []string{full.Path}},
		"no pattern":         {store.AdminFilter{Path: "%"}, []string{full.Path}},
		"actor and status":   {store.AdminFilter{Actor: "ann", Status: 200}, []string{full.Path}},
		"a limit":            {store.AdminFilter{Limit: 2}, []string{"/many", "/many"}},
		"nothing like that":  {store.AdminFilter{Actor: "ANN"}, nil},
		"nor a part of that": {store.AdminFilter{Path: "tenants/t1"}, nil},
	} {
		var got []string
		for _, call := range list(tt.filter) {
			got = append(got, call.Path)
		}
		if !slices.Equal(got, tt.want) {
			r.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	kept := list(store.AdminFilter{Method: "PUT"})[0]
	full.ID = kept.ID
	same(r, full, kept)
	page := list(store.AdminFilter{})
	rest := list(store.AdminFilter{Before: page[len(page)-1].ID})
	if len(page) != 100 || len(rest) != 23 || rest[22] != full {
		r.Errorf("pages of %d and %d", len(page), len(rest))
	}
	before := func(limit time.Time, want int) {
		r.Helper()
		if n := done(r, func(ctx context.Context, tx store.Tx) (int, error) { return tx.AdminAudit().DeleteBefore(ctx, limit) }); n != want {
			r.Errorf("%d deleted, want %d", n, want)
		}
	}
	before(full.CreatedAt, 0)
	before(full.CreatedAt.Add(time.Microsecond), 1)
	before(page[0].CreatedAt.Add(time.Hour), 122)
	if left := list(store.AdminFilter{}); len(left) != 0 {
		r.Errorf("%d left", len(left))
	}
}
