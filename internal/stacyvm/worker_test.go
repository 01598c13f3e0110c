package stacyvm

import (
	"strings"
	"testing"
)

func TestWorkerIDOf(t *testing.T) {
	for name, want := range map[string]WorkerID{
		"host-1.example": "host-1.example", " a b/c ": "a-b-c", "größe": "gr-e", "-": "", "": "", //nolint:gocritic // blanks around a name are cut
		strings.Repeat("a", 64): WorkerID(strings.Repeat("a", 64)),
	} {
		if id := WorkerIDOf(name); id != want || id.Valid() != (want != "") {
			t.Errorf("%q gives %q, valid: %v", name, id, id.Valid())
		}
	}
	if id := WorkerIDOf(strings.Repeat("a", 65)); id.Valid() {
		t.Errorf("%q is valid", id)
	}
}

func TestWorkerStatuses(t *testing.T) {
	for status, acts := range map[WorkerStatus]bool{
		WorkerStarting: true, WorkerOnline: true, WorkerDraining: true, WorkerOffline: false, WorkerUnhealthy: false,
	} {
		if !status.Valid() || status.Acts() != acts {
			t.Errorf("%s: valid %v, acts %v", status, status.Valid(), status.Acts())
		}
	}
	if s := WorkerStatus("busy"); s.Valid() || s.Acts() || WorkerStatus("").Valid() {
		t.Error("an unknown status counts")
	}
}
