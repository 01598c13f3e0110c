package local_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

func (m *machine) record(id stacyvm.SandboxID) string {
	return filepath.Join(m.dir, string(id)+".json")
}
func (m *machine) tombstone(id stacyvm.SandboxID) string {
	return filepath.Join(m.dir, string(id)+".gone")
}

// TestDamagedRecord: a file that cannot be read hides no runtime, opens none, and stays until the
// sandbox is destroyed.
func TestDamagedRecord(t *testing.T) {
	for name, damage := range map[string]func(content []byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"cut":       func(content []byte) []byte { return content[:len(content)/2] },
		"garbage":   func(content []byte) []byte { return bytes.Repeat([]byte{0}, len(content)) },
		"ending":    func(content []byte) []byte { return append(bytes.TrimSuffix(content, []byte("}\n")), '\n') },
		"no fields": func([]byte) []byte { return []byte("{}") },
		"not ours":  func([]byte) []byte { return []byte(`{"Fence":{"incarnation":-1},"Phase":"flying"}`) },
		"too large": func(content []byte) []byte { return append(bytes.Repeat([]byte(" "), 2<<20), content...) },
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t)
			ref, dead := at(5), at(5)
			m.create(t, ref)
			m.create(t, dead)
			for _, id := range []stacyvm.SandboxID{ref.ID, dead.ID} {
				content := read(t, m.record(id))
				write(t, m.record(id), damage(content))
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
			stale := stacyvm.Ref{ID: ref.ID, Fence: stacyvm.Fence{Incarnation: 2, Epoch: 4}}
			wantCode(t, "stale destroy", m.Worker.Destroy(t.Context(), stale), stacyvm.CodeStaleEpoch)
			_, err := m.Worker.Create(t.Context(), ref, request())
			wantCode(t, "create", err, stacyvm.CodeUnavailable)
			_, err = m.Worker.Guest(t.Context(), ref, guest.ScopeExec)
			wantCode(t, "guest", err, stacyvm.CodeUnavailable)
			wantCode(t, "stale destroy", m.Worker.Destroy(t.Context(), stale), stacyvm.CodeStaleEpoch)
			if _, err := os.Stat(m.record(ref.ID)); err != nil || len(m.inventory(t)) != 2 {
				t.Errorf("something went away without a destroy: %v", err)
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

// TestCutEnding: a record whose second line did not reach the disk is that of a create that was
// not finished.
func TestCutEnding(t *testing.T) {
	m := open(t)
	here, gone := at(5), at(5)
	for _, ref := range []stacyvm.Ref{here, gone} {
		m.create(t, ref)
		content := read(t, m.record(ref.ID))
		if lines := bytes.Count(content, []byte("\n")); lines != 2 {
			t.Fatalf("a record of %d lines", lines)
		}
		write(t, m.record(ref.ID), content[:len(content)-2])
	}
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

func TestDamagedGrave(t *testing.T) {
	m := open(t)
	ref := at(5)
	m.create(t, ref)
	m.destroy(t, ref)
	write(t, m.tombstone(ref.ID), []byte("{"))
	_, err := m.Worker.Create(t.Context(), ref, request())
	wantCode(t, "create", err, stacyvm.CodeInternal)
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
	remove(t, m.record(ref.ID))
	m.Reopen(t)
	line := m.inventory(t)[ref.ID]
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

// TestRecordAndTombstone: a crash between a tombstone and the removal of the record before it
// leaves both.
func TestRecordAndTombstone(t *testing.T) {
	m := open(t)
	ended, anew := at(5), at(5)
	for _, ref := range []stacyvm.Ref{ended, anew} {
		m.create(t, ref)
		record := read(t, m.record(ref.ID))
		m.destroy(t, ref)
		if ref == anew {
			tombstone := read(t, m.tombstone(ref.ID))
			m.create(t, stacyvm.Ref{ID: ref.ID, Fence: stacyvm.Fence{Incarnation: 2, Epoch: 6}})
			write(t, m.tombstone(ref.ID), tombstone)
			continue
		}
		write(t, m.record(ref.ID), record)
	}
	m.Reopen(t)
	lines := m.inventory(t)
	if line := lines[anew.ID]; len(lines) != 1 || line.Phase != worker.PhaseRunning || line.Fence.Epoch != 6 {
		t.Errorf("inventory: %+v", lines)
	}
	if _, err := os.Stat(m.record(ended.ID)); err == nil {
		t.Error("the record of a gone sandbox stays")
	}
	_, err := m.Worker.Create(t.Context(), ended, request())
	wantCode(t, "late create", err, stacyvm.CodeStaleEpoch)
}

func TestFiles(t *testing.T) {
	m := open(t)
	ref := at(1)
	write(t, m.record(ref.ID)+".tmp", []byte("an unfinished write"))
	write(t, filepath.Join(m.dir, "notes"), []byte("somebody else's"))
	m.Reopen(t)
	m.create(t, ref)
	for _, name := range []string{m.record(ref.ID), m.dir} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v: holds a secret and must be the owner's alone", name, info.Mode(), err)
		}
	}
	m.destroy(t, ref)
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if got, want := strings.Join(names, " "), "notes "+string(ref.ID)+".gone"; got != want {
		t.Errorf("files %s, want %s", got, want)
	}
	if strings.Contains(string(read(t, m.tombstone(ref.ID))), "anne") {
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
	week := time.Now().Add(-8 * 24 * time.Hour)
	if err := os.Chtimes(m.tombstone(old.ID), week, week); err != nil {
		t.Fatal(err)
	}
	m.Reopen(t)
	m.inventory(t)
	if _, err := os.Stat(m.tombstone(old.ID)); err == nil {
		t.Error("an old tombstone stays")
	}
	if _, err := os.Stat(m.tombstone(young.ID)); err != nil {
		t.Error("a young tombstone is gone")
	}
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
	if _, err := os.Stat(m.record(ref.ID)); err == nil {
		t.Error("the record stays")
	}
	_, err = m.Worker.Create(t.Context(), stacyvm.Ref{ID: ref.ID, Fence: stacyvm.Fence{Incarnation: 2, Epoch: 4}}, request())
	wantCode(t, "create with an older fence", err, stacyvm.CodeStaleEpoch)
	m.create(t, ref)
}
