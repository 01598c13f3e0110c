package guest_test

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stacyvm/stacyvm/internal/guest"
)

// blocked gives some bytes and then waits.
type blocked struct {
	once    sync.Once
	reached chan<- struct{}
	release <-chan struct{}
}

func (b *blocked) Read(p []byte) (n int, err error) {
	b.once.Do(func() { n = copy(p, "begun") })
	if n > 0 {
		return n, nil
	}
	b.reached <- struct{}{}
	<-b.release
	return 0, io.ErrUnexpectedEOF
}

// TestTransfersThatStandStillHoldLittle measures uploads whose client sends nothing and downloads
// that nobody reads. It counts what both sides hold, as they are one process here.
func TestTransfersThatStandStillHoldLittle(t *testing.T) {
	const transfers = 64
	s := newSandbox(t, "a secret that is long enough for tests")
	c := s.client(guest.ScopeFiles)
	if err := os.WriteFile(filepath.Join(s.root, "large"), make([]byte, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	before := heap()
	reached, release := make(chan struct{}, transfers), make(chan struct{})
	var uploads sync.WaitGroup
	for range transfers {
		uploads.Go(func() { _, _ = c.WriteFile(t.Context(), "/up", 0, "", &blocked{reached: reached, release: release}) })
	}
	for range transfers {
		<-reached
	}
	if each := (heap() - before) / transfers; each > 96<<10 {
		t.Errorf("an upload that waits for its client holds %d KiB", each>>10)
	} else {
		t.Logf("an upload holds %d KiB", each>>10)
	}
	close(release)
	uploads.Wait()
	before = heap()
	for range transfers {
		_, body, err := c.ReadFile(t.Context(), "/large")
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
	}
	settled := heap()
	for last := int64(0); settled != last; { // the guest sends as much as the windows take
		last = settled
		for range 100 {
			runtime.Gosched()
		}
		settled = heap()
	}
	if each := (settled - before) / transfers; each > 400<<10 {
		t.Errorf("a download that nobody reads holds %d KiB", each>>10)
	} else {
		t.Logf("a download holds %d KiB", each>>10)
	}
}

// heap is what is in use.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
