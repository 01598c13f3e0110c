package coalesce

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// TestGroup holds up the first batch: what comes meanwhile is done in as few as may be, in its order.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		var batches [][]int
		g := NewGroup(3, func(batch []int) {
			batches = append(batches, batch) // one at a time
			<-goOn
		})
		var callers sync.WaitGroup
		for i := range 8 {
			callers.Go(func() { g.Do(i) })
			synctest.Wait()
		}
		close(goOn)
		callers.Wait()
		want := [][]int{{0}, {1, 2, 3}, {4, 5, 6}, {7}}
		if !slices.EqualFunc(batches, want, slices.Equal[[]int]) {
			t.Errorf("batches %v, want %v", batches, want)
		}
		g.Do(8)
		if last := batches[len(batches)-1]; !slices.Equal(last, []int{8}) {
			t.Errorf("the last batch is %v", last)
		}
	})
}

// TestGroupAfterAPanic: whoever waited beside a batch that panicked goes on.
func TestGroupAfterAPanic(t *testing.T) {
	done := 0
	g := NewGroup(1, func(batch []int) {
		if batch[0] == 0 {
			panic("on purpose")
		}
		done++
	})
	func() {
		defer func() { _ = recover() }()
		g.Do(0)
	}()
	if g.Do(1); done != 1 {
		t.Errorf("%d done", done)
	}
}

// TestGroupUnderLoad is for the race detector: each item is done once.
func TestGroupUnderLoad(t *testing.T) {
	var mu sync.Mutex
	done := map[int]int{}
	g := NewGroup(4, func(batch []int) {
		mu.Lock()
		defer mu.Unlock()
		for _, i := range batch {
			done[i]++
		}
	})
	var callers sync.WaitGroup
	for i := range 500 {
		callers.Go(func() { g.Do(i) })
	}
	callers.Wait()
	for i := range 500 {
		if done[i] != 1 {
			t.Errorf("%d was done %d times", i, done[i])
		}
	}
}
