// Package workertest is the suite that every worker must pass: the promises of package worker,
// tried on a worker whose engine is the mock, which can be told to fail, to lie and to die. It
// knows no worker: a local one and a remote one that leads to it are the same to it.
package workertest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// Image is the name of an image that the worker has; it has no other.
const Image = "base"

// Machine is a worker with what a test needs to disturb it. The worker's default engine is the
// mock.
type Machine struct {
	Worker worker.Worker
	Engine *mock.Engine
	// Reopen ends the worker and puts another on the same state in its place; the engine stays, as
	// one whose runtimes outlive the process.
	Reopen func(t *testing.T)
	// Reboot does the same to worker and engine: no runtime survives.
	Reboot func(t *testing.T)
	// Ask has the worker ask every guest that it has not asked lately, as it does all the time by
	// itself when it runs.
	Ask func(ctx context.Context)
}

// Run checks every promise of the port. open gives a machine without sandboxes; the caller's
// clean-up closes it.
func Run(t *testing.T, open func(t *testing.T) *Machine) {
	for name, test := range map[string]func(*testing.T, *Machine){
		"create":                         testCreate,
		"create twice":                   testCreateTwice,
		"create twice at once":           testCreateTogether,
		"creates in parallel":            testParallel,
		"failed creates":                 testFailedCreates,
		"a create that is not undone":    testNotUndone,
		"cancelled create":               testCancelled,
		"destroy":                        testDestroy,
		"destroy fails":                  testDestroyFails,
		"destroy during create":          testDestroyDuringCreate,
		"races":                          testRaces,
		"expiry":                         testExpiry,
		"fences":                         testFences,
		"fence of a destroyed sandbox":   testSpentFence,
		"a newer fence takes over":       testTakeover,
		"inventory reasons":              testReasons,
		"inventory is complete":          testInventoryComplete,
		"guest scopes":                   testScopes,
		"guest reconnects":               testReconnect,
		"ports":                          testPorts,
		"providers":                      testProviders,
		"reopened":                       testReopen,
		"reopened during create":         testReopenDuringCreate,
		"rebooted":                       testReboot,
		"bad ids":                        testBadIDs,
		"no runtime":                     testNoRuntime,
		"many sandboxes in an inventory": testManyInInventory,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// within bounds every single call.
const within = 60 * time.Second

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	return ctx
}

// fresh gives a new sandbox's first ref.
func fresh() stacyvm.Ref { return at(stacyvm.NewSandboxID(), 1) }

func at(id stacyvm.SandboxID, epoch int64) stacyvm.Ref {
	return stacyvm.Ref{ID: id, Fence: stacyvm.Fence{Incarnation: 2, Epoch: epoch}}
}

// request asks for a small sandbox of the default engine.
func request() worker.CreateRequest {
	return worker.CreateRequest{
		Cluster: "ours",
		Spec: stacyvm.Spec{
			Image: Image, MemoryMB: 128, VCPUs: 1, DiskMB: 64, TTL: time.Hour, Network: stacyvm.NetworkNone,
			Env: map[string]string{"GREETING": "hello"},
		},
		OwnerID: "anne", TenantID: "acme", ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second).UTC(),
	}
}

func (m *Machine) create(t *testing.T, ref stacyvm.Ref) worker.Created {
	t.Helper()
	created, err := m.Worker.Create(bounded(t), ref, request())
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return created
}

func (m *Machine) destroy(t *testing.T, ref stacyvm.Ref) {
	t.Helper()
	if err := m.Worker.Destroy(bounded(t), ref); err != nil {
		t.Fatalf("destroy: %v", err)
	}
}

// client asks a sandbox's guest with one scope.
func (m *Machine) client(t *testing.T, ref stacyvm.Ref, scope guest.Scope) *guest.Client {
	t.Helper()
	conn, err := m.Worker.Guest(bounded(t), ref, scope)
	if err != nil {
		t.Fatalf("guest: %v", err)
	}
	return guest.NewClient(conn)
}

// bootID tells one start of a guest program from another.
func (m *Machine) bootID(t *testing.T, ref stacyvm.Ref) string {
	t.Helper()
	id, err := m.client(t, ref, guest.ScopeExec).Ping(bounded(t))
	if err != nil {
		t.Fatalf("ping: %v", err)
	}
	return id
}

// inventory gives the line of each sandbox.
func (m *Machine) inventory(t *testing.T) map[stacyvm.SandboxID]worker.Runtime {
	t.Helper()
	m.Ask(bounded(t))
	inventory, err := m.Worker.Inventory(bounded(t))
	if err != nil {
		t.Fatalf("inventory: %v", err)
	}
	lines := map[stacyvm.SandboxID]worker.Runtime{}
	for _, r := range inventory.Runtimes {
		if _, twice := lines[r.ID]; twice {
			t.Errorf("%s is listed twice", r.ID)
		}
		lines[r.ID] = r
	}
	return lines
}

// empty checks that nothing is on the machine, by the worker's word and by the engine's.
func (m *Machine) empty(t *testing.T) {
	t.Helper()
	if lines := m.inventory(t); len(lines) != 0 {
		t.Errorf("in the inventory: %+v", lines)
	}
	if left := m.runtimes(t); len(left) != 0 {
		t.Errorf("in the engine: %+v", left)
	}
}

func (m *Machine) runtimes(t *testing.T) []engine.Runtime {
	t.Helper()
	list, err := m.Engine.List(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func wantCode(t *testing.T, what string, err error, codes ...stacyvm.Code) {
	t.Helper()
	if got := stacyvm.CodeOf(err); !slices.Contains(codes, got) {
		t.Errorf("%s: code %q, want %q (%v)", what, got, codes, err)
	}
}

// until waits for something that another goroutine brings about and that nothing announces.
func until(t *testing.T, what string, true func() bool) {
	t.Helper()
	for ctx := bounded(t); !true(); {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}
