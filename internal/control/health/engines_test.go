package health_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// otherEngine is a worker that has another engine than the harness's.
type otherEngine struct {
	*controltest.Worker
	asked atomic.Int64
	fail  error
}

func (o *otherEngine) Providers(context.Context) ([]worker.Provider, error) {
	o.asked.Add(1)
	p := worker.Provider{Name: "strong", Default: true}
	p.Capabilities.Usable, p.Capabilities.Isolates = true, true
	return []worker.Provider{p}, o.fail
}

// TestEnginesOfOtherMachines: a server has the engines of its own worker and of those that it can
// call; without a worker of its own it is ready when one of those has an engine that works.
func TestEnginesOfOtherMachines(t *testing.T) {
	tests := []struct {
		name    string
		own     bool
		away    stacyvm.Worker
		fail    error
		healthy []string
	}{
		{"alone", false, stacyvm.Worker{}, nil, nil},
		{"own worker and another", true, stacyvm.Worker{Status: "online"}, nil, []string{"mock", "strong"}},
		{"no own worker", false, stacyvm.Worker{Status: "online"}, nil, []string{"strong"}},
		{"one that drains", false, stacyvm.Worker{Status: "draining"}, nil, nil},
		{"one that does not answer", false, stacyvm.Worker{Status: "online"}, stacyvm.Errorf(stacyvm.CodeUnavailable, "gone"), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, here, away := controltest.OpenStore(t), controltest.NewWorker(), &otherEngine{Worker: controltest.NewWorker(), fail: tt.fail}
			if tt.away.Status != "" {
				tt.away.ID, tt.away.Providers, tt.away.Capacity.RPCURL = "away", []string{"strong"}, "http://away:1"
				controltest.Update(t, s, func(tx store.Tx) error { _, err := tx.Workers().Save(t.Context(), tt.away); return err })
			}
			service := controltest.NewService(t, s, here, func(c *control.Config) {
				c.Workers = func(id stacyvm.WorkerID) (worker.Worker, error) {
					switch {
					case id == controltest.Self && tt.own:
						return here, nil
					case id == "away":
						return away, nil
					}
					return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "not registered")
				}
			})
			for range 2 {
				readiness := service.Readiness(t.Context())
				var healthy []string
				for _, p := range readiness.Providers {
					if p.Healthy {
						healthy = append(healthy, p.Name)
					}
				}
				if !readiness.Ready || readiness.Alone == tt.own || !slices.Equal(healthy, tt.healthy) {
					t.Errorf("ready %v, healthy %v", readiness.Ready, healthy)
				}
			}
			if asked := away.asked.Load(); asked > 1 {
				t.Errorf("the worker was asked %d times", asked)
			}
		})
	}
}
