package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// benchEachDriver runs a benchmark on an empty database of each driver that is there.
func benchEachDriver(b *testing.B, run func(*testing.B, store.Store)) {
	for _, name := range []string{"sqlite", "postgres"} {
		b.Run("driver="+name, func(b *testing.B) { run(b, open(b, drivers[name](b))) })
	}
}

// reportSync measures what bounds every durable write: a small write with its sync, in the
// directory for temporary files. It reports the middle of several.
func reportSync(b *testing.B) {
	b.Helper()
	file, err := os.Create(filepath.Join(b.TempDir(), "sync"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	took := make([]time.Duration, 31)
	for i := range took {
		began := time.Now()
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			b.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "disk-sync-µs")
}

// aSandbox is a row of ordinary size.
func aSandbox() stacyvm.Sandbox {
	spec := stacyvm.Spec{
		Image: "host", Provider: "gvisor", MemoryMB: 1024, VCPUs: 1, DiskMB: 1024, TTL: time.Hour, Network: stacyvm.NetworkNone,
		Env: map[string]string{"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
	}
	return stacyvm.Sandbox{
		ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning, Provider: "gvisor", Image: "host",
		Spec: spec, OwnerID: "ann", TenantID: "acme", WorkerID: "w", Fence: stacyvm.Fence{Incarnation: 1},
		Metadata: map[string]string{"purpose": "benchmark"},
	}
}

// create is what a create writes: the row, its lease and the audit line.
func create(b *testing.B, s store.Store) stacyvm.Sandbox {
	row, ctx := aSandbox(), b.Context()
	err := s.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Sandboxes().Insert(ctx, row); err != nil {
			return err
		}
		_, err := tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: string(row.ID), Type: "sandbox", Holder: "w", Session: "s", TTL: time.Hour})
		if err != nil {
			return err
		}
		return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{{Actor: "ann", Action: "sandbox.spawn", SandboxID: row.ID, Status: "ok", TenantID: "acme"}})
	})
	if err != nil {
		b.Fatal(err)
	}
	return row
}

func fill(b *testing.B, s store.Store, n int) []stacyvm.Sandbox {
	b.Helper()
	rows := make([]stacyvm.Sandbox, n)
	var next atomic.Int64
	var wait sync.WaitGroup
	for range 64 {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				rows[i] = create(b, s)
			}
		})
	}
	wait.Wait()
	return rows
}

func BenchmarkCreate(b *testing.B) {
	for _, clients := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			benchEachDriver(b, func(b *testing.B, s store.Store) { benchmarkCreate(b, s, clients) })
		})
	}
}

func benchmarkCreate(b *testing.B, s store.Store, clients int) {
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var wait sync.WaitGroup
	b.ResetTimer()
	for range clients {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				began := time.Now()
				create(b, s)
				took[i] = time.Since(began)
			}
		})
	}
	wait.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	reportSync(b)
}

func BenchmarkGet(b *testing.B) {
	benchEachDriver(b, func(b *testing.B, s store.Store) {
		rows := fill(b, s, 10_000)
		b.ResetTimer()
		for i := range b.N {
			err := s.View(b.Context(), func(tx store.Tx) error {
				_, err := tx.Sandboxes().Get(b.Context(), rows[i%len(rows)].ID)
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPage reads a page of 100 from the middle of 10,000.
func BenchmarkPage(b *testing.B) {
	benchEachDriver(b, func(b *testing.B, s store.Store) {
		fill(b, s, 10_000)
		page := func(page store.Page) (rows []stacyvm.Sandbox) {
			err := s.View(b.Context(), func(tx store.Tx) (err error) {
				rows, err = tx.Sandboxes().List(b.Context(), store.SandboxFilter{Page: page})
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			return rows
		}
		half := page(store.Page{Limit: 5000})
		last := half[len(half)-1]
		behind := store.Page{Limit: 100, After: store.Cursor{CreatedAt: last.CreatedAt, ID: string(last.ID)}}
		b.ResetTimer()
		for range b.N {
			if rows := page(behind); len(rows) != 100 {
				b.Fatalf("a page of %d", len(rows))
			}
		}
	})
}

// BenchmarkRenew renews 1,000 of 10,000 leases in one call.
func BenchmarkRenew(b *testing.B) {
	benchEachDriver(b, func(b *testing.B, s store.Store) {
		var held []store.Held
		for _, row := range fill(b, s, 10_000)[:1000] {
			held = append(held, store.Held{Resource: string(row.ID), Epoch: 1})
		}
		b.ResetTimer()
		for range b.N {
			err := s.Update(b.Context(), func(tx store.Tx) error {
				renewed, err := tx.Leases().Renew(b.Context(), "w", "s", held, time.Hour)
				if len(renewed) != len(held) {
					b.Errorf("%d renewed", len(renewed))
				}
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		reportSync(b)
	})
}
