package cluster

import (
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// machineEvents tell of what changed with a worker's machine between two heartbeats. Its process
// is another one when a session registers that was not its last; then it is said whether the one
// before took its leave.
func machineEvents(before stacyvm.Worker, now Beat, known bool) (events []stacyvm.Event) {
	add := func(kind stacyvm.Kind, data map[string]any) {
		data["worker_id"], data["hostname"] = string(now.ID), now.Hostname
		events = append(events, stacyvm.Event{Kind: kind, Data: data})
	}
	if now.Register && before.Session != now.Session {
		data := map[string]any{}
		if known && before.Session != "" {
			data["last_heartbeat"] = before.LastHeartbeat.UTC().Format(time.RFC3339Nano)
			if before.Status == stacyvm.WorkerOnline || before.Status == stacyvm.WorkerStarting {
				data["detail"] = "the process before ended without a word: " +
					"it was killed or crashed, or its machine did"
			}
		}
		add(stacyvm.KindWorkerStarted, data)
	}
	switch {
	case len(now.Problems) > 0 && len(before.Problems) == 0:
		add(stacyvm.KindWorkerProblem, map[string]any{"detail": strings.Join(now.Problems, "; ")})
	case len(now.Problems) == 0 && len(before.Problems) > 0:
		add(stacyvm.KindWorkerRecovered, map[string]any{"detail": strings.Join(before.Problems, "; ")})
	}
	return events
}
