package api_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// TestAnUploadWhoseClientLeft is told as the client's doing: a failed line in the audit that says
// so, and no event of a fault.
func TestAnUploadWhoseClientLeft(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	for _, path := range []string{"/files?path=cut", "/files/archive?path=cut"} {
		f.stall("PUT", "/api/v1/sandboxes/"+id+path, "begun", 1000)()
	}
	var lines []stacyvm.Operation
	var failed []stacyvm.Event
	for deadline := time.Now().Add(10 * time.Second); len(lines) < 2; {
		must(t, f.store.View(t.Context(), func(tx store.Tx) (err error) {
			if lines, err = tx.Audit().Operations(t.Context(), store.OperationFilter{Action: "file.write", Limit: 10}); err != nil {
				return err
			}
			failed, err = tx.Events().Recent(t.Context(), store.RecentFilter{Kinds: []stacyvm.Kind{stacyvm.KindOperationFailed}, Limit: 10})
			return err
		}))
		if time.Now().After(deadline) {
			t.Fatalf("%d lines", len(lines))
		}
	}
	for _, line := range lines {
		if line.Status != "failed" {
			t.Errorf("%+v", line)
		}
	}
	if len(failed) != 0 {
		t.Errorf("told of %+v", failed)
	}
}

// TestARepeatTellsTheSandboxAsItIs, and not as it was when it was made.
func TestARepeatTellsTheSandboxAsItIs(t *testing.T) {
	f := start(t, nil, nil)
	create := func() (state string) {
		t.Helper()
		r := f.do("POST", "/api/v1/sandboxes", map[string]any{}, "Idempotency-Key", "k")
		var sandbox struct{ ID, State string }
		if r.into(t, &sandbox); r.StatusCode != http.StatusCreated {
			t.Fatalf("%d %s", r.StatusCode, r.text)
		}
		if sandbox.State == "running" {
			f.do("DELETE", "/api/v1/sandboxes/"+sandbox.ID, nil)
		}
		return sandbox.State
	}
	if first, again := create(), create(); first != "running" || again != "destroyed" {
		t.Errorf("%s, then %s", first, again)
	}
}
