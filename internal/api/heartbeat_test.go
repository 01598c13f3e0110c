package api

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// page collects an answer.
type page struct {
	http.ResponseWriter // nil: only what is below is used
	mu                  sync.Mutex
	text                strings.Builder
}

func (p *page) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(text)
}

func (p *page) FlushError() error { return nil }

func (p *page) read() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// TestEventStreamsBeat has three quarters of a minute of silence, and then somebody else's event:
// the place moves on.
func TestEventStreamsBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := controltest.OpenStore(t)
		service := controltest.NewService(t, s, controltest.NewWorker(), nil)
		ctx, stop := context.WithCancel(controltest.As(t.Context(), "ann", "acme"))
		subscription, err := service.Events(ctx, audit.Latest)
		if err != nil {
			t.Fatal(err)
		}
		defer subscription.Close()
		answer := &page{}
		var running sync.WaitGroup
		running.Go(func() {
			if err := (eventStream{answer, http.NewResponseController(answer), subscription, true}).copy(ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(46 * time.Second)
		if text := answer.read(); text != strings.Repeat(":\nid: evt-0\n\n", 4) {
			t.Errorf("in 46 s of silence: %q", text)
		}
		controltest.Update(t, s, func(tx store.Tx) error {
			return tx.Events().Append(t.Context(), []stacyvm.Event{{Kind: stacyvm.KindExecStarted, TenantID: "other"}})
		})
		time.Sleep(15 * time.Second)
		if text := answer.read(); !strings.HasSuffix(text, "evt-0\n\n:\nid: evt-1\n\n") {
			t.Errorf("after another's event: %q", text)
		}
		stop()
		running.Wait()
	})
}
