package placement_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// TestLimitsHoldAcrossServers has two servers on one database take 200 creates for 10 places, by
// each kind of limit.
func TestLimitsHoldAcrossServers(t *testing.T) {
	const clients, limit = 200, 10
	limits := map[string]func(*control.Config, *stacyvm.Worker){
		"in all":    func(c *control.Config, _ *stacyvm.Worker) { c.Defaults.MaxSandboxes = limit },
		"per owner": func(c *control.Config, _ *stacyvm.Worker) { c.Defaults.MaxSandboxesPerOwner = limit },
		"of worker": func(_ *control.Config, w *stacyvm.Worker) { w.Capacity.MaxSandboxes = limit },
		"memory":    func(_ *control.Config, w *stacyvm.Worker) { w.Capacity.MemoryMB = 1024*limit + 1023 },
		"vcpus":     func(_ *control.Config, w *stacyvm.Worker) { w.Capacity.VCPUs = limit },
	}
	for driver, database := range map[string]func(*testing.T) store.Config{
		"sqlite":   func(t *testing.T) store.Config { return store.Config{Path: filepath.Join(t.TempDir(), "stacyvm.db")} },
		"postgres": func(t *testing.T) store.Config { return store.Config{Driver: "postgres", DSN: postgrestest.Schema(t)} },
	} {
		for name, set := range limits {
			t.Run("driver="+driver+"/"+name, func(t *testing.T) {
				config := database(t)
				config.ConnectTimeout, config.QueryTimeout = time.Hour, time.Hour // a busy machine refuses nobody
				record := stacyvm.Worker{ID: controltest.Self, Status: "online", Session: "session-1", Providers: []string{"mock"}}
				w := controltest.NewWorker()
				var servers []*control.Service
				for range 2 {
					s := controltest.Open(t, config)
					servers = append(servers, controltest.NewService(t, s, w, func(c *control.Config) { set(c, &record) }))
					controltest.Update(t, s, func(tx store.Tx) error {
						_, err := tx.Workers().Save(t.Context(), record)
						return err
					})
				}
				ctx := controltest.As(t.Context(), "ann", "")
				var mu sync.Mutex
				codes := map[stacyvm.Code]int{}
				var wait sync.WaitGroup
				for i := range clients {
					wait.Go(func() {
						_, _, err := servers[i%2].Create(ctx, control.CreateRequest{}, control.Idempotency{})
						mu.Lock()
						defer mu.Unlock()
						codes[stacyvm.CodeOf(err)]++
					})
				}
				wait.Wait()
				if codes[""] != limit || codes[stacyvm.CodeLimit] != clients-limit {
					t.Errorf("outcomes %v, want %d creates", codes, limit)
				}
				if creates, _, present := w.Counts(); creates != limit || present != limit {
					t.Errorf("%d runtimes made, %d there", creates, present)
				}
			})
		}
	}
}

// TestWorkersShareTheLoad places by what was counted a moment ago and by what was placed since.
func TestWorkersShareTheLoad(t *testing.T) {
	r := &rig{controltest.NewRig(t, func(c *control.Config) {
		one := c.Workers
		c.Workers = func(stacyvm.WorkerID) (worker.Worker, error) { return one(controltest.Self) }
	})}
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		_, err := tx.Workers().Save(t.Context(), stacyvm.Worker{
			ID: "there", Status: "online", Session: "session-2", Providers: []string{"mock"},
			Capacity: stacyvm.Capacity{RPCURL: "https://there"},
		})
		return err
	})
	placed := map[stacyvm.WorkerID]int{}
	for range 10 {
		placed[r.MustCreate(t).WorkerID]++
	}
	if placed["there"] != 5 || placed[controltest.Self] != 5 {
		t.Errorf("placed %v", placed)
	}
}
