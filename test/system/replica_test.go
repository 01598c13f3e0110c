package system

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/test/harness"
)

// onPostgres is the environment of a server that keeps its rows in the database of dsn.
func onPostgres(dsn string) []string {
	return []string{"STACYVM_DATABASE_DRIVER=postgres", "STACYVM_DATABASE_DSN=" + dsn}
}

// TestTwoServersOnOneDatabase: each serves the rows of both, runs its own sandboxes, leaves the
// other's alone, and tells the other's events.
func TestTwoServersOnOneDatabase(t *testing.T) {
	t.Parallel()
	env := onPostgres(postgrestest.Schema(t))
	a, b := start(t, env...), start(t, env...)
	ours, theirs := a.spawn(client.SpawnRequest{}), b.spawn(client.SpawnRequest{})
	a.wantRunning(ours.ID, theirs.ID)
	b.wantRunning(ours.ID, theirs.ID)
	if ours.WorkerID == theirs.WorkerID {
		t.Fatalf("both servers are worker %q", ours.WorkerID)
	}
	for _, s := range []*server{a, b} {
		for _, id := range []string{ours.ID, theirs.ID} {
			row, err := s.Sandbox(t.Context(), id)
			if err != nil || row.State != "running" {
				t.Errorf("%s: %+v, %v", id, row, err)
			}
		}
	}
	// Longer than two passes of the recovery, which looks for runtimes without an owner.
	time.Sleep(40 * time.Second)
	a.shell(ours.ID, "true")
	b.shell(theirs.ID, "true")
	if _, err := a.Exec(t.Context(), theirs.ID, client.ExecRequest{Command: "true"}); client.CodeOf(err) != client.CodeUnavailable {
		t.Errorf("a command through the server that does not own the sandbox: %v", err)
	}
	a.auditSandboxes(1)
	b.auditSandboxes(1)
	// A destroy that reaches the wrong server is a wish that the owner fulfils.
	if err := a.Destroy(t.Context(), theirs.ID); client.CodeOf(err) != client.CodeUnavailable {
		t.Errorf("destroy through the other server: %v", err)
	}
	b.auditSandboxes(0)
	if err := a.Destroy(t.Context(), ours.ID); err != nil {
		t.Error(err)
	}
}

// wantRunning waits until the server has told of all these sandboxes that they run.
func (s *server) wantRunning(ids ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	waiting := map[string]bool{}
	for _, id := range ids {
		waiting[id] = true
	}
	for event, err := range s.Events(ctx, client.EventsRequest{After: "0"}) {
		if err != nil {
			s.t.Fatalf("not told of %v: %v", waiting, err)
		}
		if event.Type == "sandbox.running" {
			delete(waiting, event.SandboxID)
		}
		if len(waiting) == 0 {
			return
		}
	}
}

// TestEightServersStartOnAnEmptyDatabase: they all come up, whoever makes the schema.
func TestEightServersStartOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	testneed.GVisor(t)
	env := onPostgres(postgrestest.Schema(t))
	var group errgroup.Group
	for range 8 {
		dir, err := os.MkdirTemp("", "stacyvm-system-") //nolint:usetesting // scripts/host-state.sh finds what it leaves by this name
		if err != nil {
			t.Fatal(err)
		}
		s, err := harness.New(dir, env...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		group.Go(s.Up)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}
