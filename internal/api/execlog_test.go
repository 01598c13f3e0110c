package api_test

import (
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// TestExecLogOfADetachedCommand: while it runs the log has no line of it, and then one with what
// is true.
func TestExecLogOfADetachedCommand(t *testing.T) {
	f := start(t, nil, nil)
	l := f.listen(t.Context(), "")
	sandbox := f.spawn()
	path := "/api/v1/sandboxes/" + sandbox.ID + "/processes"
	records := func() (found []stacyvm.ExecRecord) {
		t.Helper()
		err := f.store.View(t.Context(), func(tx store.Tx) (err error) {
			found, err = tx.Audit().Execs(t.Context(), store.ExecFilter{Sandbox: stacyvm.SandboxID(sandbox.ID)})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	var process struct{ ID string }
	f.do("POST", path, `{"command":"read line; exit 4","stdin":true}`).into(t, &process)
	l.take(3) // created, running, exec.started: the audit writer has written what there is to say of the start
	if found := records(); len(found) != 0 {
		t.Errorf("while the command runs: %+v", found)
	}
	f.do("POST", path+"/"+process.ID+"/signal", `{"signal":"KILL"}`)
	l.take(1) // written with the log's line
	found := records()
	if len(found) != 1 || found[0].ProcessID != process.ID || found[0].ExitCode != 137 || found[0].DurationUS == 0 {
		t.Errorf("when it has ended: %+v", found)
	}
}
