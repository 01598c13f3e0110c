package api_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
)

// TestWorkerSelector asks for a label that no worker has: nothing is made, waiting would not help,
// and the admission says why.
func TestWorkerSelector(t *testing.T) {
	f := start(t, nil, func(c *control.Config) {
		c.Defaults.SpawnQueue, c.Defaults.SpawnQueueTimeout = true, time.Hour
	})
	const body = `{"worker_selector":{"zone":"a"}}`
	if r := f.do("POST", "/api/v1/sandboxes", body); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("%d %s", r.StatusCode, r.text)
	}
	var a struct {
		Allowed, Queueable bool
		Reason             string
		WorkerReason       string `json:"worker_reason"`
		Eligible           *int   `json:"eligible_workers"`
	}
	f.do("POST", "/api/v1/sandboxes/admission?detail=placement", body).into(t, &a)
	if a.Allowed || a.Queueable || a.Reason != "worker_unavailable" || a.WorkerReason == "" || a.Eligible == nil || *a.Eligible != 0 {
		t.Errorf("%+v", a)
	}
	if r := f.do("POST", "/api/v1/sandboxes", `{"worker_selector":{"":"a"}}`); r.StatusCode != http.StatusBadRequest {
		t.Errorf("%d %s", r.StatusCode, r.text)
	}
}

// TestQueueableIsTold has as many sandboxes as there may be, on a server whose creates wait, and
// on one whose creates do not.
func TestQueueableIsTold(t *testing.T) {
	for _, queues := range []bool{true, false} {
		f := start(t, nil, func(c *control.Config) {
			c.Defaults.MaxSandboxes, c.Defaults.SpawnQueue, c.Defaults.SpawnQueueTimeout = 1, queues, time.Hour
		})
		if r := f.do("POST", "/api/v1/sandboxes", `{}`); r.StatusCode != http.StatusCreated {
			t.Fatalf("%d %s", r.StatusCode, r.text)
		}
		var a struct {
			Allowed, Queueable bool
			Reason             string
		}
		f.do("POST", "/api/v1/sandboxes/admission", `{}`).into(t, &a)
		if a.Allowed || a.Queueable != queues || a.Reason != "max_sandboxes" {
			t.Errorf("%+v, want queueable %v", a, queues)
		}
	}
}
