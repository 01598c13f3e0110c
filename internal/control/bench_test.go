package control_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	benchWorkers = 1000
	benchPlanes  = 2
	benchClients = 64
)

// benchStores opens an empty database of each driver that is there, several times.
func benchStores(b *testing.B, run func(*testing.B, []store.Store)) {
	for driver, config := range map[string]func(*testing.B) store.Config{
		"sqlite":   func(b *testing.B) store.Config { return store.Config{Path: filepath.Join(b.TempDir(), "stacyvm.db")} },
		"postgres": func(b *testing.B) store.Config { return store.Config{Driver: "postgres", DSN: postgrestest.Schema(b)} },
	} {
		b.Run("driver="+driver, func(b *testing.B) {
			opened, c := []store.Store{}, config(b)
			for range benchPlanes {
				opened = append(opened, controltest.Open(b, c))
			}
			run(b, opened)
		})
	}
}

func benchWorker(i int) stacyvm.Worker {
	id := fmt.Sprintf("w%04d", i)
	return stacyvm.Worker{
		ID: stacyvm.WorkerID(id), Hostname: id, Status: "online", Session: "session-" + id, Providers: []string{"mock"},
		Capabilities: []string{"spawn", "exec", "files"},
		Capacity: stacyvm.Capacity{
			MaxSandboxes: 200, MemoryMB: 262144, VCPUs: 256, RPCURL: "https://" + id + ".example:7424", Labels: map[string]string{"zone": "a"},
		},
	}
}

func benchRegister(b *testing.B, s store.Store) {
	b.Helper()
	controltest.Update(b, s, func(tx store.Tx) error {
		for i := range benchWorkers {
			if _, err := tx.Workers().Save(b.Context(), benchWorker(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // never fails for the caller itself
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// spread runs n calls on so many goroutines.
func spread(n, goroutines int, call func(i int)) {
	var next atomic.Int64
	var wait sync.WaitGroup
	for range goroutines {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				call(int(i))
			}
		})
	}
	wait.Wait()
}

// BenchmarkPlacement creates 10,000 sandboxes on 1,000 workers through two control planes. The
// workers answer at once, so that what is timed is the control planes' own work: choosing,
// reserving, confirming.
func BenchmarkPlacement(b *testing.B) {
	benchStores(b, func(b *testing.B, stores []store.Store) {
		const creates = 10_000
		benchRegister(b, stores[0])
		machines := controltest.NewWorker()
		var planes []*control.Service
		for _, s := range stores {
			planes = append(planes, controltest.NewService(b, s, machines, func(c *control.Config) {
				c.Self = ""
				c.Workers = func(stacyvm.WorkerID) (worker.Worker, error) { return machines, nil }
			}))
		}
		ctx := controltest.As(b.Context(), "ann", "")
		for range b.N {
			on := map[stacyvm.WorkerID]int{}
			var mu sync.Mutex
			began, used := time.Now(), processorTime()
			spread(creates, benchClients, func(i int) {
				sandbox, _, err := planes[i%benchPlanes].Create(ctx, control.CreateRequest{}, control.Idempotency{})
				if err != nil {
					b.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				on[sandbox.WorkerID]++
			})
			took, spent := time.Since(began), processorTime()-used
			var loads []int
			for i := range benchWorkers {
				loads = append(loads, on[benchWorker(i).ID])
			}
			mean := float64(creates) / benchWorkers
			worst := max(float64(slices.Max(loads))-mean, mean-float64(slices.Min(loads))) / mean
			b.Logf("%d to %d sandboxes on a worker", slices.Min(loads), slices.Max(loads))
			b.ReportMetric(creates/took.Seconds(), "creates/s")
			b.ReportMetric(100*worst, "worst-imbalance-%")
			b.ReportMetric(float64(spent.Microseconds())/creates, "cpu-µs/create")
		}
	})
}

// BenchmarkMembership does what 1,000 workers with 50 sandboxes each ask of a control plane's
// store in one round: a heartbeat, and a renewal of all leases. It reports which part of one core
// the control plane's process spends when rounds come as often as they do: heartbeats and renewals
// every 10 s.
func BenchmarkMembership(b *testing.B) {
	benchStores(b, func(b *testing.B, stores []store.Store) {
		const each = 50
		benchRegister(b, stores[0])
		held := make([][]store.Held, benchWorkers)
		spread(benchWorkers, 8, func(i int) {
			w := benchWorker(i)
			controltest.Update(b, stores[0], func(tx store.Tx) error {
				held[i] = nil
				for range each {
					lease, err := benchSandbox(b, tx, w)
					if err != nil {
						return err
					}
					held[i] = append(held[i], store.Held{Resource: lease.Resource, Epoch: lease.Epoch})
				}
				return nil
			})
		})
		b.ResetTimer()
		used := processorTime()
		for range b.N {
			spread(benchWorkers, 16, func(i int) { benchRound(b, stores[i%benchPlanes], benchWorker(i), held[i]) })
		}
		spent := processorTime() - used
		b.ReportMetric(100*spent.Seconds()/float64(b.N)/stacyvm.LeaseRenewEvery.Seconds(), "core-%")
	})
}

func benchSandbox(b *testing.B, tx store.Tx, w stacyvm.Worker) (stacyvm.Lease, error) {
	id := stacyvm.NewSandboxID()
	_, err := tx.Sandboxes().Insert(b.Context(), stacyvm.Sandbox{
		ID: id, State: stacyvm.StateRunning, WorkerID: w.ID, Spec: stacyvm.Spec{MemoryMB: 1024, VCPUs: 1, TTL: time.Hour},
	})
	if err != nil {
		return stacyvm.Lease{}, err
	}
	return tx.Leases().Acquire(b.Context(), store.LeaseRequest{Resource: string(id), Type: "sandbox", Holder: w.ID, Session: w.Session, TTL: time.Hour})
}

func benchRound(b *testing.B, s store.Store, w stacyvm.Worker, held []store.Held) {
	err := s.Update(b.Context(), func(tx store.Tx) error {
		_, err := tx.Workers().Save(b.Context(), w)
		return err
	})
	if err != nil {
		b.Error(err)
	}
	err = s.Update(b.Context(), func(tx store.Tx) error {
		renewed, err := tx.Leases().Renew(b.Context(), w.ID, w.Session, held, time.Hour)
		if len(renewed) != len(held) {
			b.Errorf("%d of %d renewed", len(renewed), len(held))
		}
		return err
	})
	if err != nil {
		b.Error(err)
	}
}
