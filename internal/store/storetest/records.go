package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

func workerLife(r *rig) {
	worker := stacyvm.Worker{
		ID: "w1", Hostname: "host", Status: "online", Session: "s1", Providers: []string{"gvisor", "mock"}, Capabilities: []string{"exec"},
		Capacity: stacyvm.Capacity{MaxSandboxes: 7, RPCURL: "https://w1:1", PreviewDomain: "p"},
	}
	save := func(w stacyvm.Worker) (saved stacyvm.Worker) {
		r.update(func(ctx context.Context, tx store.Tx) (err error) {
			saved, err = tx.Workers().Save(ctx, w)
			return err
		})
		return saved
	}
	first := save(worker)
	if first.CreatedAt.IsZero() || !first.LastHeartbeat.Equal(first.CreatedAt) || !first.UpdatedAt.Equal(first.CreatedAt) {
		r.Errorf("times of a first save: %+v", first)
	}
	r.clock.advance(time.Minute)
	worker.Status, worker.Capacity.MaxSandboxes, worker.Session = "draining", 9, "s2"
	worker.Problems = []string{"the disk is full", "the \"other\" one, too"}
	second := save(worker)
	want := worker
	want.CreatedAt, want.UpdatedAt, want.LastHeartbeat = first.CreatedAt, second.UpdatedAt, second.LastHeartbeat
	if diff := cmp.Diff(want, second); diff != "" || second.LastHeartbeat.Sub(first.LastHeartbeat) < time.Minute {
		r.Errorf("a second save gave:\n%s", diff)
	}
	save(stacyvm.Worker{ID: "w0"})
	r.view(func(ctx context.Context, tx store.Tx) error {
		got, err := tx.Workers().Get(ctx, "w1")
		if diff := cmp.Diff(second, got); diff != "" || err != nil {
			r.Errorf("kept, %v:\n%s", err, diff)
		}
		list, err := tx.Workers().List(ctx, store.Page{})
		if len(list) != 2 || list[0].ID != "w0" || list[1].ID != "w1" {
			r.Errorf("listed %+v", list)
		}
		return err
	})
	r.update(func(ctx context.Context, tx store.Tx) error { return tx.Workers().Delete(ctx, "w1") })
	r.want(stacyvm.CodeNotFound, r.try(func(ctx context.Context, tx store.Tx) error { return tx.Workers().Delete(ctx, "w1") }))
	r.want(stacyvm.CodeNotFound, r.try(func(ctx context.Context, tx store.Tx) error {
		_, err := tx.Workers().Get(ctx, "w1")
		return err
	}))
}

func auditOperations(r *rig) {
	a, b := stacyvm.NewSandboxID(), stacyvm.NewSandboxID()
	full := stacyvm.Operation{
		Actor: "ann", Action: "exec", SandboxID: a, Resource: "sh -c 'x'", Provider: "mock", Status: "denied", Detail: "why",
		TenantID: "acme", CreatedUS: 12345,
	}
	lines := []stacyvm.Operation{full, {Actor: "ann", Action: "spawn", SandboxID: b}, {Actor: "bob", Action: "exec", SandboxID: b, TenantID: "acme"}}
	for i := range 1200 { // more than one statement's worth
		lines = append(lines, stacyvm.Operation{Actor: "many", Action: fmt.Sprint(i), TenantID: "t"})
	}
	r.update(func(ctx context.Context, tx store.Tx) error { return tx.Audit().AppendOperations(ctx, lines) })
	r.update(func(ctx context.Context, tx store.Tx) error { return tx.Audit().AppendOperations(ctx, nil) })
	list := func(filter store.OperationFilter) (found []stacyvm.Operation) {
		r.view(func(ctx context.Context, tx store.Tx) (err error) {
			found, err = tx.Audit().Operations(ctx, filter)
			return err
		})
		return found
	}
	for name, tt := range map[string]struct {
		filter store.OperationFilter
		want   []string // actions, newest first
	}{
		"actor":             {store.OperationFilter{Actor: "ann"}, []string{"spawn", "exec"}},
		"action":            {store.OperationFilter{Action: "exec"}, []string{"exec", "exec"}},
		"sandbox":           {store.OperationFilter{Sandbox: b}, []string{"exec", "spawn"}},
		"tenant":            {store.OperationFilter{Tenant: "acme"}, []string{"exec", "exec"}},
		"tenant and actor":  {store.OperationFilter{Tenant: "acme", Actor: "bob"}, []string{"exec"}},
		"limit":             {store.OperationFilter{Limit: 2}, []string{"1199", "1198"}},
		"nothing like that": {store.OperationFilter{Actor: "AN"}, nil},
	} {
		var got []string
		for _, line := range list(tt.filter) {
			got = append(got, line.Action)
		}
		if !slices.Equal(got, tt.want) {
			r.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	got := list(store.OperationFilter{Sandbox: a})[0]
	full.ID = got.ID
	if got != full {
		r.Errorf("kept %+v, want %+v", got, full)
	}
	if now := list(store.OperationFilter{Actor: "bob"})[0].CreatedUS; time.Since(time.UnixMicro(now)).Abs() > time.Hour {
		r.Errorf("a line without a time got %d", now)
	}
	r.pagesOfOperations(list)
}

// pagesOfOperations walks the long list; its lines were appended in the order of their actions.
func (r *rig) pagesOfOperations(list func(store.OperationFilter) []stacyvm.Operation) {
	filter, next := store.OperationFilter{Tenant: "t"}, 1199
	for {
		page := list(filter)
		for _, line := range page {
			if line.Action != fmt.Sprint(next) {
				r.Fatalf("line %s where %d belongs", line.Action, next)
			}
			next--
		}
		if len(page) < 100 {
			break
		}
		filter.Before = page[len(page)-1].ID
	}
	if next != -1 {
		r.Errorf("the walk ended before line %d", next)
	}
}

func auditExecs(r *rig) {
	id := stacyvm.NewSandboxID()
	first := stacyvm.ExecRecord{SandboxID: id, ProcessID: "p1", Command: "echo 'ü'", ExitCode: -1, DurationUS: 1 << 40, CreatedUS: 99}
	r.update(func(ctx context.Context, tx store.Tx) error {
		return tx.Audit().AppendExecs(ctx, []stacyvm.ExecRecord{first, {SandboxID: id, ProcessID: "p2"}, {SandboxID: "sb-other", ProcessID: "p3"}})
	})
	r.view(func(ctx context.Context, tx store.Tx) error {
		lines, err := tx.Audit().Execs(ctx, store.ExecFilter{Sandbox: id})
		if err != nil || len(lines) != 2 || lines[0].ProcessID != "p2" || lines[0].CreatedUS == 0 {
			r.Fatalf("listed %+v, %v", lines, err)
		}
		first.ID = lines[1].ID
		if lines[1] != first {
			r.Errorf("kept %+v, want %+v", lines[1], first)
		}
		lines, err = tx.Audit().Execs(ctx, store.ExecFilter{Sandbox: id, Limit: 1})
		if len(lines) != 1 || lines[0].ProcessID != "p2" {
			r.Errorf("with a limit: %+v", lines)
		}
		return err
	})
}

// begin claims a key and gives the record that was there.
func (r *rig) begin(claim store.IdempotencyRecord) (known *store.IdempotencyRecord) {
	r.Helper()
	r.update(func(ctx context.Context, tx store.Tx) (err error) {
		known, err = tx.Idempotency().Begin(ctx, claim)
		return err
	})
	return known
}

func idempotencyLife(r *rig) {
	claim := store.IdempotencyRecord{Scope: "t p r", Key: "k", BodyHash: "h", Sandbox: stacyvm.NewSandboxID()}
	if known := r.begin(claim); known != nil {
		r.Fatalf("a new key is known: %+v", known)
	}
	repeat := claim
	repeat.BodyHash, repeat.Sandbox = "other", stacyvm.NewSandboxID()
	if known := r.begin(repeat); known == nil || !cmp.Equal(*known, claim) {
		r.Errorf("a repeat in flight got %+v, want %+v", known, claim)
	}
	if known := r.begin(store.IdempotencyRecord{Scope: "another", Key: "k"}); known != nil {
		r.Errorf("a key of another scope is known: %+v", known)
	}
	answer := []byte("{\"a\":\"\\u0000\"}\x00\xff")
	r.update(func(ctx context.Context, tx store.Tx) error {
		return tx.Idempotency().Abandon(ctx, repeat)
	})
	repeat.Status, repeat.Body = 409, []byte("another's")
	r.update(func(ctx context.Context, tx store.Tx) error { return tx.Idempotency().Finish(ctx, repeat) })
	if known := r.begin(repeat); known == nil || !cmp.Equal(*known, claim) {
		r.Errorf("another sandbox's finish or abandon changed the claim to %+v", known)
	}
	claim.Status, claim.Body = 201, answer
	r.update(func(ctx context.Context, tx store.Tx) error { return tx.Idempotency().Finish(ctx, claim) })
	claim.Done = true
	if known := r.begin(repeat); known == nil || !cmp.Equal(*known, claim) {
		r.Errorf("a repeat got %+v, want %+v", known, claim)
	}
	r.update(func(ctx context.Context, tx store.Tx) error {
		return tx.Idempotency().Abandon(ctx, claim)
	})
	if known := r.begin(repeat); known == nil || !known.Done {
		r.Errorf("an answered key was given up: %+v", known)
	}
	r.update(func(ctx context.Context, tx store.Tx) error {
		return tx.Idempotency().Abandon(ctx, store.IdempotencyRecord{Scope: "another", Key: "k"})
	})
	if known := r.begin(store.IdempotencyRecord{Scope: "another", Key: "k"}); known != nil {
		r.Errorf("a claim that was given up is known: %+v", known)
	}
	never := store.IdempotencyRecord{Scope: "never", Key: "claimed", Status: 201}
	r.update(func(ctx context.Context, tx store.Tx) error { return tx.Idempotency().Finish(ctx, never) })
	if known := r.begin(never); known != nil {
		r.Errorf("a key that nobody claimed is known: %+v", known)
	}
	var owners atomic.Int32
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			if r.begin(store.IdempotencyRecord{Scope: "race", Key: "k"}) == nil {
				owners.Add(1)
			}
		})
	}
	wait.Wait()
	if owners.Load() != 1 {
		r.Errorf("%d callers own one key", owners.Load())
	}
}

func idempotencyLapse(r *rig) {
	open := store.IdempotencyRecord{Scope: "s", Key: "open"}
	answered := store.IdempotencyRecord{Scope: "s", Key: "answered"}
	r.begin(open)
	r.begin(answered)
	r.update(func(ctx context.Context, tx store.Tx) error {
		return tx.Idempotency().Finish(ctx, store.IdempotencyRecord{Scope: "s", Key: "answered", Status: 201})
	})
	r.clock.advance(store.KeyLife - 10*time.Second)
	if r.begin(open) == nil {
		r.Error("a claim lapsed although its create may still wait for its turn")
	}
	if r.begin(answered) == nil {
		r.Error("an answer was forgotten early")
	}
	purge := func(want int) {
		r.Helper()
		r.update(func(ctx context.Context, tx store.Tx) error {
			n, err := tx.Idempotency().Purge(ctx)
			if n != want {
				r.Errorf("%d purged, want %d", n, want)
			}
			return err
		})
	}
	purge(0)
	r.clock.advance(20 * time.Second)
	purge(2)
	if r.begin(answered) != nil {
		r.Error("a purged key is known")
	}
}
