// Package storetest is the contract of store.Store: every driver must pass Run. It knows the port
// alone.
package storetest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Database makes an empty database that ends with the test. The function that it gives opens one
// more connection to it; skew is added to its clock.
type Database func(t *testing.T) (open func(skew func() time.Duration) store.Store)

// leave takes tests out.
func leave(t *testing.T, tests map[string]func(*rig), names []string) {
	for _, name := range names {
		if tests[name] == nil {
			t.Fatalf("there is no test %q", name)
		}
		delete(tests, name)
	}
}

// Run runs the whole suite but for those named by without, each test on a database of its own.
func Run(t *testing.T, database Database, without ...string) {
	tests := map[string]func(*rig){
		"sandbox/keeps every field":       sandboxFields,
		"sandbox/lists":                   sandboxLists,
		"sandbox/held from the first":     sandboxHeld,
		"sandbox/wanted":                  sandboxWanted,
		"sandbox/many together":           sandboxesTogether,
		"sandbox/pages":                   sandboxPages,
		"sandbox/expires":                 sandboxExpiry,
		"sandbox/read alone":              sandboxReadAlone,
		"sandbox/reads what was answered": sandboxReadsAnswered,
		"sandbox/versions":                sandboxVersions,
		"sandbox/first run":               sandboxFirstRun,
		"sandbox/fenced writes":           sandboxFences,
		"sandbox/state machine":           sandboxStates,
		"sandbox/wishes":                  sandboxWishes,
		"worker/life":                     workerLife,
		"event/recent":                    eventsRecent,
		"worker/loads":                    workerLoads,
		"worker/offers":                   workerOffers,
		"worker/sessions":                 workerSessions,
		"lease/life":                      leaseLife,
		"lease/conflict":                  leaseConflict,
		"lease/takeover":                  leaseTakeover,
		"lease/successor":                 leaseSuccessor,
		"lease/renewal":                   leaseRenewal,
		"lease/moves the fence":           leaseFence,
		"lease/races":                     leaseRaces,
		"lease/model":                     leaseModel,
		"audit/operations":                auditOperations,
		"audit/exec log":                  auditExecs,
		"audit/admin":                     adminAudit,
		"quota/life":                      quotaLife,
		"provider config/life":            providerConfigLife,
		"template/life":                   templateLife,
		"environment/life":                environmentLife,
		"build/life":                      buildLife,
		"artifact/life":                   artifactLife,
		"registry connection/life":        connectionLife,
		"tenant/life":                     tenantLife,
		"member/life":                     memberLife,
		"policy/life":                     policyLife,
		"join token/life":                 joinTokenLife,
		"join token/races":                joinTokenRaces,
		"list/pages":                      walks,
		"event/life":                      eventLife,
		"event/span":                      eventSpan,
		"event/order":                     eventOrder,
		"event/late commits":              eventLate,
		"event/across connections":        eventAcross,
		"event/after a restore":           eventRestored,
		"idempotency/life":                idempotencyLife,
		"idempotency/lapse":               idempotencyLapse,
		"idempotency/many together":       idempotencyTogether,
		"transaction/all or nothing":      txAllOrNothing,
		"transaction/snapshot":            txSnapshot,
		"transaction/panics and exits":    txPanics,
		"transaction/shared commits":      txShared,
		"transaction/given up":            txGivenUp,
		"transaction/used after its end":  txAfterEnd,
		"transaction/no lost update":      txNoLostUpdate,
		"transaction/quota":               txQuota,
		"transaction/reservation":         txReservation,
		"transaction/closed":              txClosed,
		"cluster/one identity":            clusterIdentity,
		"transaction/time stands in a tx": txTime,
	}
	leave(t, tests, without)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &rig{T: t, clock: new(clock)}
			r.open = database(t)
			r.Store = r.another()
			test(r)
		})
	}
}

// clock is a skew that tests turn.
type clock struct{ skew atomic.Int64 }

func (c *clock) read() time.Duration     { return time.Duration(c.skew.Load()) }
func (c *clock) advance(d time.Duration) { c.skew.Add(int64(d)) }

// rig is one database under test.
type rig struct {
	*testing.T
	store.Store
	clock *clock
	open  func(func() time.Duration) store.Store
}

// another opens one more connection with the rig's clock.
func (r *rig) another() store.Store {
	r.Helper()
	s := r.open(r.clock.read)
	r.Cleanup(func() {
		if err := s.Close(); err != nil {
			r.Error(err)
		}
	})
	return s
}

// update runs one transaction that must succeed.
func (r *rig) update(write func(ctx context.Context, tx store.Tx) error) {
	r.Helper()
	r.want("", r.try(write))
}

// try runs one transaction and gives its error.
func (r *rig) try(write func(ctx context.Context, tx store.Tx) error) error {
	return r.Update(r.Context(), func(tx store.Tx) error { return write(r.Context(), tx) })
}

// view reads; the error must be nil.
func (r *rig) view(read func(ctx context.Context, tx store.Tx) error) {
	r.Helper()
	r.want("", r.View(r.Context(), func(tx store.Tx) error { return read(r.Context(), tx) }))
}

// want checks an error's code; "" is none.
func (r *rig) want(code stacyvm.Code, err error) {
	r.Helper()
	if stacyvm.CodeOf(err) != code {
		r.Errorf("got %v, want code %q", err, code)
	}
}

// must is want for what the rest of the test stands on.
func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// insert writes a row of worker w with an hour to live; change alters it first.
func (r *rig) insert(change func(*stacyvm.Sandbox)) stacyvm.Sandbox {
	r.Helper()
	row := stacyvm.Sandbox{
		ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning, Provider: "mock", Image: "host",
		Spec: stacyvm.Spec{Provider: "mock", Image: "host", TTL: time.Hour}, WorkerID: "w", Fence: stacyvm.Fence{Incarnation: 1},
	}
	if change != nil {
		change(&row)
	}
	r.must(r.try(func(ctx context.Context, tx store.Tx) (err error) {
		row, err = tx.Sandboxes().Insert(ctx, row)
		return err
	}))
	return row
}

// row reads a sandbox.
func (r *rig) row(id stacyvm.SandboxID) (row stacyvm.Sandbox) {
	r.Helper()
	r.view(func(ctx context.Context, tx store.Tx) (err error) {
		row, err = tx.Sandboxes().Get(ctx, id)
		return err
	})
	return row
}

// apply runs a fenced write in a transaction of its own.
func (r *rig) apply(id stacyvm.SandboxID, fence stacyvm.Fence, change store.Change) (row stacyvm.Sandbox, err error) {
	err = r.try(func(ctx context.Context, tx store.Tx) (err error) {
		row, err = tx.Sandboxes().Apply(ctx, id, fence, change)
		return err
	})
	return row, err
}

func ids(rows []stacyvm.Sandbox) []stacyvm.SandboxID {
	found := make([]stacyvm.SandboxID, len(rows))
	for i, row := range rows {
		found[i] = row.ID
	}
	return found
}
