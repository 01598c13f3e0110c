package storetest

import (
	"context"
	"encoding/json"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

func templateLife(r *rig) {
	first := stacyvm.Template{
		Name: "python", Version: 3, Image: "py:3", Provider: "gvisor", Description: "d 'x' $1", Setup: []string{"a", "b\n"},
		AllowedHosts: []string{"pypi.org"}, MemoryMB: 512, VCPUs: 2, TTL: 90 * time.Second, Env: map[string]string{"A": "ü"},
		Secrets: []stacyvm.TemplateSecret{{Name: "s", InjectAt: "/run/s"}}, Metadata: map[string]string{"k": "v"}, PoolSize: 4,
	}
	create := func(m stacyvm.Template) step[stacyvm.Template] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Template, error) { return tx.Templates().Create(ctx, m) }
	}
	get := func(name string) step[stacyvm.Template] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Template, error) { return tx.Templates().Get(ctx, name) }
	}
	update := func(m stacyvm.Template) step[stacyvm.Template] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Template, error) { return tx.Templates().Update(ctx, m) }
	}
	kept := done(r, create(first))
	first.CreatedAt, first.UpdatedAt = kept.CreatedAt, kept.CreatedAt
	if kept.CreatedAt.IsZero() {
		r.Error("no time of creation")
	}
	same(r, first, kept)
	same(r, first, done(r, get("python")))
	refused(r, stacyvm.CodeConflict, create(stacyvm.Template{Name: "python"}))
	same(r, first, done(r, get("python")))

	r.clock.advance(time.Second)
	changed := done(r, update(stacyvm.Template{Name: "python", Image: "py:4"}))
	if !changed.CreatedAt.Equal(first.CreatedAt) || !changed.UpdatedAt.After(first.UpdatedAt) {
		r.Errorf("times after an update: %s, %s", changed.CreatedAt, changed.UpdatedAt)
	}
	same(r, stacyvm.Template{Name: "python", Image: "py:4", CreatedAt: changed.CreatedAt, UpdatedAt: changed.UpdatedAt}, done(r, get("python")))
	refused(r, stacyvm.CodeNotFound, update(stacyvm.Template{Name: "none"}))
	refused(r, stacyvm.CodeNotFound, get("none"))

	for _, name := range []string{"ruby", "node", "bash", "go"} {
		done(r, create(stacyvm.Template{Name: name}))
	}
	walk(r, func(m stacyvm.Template) store.Cursor { return store.Cursor{ID: m.Name} }, []string{"bash", "go", "node", "python", "ruby"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Template, error) {
			return tx.Templates().List(ctx, page)
		})
	remove := nothing(func(ctx context.Context, tx store.Tx) error { return tx.Templates().Delete(ctx, "python") })
	done(r, remove)
	refused(r, stacyvm.CodeNotFound, remove)
	refused(r, stacyvm.CodeNotFound, get("python"))
	done(r, create(stacyvm.Template{Name: "python"})) // the name is free again
}

func quotaLife(r *rig) {
	save := func(q stacyvm.Quota) step[stacyvm.Quota] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Quota, error) { return tx.Quotas().Save(ctx, q) }
	}
	get := func(ctx context.Context, tx store.Tx) (stacyvm.Quota, error) { return tx.Quotas().Get(ctx, "ann") }
	refused(r, stacyvm.CodeNotFound, get)
	first := done(r, save(stacyvm.Quota{OwnerID: "ann", MaxSandboxes: 3, MaxTTL: time.Hour}))
	same(r, stacyvm.Quota{OwnerID: "ann", MaxSandboxes: 3, MaxTTL: time.Hour, CreatedAt: first.CreatedAt, UpdatedAt: first.CreatedAt}, first)
	r.clock.advance(time.Second)
	second := done(r, save(stacyvm.Quota{OwnerID: "ann", MaxExecTimeout: time.Minute}))
	same(r, stacyvm.Quota{OwnerID: "ann", MaxExecTimeout: time.Minute, CreatedAt: first.CreatedAt, UpdatedAt: second.UpdatedAt}, second)
	same(r, second, done(r, get))
	if !second.UpdatedAt.After(first.UpdatedAt) {
		r.Error("a second save left the time")
	}
	for _, owner := range []string{"eve", "bob", "cid"} {
		done(r, save(stacyvm.Quota{OwnerID: owner}))
	}
	walk(r, func(q stacyvm.Quota) store.Cursor { return store.Cursor{ID: q.OwnerID} }, []string{"ann", "bob", "cid", "eve"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Quota, error) {
			return tx.Quotas().List(ctx, page)
		})
	remove := nothing(func(ctx context.Context, tx store.Tx) error { return tx.Quotas().Delete(ctx, "ann") })
	done(r, remove)
	refused(r, stacyvm.CodeNotFound, remove)
	refused(r, stacyvm.CodeNotFound, get)
}

func providerConfigLife(r *rig) {
	save := func(p stacyvm.ProviderConfig) step[stacyvm.ProviderConfig] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.ProviderConfig, error) {
			return tx.ProviderConfigs().Save(ctx, p)
		}
	}
	get := func(ctx context.Context, tx store.Tx) (stacyvm.ProviderConfig, error) {
		return tx.ProviderConfigs().Get(ctx, "docker")
	}
	refused(r, stacyvm.CodeNotFound, get)
	config := json.RawMessage(`{"a": 1.50,  "b":"ü"}`) // not even its spaces are ours to change
	first := done(r, save(stacyvm.ProviderConfig{Name: "docker", Config: config, Enabled: true}))
	same(r, stacyvm.ProviderConfig{Name: "docker", Config: config, Enabled: true, UpdatedAt: first.UpdatedAt}, done(r, get))
	second := done(r, save(stacyvm.ProviderConfig{Name: "docker"}))
	same(r, stacyvm.ProviderConfig{Name: "docker", UpdatedAt: second.UpdatedAt}, done(r, get))
	for _, name := range []string{"qemu", "gvisor"} {
		done(r, save(stacyvm.ProviderConfig{Name: name}))
	}
	walk(r, func(p stacyvm.ProviderConfig) store.Cursor { return store.Cursor{ID: p.Name} }, []string{"docker", "gvisor", "qemu"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.ProviderConfig, error) {
			return tx.ProviderConfigs().List(ctx, page)
		})
	remove := nothing(func(ctx context.Context, tx store.Tx) error { return tx.ProviderConfigs().Delete(ctx, "docker") })
	done(r, remove)
	refused(r, stacyvm.CodeNotFound, remove)
}

// walks covers the lists that other tests do not page through.
func walks(r *rig) {
	id := stacyvm.NewSandboxID()
	r.update(func(ctx context.Context, tx store.Tx) error {
		var lines []stacyvm.ExecRecord
		for _, name := range []string{"1", "2", "3", "4", "5"} {
			if _, err := tx.Workers().Save(ctx, stacyvm.Worker{ID: stacyvm.WorkerID("w" + name)}); err != nil {
				return err
			}
			if _, err := tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: "duty" + name, Type: "duty", Holder: "w1", TTL: time.Hour}); err != nil {
				return err
			}
			lines = append(lines, stacyvm.ExecRecord{SandboxID: id, ProcessID: name})
		}
		return tx.Audit().AppendExecs(ctx, lines)
	})
	walk(r, func(w stacyvm.Worker) store.Cursor { return store.Cursor{ID: string(w.ID)} }, []string{"w1", "w2", "w3", "w4", "w5"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Worker, error) {
			return tx.Workers().List(ctx, page)
		})
	walk(r, func(l stacyvm.Lease) store.Cursor { return store.Cursor{ID: l.Resource} }, []string{"duty1", "duty2", "duty3", "duty4", "duty5"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Lease, error) {
			return tx.Leases().List(ctx, "w1", page)
		})
	before := int64(0)
	walk(r, func(e stacyvm.ExecRecord) store.Cursor { before = e.ID; return store.Cursor{ID: e.ProcessID} }, []string{"5", "4", "3", "2", "1"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.ExecRecord, error) {
			filter := store.ExecFilter{Sandbox: id, Limit: page.Limit}
			if page.After.ID != "" {
				filter.Before = before
			}
			return tx.Audit().Execs(ctx, filter)
		})
}
