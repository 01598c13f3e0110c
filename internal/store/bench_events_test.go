package store_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// BenchmarkEvents has 8 clients append events, each in a transaction of its own, until a
// subscriber has all of them.
func BenchmarkEvents(b *testing.B) {
	benchEachDriver(b, func(b *testing.B, s store.Store) {
		woken := s.Watch(b.Context())
		b.ResetTimer()
		var left atomic.Int64
		left.Store(int64(b.N))
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				for left.Add(-1) >= 0 {
					err := s.Update(b.Context(), func(tx store.Tx) error {
						return tx.Events().Append(b.Context(), []stacyvm.Event{{Kind: stacyvm.KindExecStarted, TenantID: "acme"}})
					})
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		for seen, place := 0, int64(0); seen < b.N && !b.Failed(); {
			var page []stacyvm.Event
			err := s.View(b.Context(), func(tx store.Tx) (err error) {
				page, err = tx.Events().List(b.Context(), store.EventFilter{After: place})
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			if len(page) == 0 {
				<-woken
				continue
			}
			seen, place = seen+len(page), page[len(page)-1].Number
		}
		wait.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		reportSync(b)
	})
}
