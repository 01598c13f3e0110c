package remote

import (
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	workerv1 "github.com/stacyvm/stacyvm/proto/worker/v1"
)

// TestPhaseOfAnOlderWorker: one that says whether a runtime is healthy, and why it is not, is
// understood.
func TestPhaseOfAnOlderWorker(t *testing.T) {
	for want, sent := range map[worker.Phase]*workerv1.Runtime{
		worker.PhaseRunning:  {Healthy: true},
		worker.PhaseCreating: {Phase: "creating"},
		worker.PhaseDead:     {Phase: "dead"},
		worker.PhaseSilent:   {Phase: "no_answer"},
		worker.PhaseUnknown:  {Phase: "unknown"},
	} {
		if got, err := runtimeFromWire(sent); err != nil || got.Phase != want {
			t.Errorf("%v is read as %q, %v; want %q", sent, got.Phase, err, want)
		}
	}
	if got, err := runtimeFromWire(&workerv1.Runtime{}); err != nil || got.Phase != worker.PhaseUnknown {
		t.Errorf("one of which nothing is said is %q, %v", got.Phase, err)
	}
}

// TestPhaseForAnOlderControlPlane: one that asks whether a runtime is healthy, and only then why
// not, reads what it did.
func TestPhaseForAnOlderControlPlane(t *testing.T) {
	for _, phase := range []worker.Phase{
		worker.PhaseUnknown, worker.PhaseCreating, worker.PhaseRunning, worker.PhaseSilent, worker.PhaseDead,
	} {
		sent, err := runtimeToWire(worker.Runtime{ID: stacyvm.NewSandboxID(), Phase: phase})
		if err != nil || sent.GetHealthy() != (phase == worker.PhaseRunning) || sent.GetPhase() != string(phase) {
			t.Errorf("%s is sent as %v, %v", phase, sent, err)
		}
	}
}
