package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// deed is one transaction of a client, about one sandbox: its row, its lease, a line of the audit
// and, when the state changes, an event.
type deed struct {
	Number int             // its place among the deeds about this sandbox, and in deeds
	Asked  stacyvm.Sandbox // of the first deed: the row that is to be made; of the others its id alone
	// the database's time of it, which with what was asked decides every field; zero: it was not
	// answered
	At time.Time
}

// deeds are what a client does with a sandbox, in their order.
var deeds = []string{"create", "run", "renew", "extend", "destroy"}

const deedTTL = time.Hour

// standing is what a database has of a sandbox.
type standing struct {
	Row   stacyvm.Sandbox
	Lease stacyvm.Lease
}

// asked makes the first deed about a new sandbox, with something in every field that a client can
// fill.
func asked() deed {
	id := stacyvm.NewSandboxID()
	mark := string(id[len(id)-4:])
	return deed{Asked: stacyvm.Sandbox{
		ID: id, State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning, Provider: "mock-" + mark, Image: "image/" + mark,
		OwnerID: "owner-" + mark, TenantID: "tenant-" + mark, WorkerID: "w", Fence: stacyvm.Fence{Incarnation: 1},
		Metadata: map[string]string{"purpose": "Prüfung 'of' \"" + mark + "\"", "empty": ""},
		Spec: stacyvm.Spec{
			Image: "image/" + mark, Provider: "mock-" + mark, MemoryMB: 64 + len(mark), VCPUs: 3, DiskMB: 77, TTL: 2 * time.Hour,
			Network: stacyvm.NetworkNone, Env: map[string]string{"MARK": mark}, Selector: map[string]string{"zone": mark},
		},
	}}
}

// next is the deed after this one; ok: there is one. Every second sandbox is left standing.
func (d deed) next() (after deed, ok bool) {
	after = deed{Number: d.Number + 1, Asked: stacyvm.Sandbox{ID: d.Asked.ID}}
	last := len(deeds) - 1
	return after, after.Number < last || after.Number == last && d.Asked.ID[len(d.Asked.ID)-1] < '8'
}

// leaves is what stands after the deed was done over what stood before.
func (d deed) leaves(s standing) standing {
	row, lease, at := &s.Row, &s.Lease, d.At
	switch deeds[d.Number] {
	case "create":
		s.Row = d.Asked
		row.Fence.Epoch, row.CreatedAt, row.ExpiresAt = 1, at, at.Add(row.Spec.TTL)
		s.Lease = stacyvm.Lease{Resource: string(row.ID), Type: "sandbox", Holder: "w", Session: "s", Epoch: 1, Generation: 1, ExpiresAt: at.Add(deedTTL)}
	case "run":
		row.State, row.RuntimeID, row.Unenforced = stacyvm.StateRunning, "rt-"+string(row.ID), []stacyvm.Limit{"disk", "pids"}
		row.ExpiresAt = at.Add(row.Spec.TTL) // its time counts from here
	case "renew":
		lease.Generation, lease.ExpiresAt = 2, at.Add(2*deedTTL)
		return s // the row stays as it is
	case "extend":
		row.ExpiresAt = at.Add(3 * deedTTL)
	case "destroy":
		row.State, row.Desired = stacyvm.StateDestroyed, stacyvm.DesiredDestroyed
		row.Cause = stacyvm.Cause{Reason: "asked for", Since: d.At}
		lease.Holder, lease.Session, lease.Generation, lease.ExpiresAt = "", "", 3, at
	}
	row.UpdatedAt = at
	return s
}

func (d deed) line() stacyvm.Operation {
	return stacyvm.Operation{
		Actor: "client", Action: deeds[d.Number], SandboxID: d.Asked.ID, Resource: "r", Provider: "p", Status: "ok",
		Detail: fmt.Sprint(d.Number), TenantID: "t", CreatedUS: d.At.UnixMicro(),
	}
}

// write makes the deed's changes.
func (d deed) write(ctx context.Context, tx store.Tx) (err error) {
	id, fence := d.Asked.ID, stacyvm.Fence{Incarnation: 1, Epoch: 1}
	switch deeds[d.Number] {
	case "create":
		if _, err = tx.Sandboxes().Insert(ctx, d.Asked); err == nil {
			_, err = tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: string(id), Type: "sandbox", Holder: "w", Session: "s", TTL: deedTTL})
		}
	case "run":
		_, err = tx.Sandboxes().Apply(ctx, id, fence, store.Change{State: stacyvm.StateRunning, RuntimeID: "rt-" + string(id), Unenforced: []stacyvm.Limit{"disk", "pids"}})
	case "renew":
		_, err = tx.Leases().Renew(ctx, "w", "s", []store.Held{{Resource: string(id), Epoch: 1}}, 2*deedTTL)
	case "extend":
		_, err = tx.Sandboxes().Want(ctx, id, store.Wish{TTL: 3 * deedTTL})
	case "destroy":
		if _, err = tx.Sandboxes().Want(ctx, id, store.Wish{Desired: stacyvm.DesiredDestroyed}); err != nil {
			return err
		}
		if _, err = tx.Sandboxes().Apply(ctx, id, fence, store.Change{State: stacyvm.StateDestroyed, Cause: &stacyvm.Cause{Reason: "asked for"}}); err == nil {
			err = tx.Leases().Release(ctx, string(id), "w", 1)
		}
	}
	if err != nil {
		return err
	}
	line := d.line()
	line.CreatedUS = 0 // the database's now
	return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{line})
}

// do does the deed and gives its time. The answer has every field that it should have, or it is an
// error.
func (d deed) do(ctx context.Context, s store.Store, before standing) (done deed, after standing, err error) {
	err = s.Update(ctx, func(tx store.Tx) error {
		done = d
		if done.At, err = tx.Now(ctx); err != nil {
			return err
		}
		if err := d.write(ctx, tx); err != nil {
			return err
		}
		after = done.leaves(before)
		var read standing
		if read.Row, err = tx.Sandboxes().Get(ctx, d.Asked.ID); err != nil {
			return err
		}
		if read.Lease, err = tx.Leases().Get(ctx, string(d.Asked.ID)); err != nil {
			return err
		}
		if encoded(read) != encoded(after) {
			return fmt.Errorf("%s was answered\n%s, not\n%s", deeds[d.Number], encoded(read), encoded(after))
		}
		return nil
	})
	return done, after, err
}

// live does the deeds about one new sandbox, at most so many, and notes each before it is tried
// and when it was answered. It ends with the first that is not.
func live(ctx context.Context, s store.Store, most int, note func(deed) error) error {
	var stands standing
	for d, ok := asked(), true; ok && d.Number < most; d, ok = d.next() {
		err := note(d)
		if err == nil {
			var done deed
			if done, stands, err = d.do(ctx, s, stands); err == nil {
				err = note(done)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// journal is what clients know of their deeds. At most the last one about each sandbox was not
// answered.
type journal struct {
	mu       sync.Mutex
	deeds    map[stacyvm.SandboxID][]deed
	answered int
}

// note takes a deed that is about to be tried, and takes it again when it was answered.
func (j *journal) note(d deed) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.deeds == nil {
		j.deeds = map[stacyvm.SandboxID][]deed{}
	}
	list := j.deeds[d.Asked.ID]
	switch {
	case d.At.IsZero() && d.Number == len(list):
		j.deeds[d.Asked.ID] = append(list, d)
	case d.Number == len(list)-1 && list[d.Number].At.IsZero():
		list[d.Number] = d
		j.answered++
	default:
		return fmt.Errorf("deed %d about %s is noted after %d", d.Number, d.Asked.ID, len(list))
	}
	return nil
}

// rows are what stands in a database, by what names it: "row ID", "lease ID", "audit ID N" and
// "event ID N".
type rows map[string]string

func encoded(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // plain values
	}
	return string(text)
}

// wanted is what is to stand: what every answered deed has left, and what those have left that
// were done without an answer, of which done gives the time.
func (j *journal) wanted(done func(deed) time.Time) rows {
	want := rows{}
	for id, list := range j.deeds {
		var stands standing
		events := 0
		for _, d := range list {
			if d.At.IsZero() {
				if d.At = done(d); d.At.IsZero() {
					break
				}
			}
			state := stands.Row.State
			stands = d.leaves(stands)
			want[fmt.Sprintf("row %s", id)] = encoded(stands.Row)
			want[fmt.Sprintf("lease %s", id)] = encoded(stands.Lease)
			want[fmt.Sprintf("audit %s %d", id, d.Number)] = encoded(d.line())
			if stands.Row.State != state {
				event := stands.Row.Event()
				event.CreatedAt = d.At
				want[fmt.Sprintf("event %s %d", id, events)] = encoded(event)
				events++
			}
		}
	}
	return want
}

// stands reads what is in a database. settle takes from a row what was done to it beside the
// deeds.
func stands(t *testing.T, s store.Store, settle func(*stacyvm.Sandbox)) (found rows, lines []stacyvm.Operation) {
	t.Helper()
	found = rows{}
	const every = 1_000_000
	err := s.Update(t.Context(), func(tx store.Tx) error { // numbers the events to which nobody listened
		_, err := tx.Events().Purge(t.Context(), 1000*time.Hour, every)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(t.Context(), func(tx store.Tx) error {
		sandboxes, err := tx.Sandboxes().List(t.Context(), store.SandboxFilter{States: stacyvm.States})
		if err != nil {
			return err
		}
		for _, row := range sandboxes {
			settle(&row)
			found["row "+string(row.ID)] = encoded(row)
		}
		leases, err := tx.Leases().List(t.Context(), "", store.Page{})
		if err != nil {
			return err
		}
		for _, lease := range leases {
			if lease.Type == "sandbox" {
				found["lease "+lease.Resource] = encoded(lease)
			}
		}
		if lines, err = tx.Audit().Operations(t.Context(), store.OperationFilter{Limit: every}); err != nil {
			return err
		}
		counts := map[string]int{}
		place := func(kind string, id stacyvm.SandboxID) string {
			of := kind + " " + string(id)
			counts[of]++
			return fmt.Sprintf("%s %d", of, counts[of]-1)
		}
		slices.Reverse(lines)
		for _, line := range lines {
			line.ID = 0 // the database's
			found[place("audit", line.SandboxID)] = encoded(line)
		}
		events, err := tx.Events().List(t.Context(), store.EventFilter{Limit: every})
		for _, event := range events {
			event.Number = 0 // likewise
			found[place("event", event.SandboxID)] = encoded(event)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, lines
}

// differences compares, row for row and field for field, what stands in a database with the
// journal of its clients: every answered deed is there, an unanswered one is there whole or not at
// all, and nothing is there that nobody asked for.
func (j *journal) differences(t *testing.T, s store.Store, settle func(*stacyvm.Sandbox)) (found []string) {
	t.Helper()
	have, lines := stands(t, s, settle)
	times := map[string]time.Time{}
	for _, line := range lines {
		times[string(line.SandboxID)+line.Detail] = time.UnixMicro(line.CreatedUS).UTC()
	}
	want := j.wanted(func(d deed) time.Time { return times[string(d.Asked.ID)+fmt.Sprint(d.Number)] })
	for key, value := range want {
		switch is, ok := have[key]; {
		case !ok:
			found = append(found, key+" is missing: "+value)
		case is != value:
			found = append(found, fmt.Sprintf("%s is\n\t%s, not\n\t%s", key, is, value))
		}
	}
	for key, value := range have {
		if want[key] == "" {
			found = append(found, key+" was not asked for: "+value)
		}
	}
	slices.Sort(found)
	return found
}

// check fails the test for each difference, and for what stands in tables that no deed writes.
func (j *journal) check(t *testing.T, config store.Config, settle func(*stacyvm.Sandbox)) {
	t.Helper()
	s := open(t, config)
	found := append(j.differences(t, s, settle), strangers(t, config)...)
	unheard, done := j.unheard(t, s)
	t.Logf("%d deeds were answered; of %d others %d are done", j.answered, unheard, done)
	if len(found) > 0 {
		t.Errorf("%d differences from the journal, such as\n%s", len(found), strings.Join(found[:min(5, len(found))], "\n"))
	}
}

// unheard counts the deeds that were not answered, and those of them that were done.
func (j *journal) unheard(t *testing.T, s store.Store) (n, done int) {
	t.Helper()
	_, lines := stands(t, s, asTheyAre)
	for _, list := range j.deeds {
		if list[len(list)-1].At.IsZero() {
			n++
		}
	}
	return n, len(lines) - j.answered
}

// asTheyAre is for databases in which nothing happens beside the deeds.
func asTheyAre(*stacyvm.Sandbox) {}

// strangers lists rows of tables that no deed writes. Workers may have registered.
func strangers(t *testing.T, config store.Config) (found []string) {
	t.Helper()
	known := []string{"cluster", "event_counter", "events", "leases", "operation_audit", "sandboxes", "schema_migrations", "workers"}
	for table, content := range contents(t, config) {
		if len(content) > 0 && !slices.Contains(known, table) {
			found = append(found, fmt.Sprintf("table %s has rows: %q", table, content))
		}
	}
	return found
}
