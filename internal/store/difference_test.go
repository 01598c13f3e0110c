package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
)

// fault is done to a database past its journal. Statements and do are about one sandbox that all
// was done with, $ is its id.
type fault struct {
	name      string
	statement string
	do        func(ctx context.Context, tx store.Tx, gone stacyvm.Sandbox, open deed) error
}

// faults are what a comparison with the journal is there to find. open is a deed that was tried
// and not answered.
var faults = []fault{
	{name: "a row is lost", statement: `DELETE FROM sandboxes WHERE id = '$'`},
	{name: "a lease is lost", statement: `DELETE FROM leases WHERE resource_id = '$'`},
	{name: "a line of the audit is lost", statement: `DELETE FROM operation_audit WHERE sandbox_id = '$' AND action = 'renew'`},
	{name: "an event is lost", statement: `DELETE FROM events WHERE sandbox_id = '$' AND kind = 'sandbox.running'`},
	{name: "the last change is lost", statement: `UPDATE sandboxes SET state = 'running' WHERE id = '$'`},
	{name: "metadata is lost", statement: `UPDATE sandboxes SET metadata = '{}' WHERE id = '$'`},
	{name: "a spec is cut", statement: `UPDATE sandboxes SET spec = '{"image":"x"}' WHERE id = '$'`},
	{name: "an owner is another", statement: `UPDATE sandboxes SET owner_id = 'eve' WHERE id = '$'`},
	{name: "an expiry is not the answered one", statement: `UPDATE sandboxes SET expires_us = expires_us + 1 WHERE id = '$'`},
	{name: "a time is not the answered one", statement: `UPDATE sandboxes SET updated_us = updated_us - 1 WHERE id = '$'`},
	{name: "a renewal is lost", statement: `UPDATE leases SET generation = generation - 1 WHERE resource_id = '$'`},
	{name: "a line of the audit is another", statement: `UPDATE operation_audit SET actor = 'eve' WHERE sandbox_id = '$' AND action = 'run'`},
	{name: "an event tells something else", statement: `UPDATE events SET data = '{}' WHERE sandbox_id = '$' AND kind = 'sandbox.created'`},
	{name: "an event is told twice", do: func(ctx context.Context, tx store.Tx, gone stacyvm.Sandbox, _ deed) error {
		return tx.Events().Append(ctx, []stacyvm.Event{gone.Event()})
	}},
	{name: "a sandbox that nobody asked for", do: func(ctx context.Context, tx store.Tx, _ stacyvm.Sandbox, _ deed) error {
		return storetest.InsertLeased(ctx, tx, stacyvm.NewSandboxID())
	}},
	{name: "half of an unanswered deed", do: func(ctx context.Context, tx store.Tx, _ stacyvm.Sandbox, open deed) error {
		_, err := tx.Sandboxes().Insert(ctx, open.Asked)
		return err
	}},
	{name: "the other half of it", do: func(ctx context.Context, tx store.Tx, _ stacyvm.Sandbox, open deed) error {
		return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{open.line()})
	}},
	{name: "a row of a table that nobody writes", do: func(ctx context.Context, tx store.Tx, _ stacyvm.Sandbox, _ deed) error {
		return tx.Audit().AppendExecs(ctx, []stacyvm.ExecRecord{{SandboxID: "x"}})
	}},
}

// errUnheard stands for an answer that did not come.
var errUnheard = errors.New("not heard")

// journalled does deeds about some sandboxes. One was done and not heard of, one was tried and not
// done. It gives a sandbox that all was done with, and the deed that was not done.
func journalled(t *testing.T, s store.Store) (j *journal, gone stacyvm.Sandbox, open deed) {
	t.Helper()
	j = new(journal)
	for len(j.deeds) < 3 || gone.ID == "" {
		var last deed
		if err := live(t.Context(), s, len(deeds), func(d deed) error { last = d; return j.note(d) }); err != nil {
			t.Fatal(err)
		}
		if last.Number == len(deeds)-1 {
			gone = stacyvm.Sandbox{ID: last.Asked.ID, State: stacyvm.StateDestroyed}
		}
	}
	err := live(t.Context(), s, len(deeds), func(d deed) error {
		if !d.At.IsZero() {
			return errUnheard
		}
		return j.note(d)
	})
	if !errors.Is(err, errUnheard) {
		t.Fatal(err)
	}
	open = asked()
	if err := j.note(open); err != nil {
		t.Fatal(err)
	}
	return j, gone, open
}

// TestTheJournalTellsDifferences has a comparison find nothing in a database as its clients left
// it, and each fault.
func TestTheJournalTellsDifferences(t *testing.T) {
	onEachDriver(t, func(t *testing.T, config store.Config) {
		s := open(t, config)
		j, _, _ := journalled(t, s)
		j.check(t, config, asTheyAre)
		if found := j.differences(t, s, func(row *stacyvm.Sandbox) { row.Image = "other" }); len(found) == 0 {
			t.Error("other rows are not told")
		}
	})
	for _, f := range faults {
		t.Run(strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) {
			onEachDriver(t, func(t *testing.T, config store.Config) { f.plant(t, config) })
		})
	}
}

func (f fault) plant(t *testing.T, config store.Config) {
	s := open(t, config)
	j, gone, open := journalled(t, s)
	if found := j.differences(t, s, asTheyAre); len(found) > 0 {
		t.Fatalf("before anything was planted: %q", found)
	}
	if f.do != nil {
		if err := s.Update(t.Context(), func(tx store.Tx) error { return f.do(t.Context(), tx, gone, open) }); err != nil {
			t.Fatal(err)
		}
	} else {
		done, err := raw(t, config).ExecContext(t.Context(), strings.ReplaceAll(f.statement, "$", string(gone.ID)))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := done.RowsAffected(); err != nil || n != 1 {
			t.Fatalf("%d rows were changed, %v", n, err)
		}
	}
	if found := append(j.differences(t, s, asTheyAre), strangers(t, config)...); len(found) == 0 {
		t.Error("it is not told")
	}
}
