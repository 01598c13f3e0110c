package local_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/local"
)

// lines gives the log's lines, without their ends.
func (m *machine) lines(t *testing.T) []string {
	t.Helper()
	text := strings.TrimSuffix(string(read(t, filepath.Join(m.dir, local.LogName))), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// edit has change give another line, with its end, for each line of a sandbox; "" takes it away.
func (m *machine) edit(t *testing.T, id stacyvm.SandboxID, change func(line string) string) {
	t.Helper()
	var text strings.Builder
	for _, line := range m.lines(t) {
		if strings.HasPrefix(line, string(id)) {
			text.WriteString(change(line))
		} else {
			text.WriteString(line + "\n")
		}
	}
	write(t, filepath.Join(m.dir, local.LogName), []byte(text.String()))
}

// isRecord reports whether a line is that of a record, and not of the end of its create.
func isRecord(line string) bool { return strings.Contains(line, `{"Record"`) }

// TestDamagedRecord: a line that cannot be read hides no runtime, opens none, and stays until the
// sandbox is destroyed.
func TestDamagedRecord(t *testing.T) {
	inRecord := func(damage func(id stacyvm.SandboxID, line string) string) func(stacyvm.SandboxID, string) string {
		return func(id stacyvm.SandboxID, line string) string {
			if isRecord(line) {
				return damage(id, line)
			}
			return line + "\n"
		}
	}
	for name, damage := range map[string]func(id stacyvm.SandboxID, line string) string{
		"empty": inRecord(func(id stacyvm.SandboxID, _ string) string { return string(id) + "\n" }),
		"cut":   inRecord(func(_ stacyvm.SandboxID, line string) string { return line[:len(line)/2] + "\n" }),
		"garbage": inRecord(func(id stacyvm.SandboxID, line string) string {
			return string(id) + strings.Repeat("\x00", len(line)) + "\n"
		}),
		"a bit": inRecord(func(_ stacyvm.SandboxID, line string) string { return strings.Replace(line, "anne", "anna", 1) + "\n" }),
		"ending": func(_ stacyvm.SandboxID, line string) string {
			if isRecord(line) {
				return line + "\n"
			}
			return line[:len(line)-1] + "\n"
		},
		"no fields": inRecord(func(id stacyvm.SandboxID, _ string) string { return string(local.LineOf(id, []byte("{}"))) }),
		"not ours": inRecord(func(id stacyvm.SandboxID, _ string) string {
			return string(local.LineOf(id, []byte(`{"Record":{"Fence":{"incarnation":-1},"Phase":"flying"}}`)))
		}),
		"too large": inRecord(func(_ stacyvm.SandboxID, line string) string { return line + strings.Repeat(" ", 2<<20) + "\n" }),
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t)
			ref, dead := at(5), at(5)
			m.create(t, ref)
			m.create(t, dead)
			for _, id := range []stacyvm.SandboxID{ref.ID, dead.ID} {
				m.edit(t, id, func(line string) string { return damage(id, line) })
			}
			m.Engine.Kill(dead.ID)
			m.Reopen(t)

			lines := m.inventory(t)
			for id, phase := range map[stacyvm.SandboxID]worker.Phase{ref.ID: worker.PhaseSilent, dead.ID: worker.PhaseDead} {
				line, listed := lines[id]
				if !listed || line.Phase != phase || line.Fence != ref.Fence || line.Cluster != "ours" || line.Request.OwnerID != "anne" {
					t.Errorf("inventory: %+v", line)
				}
			}
			if cause := lines[ref.ID].Cause; !strings.Contains(cause.Detail, "damaged") {
				t.Errorf("the cause is %+v", cause)
			}
			stale := stacyvm.Ref{ID: ref.ID, Fence: stacyvm.Fence{Incarnation: 2, Epoch: 4}}
			wantCode(t, "stale destroy", m.Worker.Destroy(t.Context(), stale), stacyvm.CodeStaleEpoch)
			_, err := m.Worker.Create(t.Context(), ref, request())
			wantCode(t, "create", err, stacyvm.CodeUnavailable)
			_, err = m.Worker.Guest(t.Context(), ref, guest.ScopeExec)
			wantCode(t, "guest", err, stacyvm.CodeUnavailable)
			wantCode(t, "stale destroy", m.Worker.Destroy(t.Context(), stale), stacyvm.CodeStaleEpoch)
			m.Reopen(t)
			_, err = m.Worker.Create(t.Context(), ref, request())
			wantCode(t, "create after another start", err, stacyvm.CodeUnavailable)
			if len(m.inventory(t)) != 2 {
				t.Error("something went away without a destroy")
			}
			for _, ref := range []stacyvm.Ref{ref, dead} {
				m.destroy(t, ref)
				_, err = m.Worker.Create(t.Context(), ref, request())
				wantCode(t, "late create", err, stacyvm.CodeStaleEpoch)
			}
			m.nothing(t)
		})
	}
}

// TestCutEnding: a record whose ending did not reach the disk, or not whole, is that of a create
// that was not finished.
func TestCutEnding(t *testing.T) {
	m := open(t)
	here, gone := at(5), at(5)
	for _, ref := range []stacyvm.Ref{here, gone} {
		m.create(t, ref)
	}
	if lines := m.lines(t); len(lines) != 4 {
		t.Fatalf("two records in %d lines", len(lines))
	}
	cut := func(id stacyvm.SandboxID, rest int) {
		m.edit(t, id, func(line string) string {
			if isRecord(line) {
				return line + "\n"
			}
			return line[:rest]
		})
	}
	cut(here.ID, 0)
	cut(gone.ID, 40) // afterwards, as an edit gives each line its end
	m.Engine.Kill(gone.ID)
	m.Reopen(t)
	for _, ref := range []stacyvm.Ref{here, gone} {
		m.create(t, ref) // takes over what answers, and makes anew what does not
	}
	m.Reopen(t)
	for id, line := range m.inventory(t) {
		if line.Phase != worker.PhaseRunning {
			t.Errorf("%s: %+v", id, line)
		}
	}
}

func TestDamagedTombstone(t *testing.T) {
	m := open(t)
	ref := at(5)
	m.create(t, ref)
	m.destroy(t, ref)
	m.edit(t, ref.ID, func(line string) string {
		if strings.Contains(line, `{"Gone"`) {
			return line[:len(line)-1] + "\n"
		}
		return line + "\n"
	})
	m.Reopen(t)
	_, err := m.Worker.Create(t.Context(), ref, request())
	wantCode(t, "create", err, stacyvm.CodeUnavailable)
	m.destroy(t, ref)
	_, err = m.Worker.Create(t.Context(), ref, request())
	wantCode(t, "late create", err, stacyvm.CodeStaleEpoch)
	m.nothing(t)
}

// TestMissingRecord: a runtime that the journal does not know is found by its labels, and nobody's
// but its owner's to remove.
func TestMissingRecord(t *testing.T) {
	m := open(t)
	ref := at(5)
	m.create(t, ref)
	m.edit(t, ref.ID, func(string) string { return "" })
	m.Reopen(t)
	line := m.inventory(t)[ref.ID]
	if !strings.Contains(line.Cause.Detail, "no record") {
		t.Errorf("the cause is %+v", line.Cause)
	}
	if line.Phase != worker.PhaseSilent || line.Fence != ref.Fence || line.Request.TenantID != "acme" || line.Request.ExpiresAt.IsZero() {
		t.Errorf("inventory: %+v", line)
	}
	_, err := m.Worker.Guest(t.Context(), ref, guest.ScopeExec)
	wantCode(t, "guest", err, stacyvm.CodeNotFound)
	stale := stacyvm.Ref{ID: ref.ID, Fence: stacyvm.Fence{Incarnation: 2, Epoch: 4}}
	wantCode(t, "stale destroy", m.Worker.Destroy(t.Context(), stale), stacyvm.CodeStaleEpoch)
	_, err = m.Worker.Create(t.Context(), ref, request())
	wantCode(t, "create", err, stacyvm.CodeConflict)
	if len(m.inventory(t)) != 1 {
		t.Error("a create that was refused removed the runtime")
	}
	if held, _ := m.images.Holders(); len(held) != 1 {
		t.Errorf("held images: %q", held)
	}
	m.Reopen(t)
	wantCode(t, "stale destroy", m.Worker.Destroy(t.Context(), stale), stacyvm.CodeStaleEpoch)
	m.destroy(t, ref)
	m.nothing(t)
}

// file is the path of a file that an earlier program kept for a sandbox.
func (m *machine) file(id stacyvm.SandboxID, suffix string) string {
	return filepath.Join(m.dir, string(id)+suffix)
}

// asFiles writes what the log has as an earlier program did, and removes the log.
func (m *machine) asFiles(t *testing.T) {
	t.Helper()
	for _, line := range m.lines(t) {
		id, text, _ := strings.Cut(line, " ")
		_, text, _ = strings.Cut(text, " ")
		var content struct{ Record, Ending, Gone json.RawMessage }
		if err := json.Unmarshal([]byte(text), &content); err != nil {
			t.Fatal(err)
		}
		record, tombstone := m.file(stacyvm.SandboxID(id), ".json"), m.file(stacyvm.SandboxID(id), ".gone")
		switch {
		case content.Record != nil:
			write(t, record, append(content.Record, '\n'))
		case content.Ending != nil:
			write(t, record, append(append(read(t, record), content.Ending...), '\n'))
		case content.Gone != nil:
			write(t, tombstone, append(content.Gone, '\n'))
		}
	}
	remove(t, filepath.Join(m.dir, local.LogName))
}

// TestFilesOfAnEarlierProgram: the log takes over a file for each sandbox. A crash between a
// tombstone and the removal of the record before it left both.
func TestFilesOfAnEarlierProgram(t *testing.T) {
	m := open(t)
	here, ended, both, anew, damaged, old := at(5), at(5), at(5), at(5), at(5), at(5)
	for _, ref := range []stacyvm.Ref{here, ended, both, anew, damaged, old} {
		m.create(t, ref)
	}
	for _, ref := range []stacyvm.Ref{ended, both, old} {
		m.destroy(t, ref)
	}
	m.asFiles(t)
	remove(t, m.file(ended.ID, ".json"))
	remove(t, m.file(old.ID, ".json"))
	write(t, m.file(anew.ID, ".gone"), []byte(`{"Fence":{"incarnation":2,"epoch":4},"Spent":true}`+"\n"))
	write(t, m.file(damaged.ID, ".json"), []byte(`{"Fence": "rubbish"`))
	write(t, m.file(at(1).ID, ".json.tmp"), []byte("an unfinished write"))
	write(t, filepath.Join(m.dir, "notes"), []byte("somebody else's"))
	week := time.Now().Add(-8 * 24 * time.Hour)
	if err := os.Chtimes(m.file(old.ID, ".gone"), week, week); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from the log alone
		m.Reopen(t)
		lines := m.inventory(t)
		want := map[stacyvm.SandboxID]worker.Phase{here.ID: worker.PhaseRunning, anew.ID: worker.PhaseRunning, damaged.ID: worker.PhaseSilent}
		for id, phase := range want {
			if lines[id].Phase != phase || lines[id].Fence != here.Fence {
				t.Errorf("%s: %+v, want %s", id, lines[id], phase)
			}
		}
		if len(lines) != len(want) {
			t.Errorf("inventory: %+v", lines)
		}
		for _, ref := range []stacyvm.Ref{ended, both} {
			_, err := m.Worker.Create(t.Context(), ref, request())
			wantCode(t, "late create", err, stacyvm.CodeStaleEpoch)
		}
		if got, want := m.names(t), local.LogName+" notes"; got != want {
			t.Errorf("files %s, want %s", got, want)
		}
	}
	m.create(t, old) // a week has passed
}

func (m *machine) names(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return strings.Join(names, " ")
}

func TestFiles(t *testing.T) {
	m := open(t)
	ref := at(1)
	m.create(t, ref)
	for _, name := range []string{filepath.Join(m.dir, local.LogName), m.dir} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v: holds a secret and must be the owner's alone", name, info.Mode(), err)
		}
	}
	m.destroy(t, ref)
	if got := m.names(t); got != local.LogName {
		t.Errorf("files %s", got)
	}
	if lines := m.lines(t); strings.Contains(lines[len(lines)-1], "anne") {
		t.Error("a tombstone tells more than it must")
	}
}

// TestOldTombstones: tombstones go after a week, not before.
func TestOldTombstones(t *testing.T) {
	m := open(t)
	old, young := at(1), at(1)
	for _, ref := range []stacyvm.Ref{old, young} {
		m.create(t, ref)
		m.destroy(t, ref)
	}
	written := regexp.MustCompile(`"At":\d+`)
	m.edit(t, old.ID, func(line string) string {
		_, content, _ := strings.Cut(line, " {")
		week := fmt.Sprintf(`"At":%d`, time.Now().Add(-8*24*time.Hour).Unix())
		return string(local.LineOf(old.ID, []byte(written.ReplaceAllString("{"+content, week))))
	})
	m.Reopen(t)
	for _, ref := range []stacyvm.Ref{old, young} {
		_, err := m.Worker.Create(t.Context(), ref, request())
		wantCode(t, "late create", err, stacyvm.CodeStaleEpoch)
	}
	m.inventory(t)
	m.create(t, old)
	_, err := m.Worker.Create(t.Context(), young, request())
	wantCode(t, "late create", err, stacyvm.CodeStaleEpoch)
}

// TestNoJournal: what cannot be written down is not done.
func TestNoJournal(t *testing.T) {
	m := open(t)
	there := at(1)
	m.create(t, there)
	if err := os.RemoveAll(m.dir); err != nil {
		t.Fatal(err)
	}
	ref := at(1)
	_, err := m.Worker.Create(t.Context(), ref, request())
	wantCode(t, "create", err, stacyvm.CodeInternal)
	if lines := m.inventory(t); len(lines) != 1 {
		t.Errorf("inventory: %+v", lines)
	}
	if held, _ := m.images.Holders(); len(held) != 1 {
		t.Errorf("held images: %q", held)
	}
	if _, err := m.Worker.Guest(t.Context(), there, guest.ScopeExec); err != nil {
		t.Errorf("a command needs the disk: %v", err)
	}
	newer := stacyvm.Ref{ID: there.ID, Fence: stacyvm.Fence{Incarnation: 2, Epoch: 2}}
	_, err = m.Worker.Guest(t.Context(), newer, guest.ScopeExec)
	wantCode(t, "guest with a fence that cannot be kept", err, stacyvm.CodeInternal)
	if _, err := m.Worker.Guest(t.Context(), there, guest.ScopeExec); err != nil {
		t.Errorf("a fence that was not kept counts: %v", err)
	}
}

// TestInterruptedCreate: the process ended between the engine's work and the journal's last word.
func TestInterruptedCreate(t *testing.T) {
	interrupt := func(t *testing.T) (*machine, stacyvm.Ref) {
		m, ref := open(t), at(1)
		m.Engine.Inject(mock.Faults{BreakCreate: errBroken, Destroy: errBroken})
		_, err := m.Worker.Create(t.Context(), ref, request())
		wantCode(t, "create", err, stacyvm.CodeInternal)
		m.Engine.Inject(mock.Faults{})
		m.Reopen(t)
		return m, ref
	}
	t.Run("inventory", func(t *testing.T) {
		m, ref := interrupt(t)
		line := m.inventory(t)[ref.ID]
		if line.Phase != worker.PhaseRunning || line.Created.RuntimeID == "" || len(line.Created.Unenforced) == 0 {
			t.Errorf("a whole runtime reads %+v", line)
		}
	})
	t.Run("create", func(t *testing.T) {
		m, ref := interrupt(t)
		list, err := m.Engine.List(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		m.create(t, ref)
		again, err := m.Engine.List(t.Context())
		if err != nil || len(again) != 1 || !again[0].Created.Equal(list[0].Created) {
			t.Errorf("%+v, then %+v, %v", list, again, err)
		}
	})
	t.Run("create over a part", func(t *testing.T) {
		m, ref := interrupt(t)
		m.Engine.Kill(ref.ID)
		m.create(t, ref)
		if line := m.inventory(t)[ref.ID]; line.Phase != worker.PhaseRunning {
			t.Errorf("%+v", line)
		}
	})
}

// TestSilentRuntimeIsKept: a create that is sent again must not remove what may hold somebody's
// work.
func TestSilentRuntimeIsKept(t *testing.T) {
	m, ref := open(t), at(1)
	m.create(t, ref)
	m.Reopen(t)
	m.Engine.Kill(ref.ID)
	_, err := m.Worker.Create(t.Context(), ref, request())
	wantCode(t, "create", err, stacyvm.CodeUnavailable)
	if line := m.inventory(t)[ref.ID]; line.Phase != worker.PhaseDead {
		t.Errorf("%+v", line)
	}
}

// TestFailedCreateKeepsItsFence: nothing else of it is kept.
func TestFailedCreateKeepsItsFence(t *testing.T) {
	m, ref := open(t), at(5)
	m.Engine.Inject(mock.Faults{Create: errBroken})
	_, err := m.Worker.Create(t.Context(), ref, request())
	wantCode(t, "create", err, stacyvm.CodeInternal)
	m.Engine.Inject(mock.Faults{})
	m.Reopen(t)
	if lines := m.lines(t); !strings.Contains(lines[len(lines)-1], `{"Gone"`) {
		t.Error("the record stays")
	}
	_, err = m.Worker.Create(t.Context(), stacyvm.Ref{ID: ref.ID, Fence: stacyvm.Fence{Incarnation: 2, Epoch: 4}}, request())
	wantCode(t, "create with an older fence", err, stacyvm.CodeStaleEpoch)
	m.create(t, ref)
}
