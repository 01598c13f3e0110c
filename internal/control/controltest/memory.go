package controltest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

type tables struct {
	rows    map[stacyvm.SandboxID]stacyvm.Sandbox
	leases  map[string]stacyvm.Lease
	workers map[stacyvm.WorkerID]stacyvm.Worker
	ops     []stacyvm.Operation
	execs   []stacyvm.ExecRecord
	keys    map[string]store.IdempotencyRecord
}

func (t tables) clone() tables {
	return tables{maps.Clone(t.rows), maps.Clone(t.leases), maps.Clone(t.workers), slices.Clone(t.ops), slices.Clone(t.execs), maps.Clone(t.keys)}
}

// Memory is a store.
type Memory struct {
	mu sync.Mutex
	t  tables
	ID store.Cluster
}

func NewMemory() *Memory {
	return &Memory{ID: store.Cluster{ID: "ours", Incarnation: 1}, t: tables{rows: map[stacyvm.SandboxID]stacyvm.Sandbox{}, leases: map[string]stacyvm.Lease{}, workers: map[stacyvm.WorkerID]stacyvm.Worker{}, keys: map[string]store.IdempotencyRecord{}}}
}
func (m *Memory) View(ctx context.Context, f func(store.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.t.clone()
	return f(&mtx{&c})
}
func (m *Memory) Update(ctx context.Context, f func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.t.clone()
	if err := f(&mtx{&c}); err != nil {
		return err
	}
	m.t = c
	return nil
}
func (m *Memory) Cluster(context.Context) (store.Cluster, error) { return m.ID, nil }
func (m *Memory) Ping(context.Context) error                     { return nil }
func (m *Memory) Close() error                                   { return nil }

type mtx struct{ *tables }

func (x *mtx) Now(context.Context) (time.Time, error) { return time.Now(), nil }
func (x *mtx) Sandboxes() store.Sandboxes             { return msb{x} }
func (x *mtx) Leases() store.Leases                   { return ml{x} }
func (x *mtx) Workers() store.Workers                 { return mw{x} }
func (x *mtx) Audit() store.Audit                     { return ma{x} }
func (x *mtx) Idempotency() store.Idempotency         { return mi{x} }

var nf = stacyvm.Errorf(stacyvm.CodeNotFound, "nf")

type msb struct{ *mtx }

func (x msb) Insert(_ context.Context, s stacyvm.Sandbox) (stacyvm.Sandbox, error) {
	if _, ok := x.rows[s.ID]; ok {
		return s, stacyvm.Errorf(stacyvm.CodeConflict, "exists")
	}
	s.CreatedAt = time.Now()
	s.UpdatedAt = s.CreatedAt
	s.ExpiresAt = s.CreatedAt.Add(s.Spec.TTL)
	x.rows[s.ID] = s
	return s, nil
}
func (x msb) Get(_ context.Context, id stacyvm.SandboxID) (stacyvm.Sandbox, error) {
	s, ok := x.rows[id]
	if !ok {
		return s, nf
	}
	return s, nil
}
func (x msb) List(_ context.Context, f store.SandboxFilter) (out []stacyvm.Sandbox, err error) {
	for _, s := range x.rows {
		if f.Tenant != "" && s.TenantID != f.Tenant || f.Owner != "" && s.OwnerID != f.Owner || f.Worker != "" && s.WorkerID != f.Worker || f.Provider != "" && s.Provider != f.Provider {
			continue
		}
		if len(f.States) == 0 && s.State == stacyvm.StateDestroyed || len(f.States) > 0 && !slices.Contains(f.States, s.State) {
			continue
		}
		if f.Expired && time.Now().Before(s.ExpiresAt) {
			continue
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b stacyvm.Sandbox) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	return out, nil
}
func (x msb) Count(ctx context.Context, f store.SandboxFilter) (int, error) {
	l, err := x.List(ctx, f)
	return len(l), err
}
func (x msb) Apply(_ context.Context, id stacyvm.SandboxID, fence stacyvm.Fence, c store.Change) (stacyvm.Sandbox, error) {
	s, ok := x.rows[id]
	if !ok {
		return s, nf
	}
	if s.Fence != fence {
		return s, stacyvm.Errorf(stacyvm.CodeStaleEpoch, "stale")
	}
	if c.State != "" {
		if !s.State.CanBecome(c.State) {
			return s, stacyvm.Errorf(stacyvm.CodeConflict, "%s to %s", s.State, c.State)
		}
		s.State = c.State
	}
	if c.Reason != nil {
		s.Reason = *c.Reason
	}
	if c.RuntimeID != "" {
		s.RuntimeID = c.RuntimeID
	}
	if c.Recovered {
		s.Recovered = true
	}
	if c.Unenforced != nil {
		s.Unenforced = c.Unenforced
	}
	x.rows[id] = s
	return s, nil
}
func (x msb) Want(_ context.Context, id stacyvm.SandboxID, w store.Wish) (stacyvm.Sandbox, error) {
	s, ok := x.rows[id]
	if !ok || s.State == stacyvm.StateDestroyed {
		return s, nf
	}
	if w.Desired != "" {
		s.Desired = w.Desired
	}
	if w.TTL != 0 {
		s.ExpiresAt = time.Now().Add(w.TTL)
	}
	x.rows[id] = s
	return s, nil
}

type ml struct{ *mtx }

func (x ml) Acquire(_ context.Context, r store.LeaseRequest) (stacyvm.Lease, error) {
	l, ok := x.leases[r.Resource]
	if ok && l.Holder != "" && !(time.Now().After(l.ExpiresAt.Add(r.Grace)) || l.Holder == r.Holder && (l.Session == r.Session || r.Successor)) {
		return l, stacyvm.Errorf(stacyvm.CodeConflict, "held")
	}
	l.Resource, l.Type, l.Holder, l.Session, l.ExpiresAt = r.Resource, r.Type, r.Holder, r.Session, time.Now().Add(r.TTL)
	l.Epoch++
	l.Generation++
	x.leases[r.Resource] = l
	if s, ok := x.rows[stacyvm.SandboxID(r.Resource)]; ok {
		s.Fence.Epoch, s.WorkerID = l.Epoch, r.Holder
		x.rows[s.ID] = s
	}
	return l, nil
}
func (x ml) Renew(_ context.Context, h stacyvm.WorkerID, session string, held []store.Held, ttl time.Duration) (out []stacyvm.Lease, err error) {
	for _, w := range held {
		l := x.leases[w.Resource]
		if l.Holder == h && l.Session == session && l.Epoch == w.Epoch && time.Now().Before(l.ExpiresAt) {
			l.ExpiresAt = time.Now().Add(ttl)
			l.Generation++
			x.leases[w.Resource] = l
			out = append(out, l)
		}
	}
	return out, nil
}
func (x ml) Release(_ context.Context, r string, h stacyvm.WorkerID, epoch int64) error {
	l, ok := x.leases[r]
	if !ok || l.Holder != h || l.Epoch != epoch {
		return nf
	}
	l.Holder, l.Session = "", ""
	l.Generation++
	x.leases[r] = l
	return nil
}
func (x ml) Get(_ context.Context, r string) (stacyvm.Lease, error) {
	l, ok := x.leases[r]
	if !ok {
		return l, nf
	}
	return l, nil
}
func (x ml) List(_ context.Context, h stacyvm.WorkerID) (out []stacyvm.Lease, err error) {
	for _, l := range x.leases {
		if h == "" || l.Holder == h {
			out = append(out, l)
		}
	}
	return out, nil
}

type mw struct{ *mtx }

func (x mw) Save(_ context.Context, w stacyvm.Worker) (stacyvm.Worker, error) {
	w.LastHeartbeat = time.Now()
	x.workers[w.ID] = w
	return w, nil
}
func (x mw) Get(_ context.Context, id stacyvm.WorkerID) (stacyvm.Worker, error) {
	w, ok := x.workers[id]
	if !ok {
		return w, nf
	}
	return w, nil
}
func (x mw) List(context.Context) ([]stacyvm.Worker, error) {
	return slices.Collect(maps.Values(x.workers)), nil
}
func (x mw) Delete(_ context.Context, id stacyvm.WorkerID) error { delete(x.workers, id); return nil }

type ma struct{ *mtx }

func (x ma) AppendOperations(_ context.Context, l []stacyvm.Operation) error {
	for _, o := range l {
		o.ID = int64(len(x.ops) + 1)
		x.ops = append(x.ops, o)
	}
	return nil
}
func (x ma) Operations(_ context.Context, f store.OperationFilter) (out []stacyvm.Operation, err error) {
	for _, o := range slices.Backward(x.ops) {
		if (f.Action == "" || f.Action == o.Action) && (f.Sandbox == "" || f.Sandbox == o.SandboxID) {
			out = append(out, o)
		}
	}
	return out, nil
}
func (x ma) AppendExecs(_ context.Context, l []stacyvm.ExecRecord) error {
	x.execs = append(x.execs, l...)
	return nil
}
func (x ma) Execs(_ context.Context, id stacyvm.SandboxID, limit int) (out []stacyvm.ExecRecord, err error) {
	for _, o := range slices.Backward(x.execs) {
		if o.SandboxID == id {
			out = append(out, o)
		}
	}
	return out, nil
}

type mi struct{ *mtx }

func (x mi) Begin(_ context.Context, c store.IdempotencyRecord) (*store.IdempotencyRecord, error) {
	if k, ok := x.keys[c.Scope+c.Key]; ok {
		return &k, nil
	}
	x.keys[c.Scope+c.Key] = c
	return nil, nil
}
func (x mi) Finish(_ context.Context, s, k string, status int, body []byte) error {
	r := x.keys[s+k]
	r.Done, r.Status, r.Body = true, status, body
	x.keys[s+k] = r
	return nil
}
func (x mi) Abandon(_ context.Context, s, k string) error { delete(x.keys, s+k); return nil }
func (x mi) Purge(context.Context) (int, error)           { return 0, nil }
