package health_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/control/health"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// report asks for one and demands the problems: words of each, in any order.
func (r *rig) report(t *testing.T, ctx context.Context, problems ...string) health.Report {
	t.Helper()
	report, err := r.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range report.Problems {
		text := strings.TrimSpace(p.About+" "+p.Name) + ": " + p.Detail
		got = append(got, text)
		if p.Fix == "" {
			t.Errorf("nothing to do about %s", text)
		}
	}
	for _, words := range problems {
		i := slices.IndexFunc(got, func(text string) bool { return strings.Contains(text, words) })
		if i < 0 {
			t.Errorf("no problem says %q: %q", words, got)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) > 0 {
		t.Errorf("more problems: %q", got)
	}
	return report
}

// died writes that a sandbox ended.
func (r *rig) died(t *testing.T, sandbox stacyvm.Sandbox, reason stacyvm.Reason) {
	t.Helper()
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		_, err := tx.Sandboxes().Apply(t.Context(), sandbox.ID, sandbox.Fence, store.Change{State: stacyvm.StateError, Cause: &stacyvm.Cause{Reason: reason}})
		return err
	})
}

// TestReport tells what is wrong now, and what went wrong, as often as it did.
func TestReport(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	if report := r.report(t, r.Ctx); len(report.Unwell)+len(report.Happened) > 0 || !report.Known {
		t.Errorf("at first: %+v", report)
	}
	boxes := []stacyvm.Sandbox{r.MustCreate(t), r.MustCreate(t), r.MustCreate(t), r.MustCreate(t)}
	r.died(t, boxes[0], stacyvm.ReasonKilled)
	r.died(t, boxes[1], stacyvm.ReasonLost)
	r.died(t, boxes[2], stacyvm.ReasonLost)
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		return tx.Events().Append(t.Context(), []stacyvm.Event{
			{Kind: stacyvm.KindExecCompleted, SandboxID: boxes[3].ID, Data: map[string]any{"reason": "oom"}},
			{Kind: stacyvm.KindExecCompleted, SandboxID: boxes[3].ID, Data: map[string]any{}},
		})
	})
	report := r.report(t, r.Ctx, "3 are not well: 1 killed, 2 lost")
	if report.Sandboxes[stacyvm.StateError] != 3 || report.Sandboxes[stacyvm.StateRunning] != 1 || len(report.Unwell) != 3 {
		t.Errorf("counted %v, named %d", report.Sandboxes, len(report.Unwell))
	}
	counts := map[string]int{}
	for _, h := range report.Happened {
		reason, _ := h.Data["reason"].(string)
		counts[string(h.Kind)+" "+reason] = h.Count
	}
	if len(counts) != 3 || counts["sandbox.error lost"] != 2 || counts["sandbox.error killed"] != 1 || counts["exec.completed oom"] != 1 {
		t.Errorf("happened: %v", counts)
	}
	other := controltest.As(t.Context(), "bob", "other")
	if report := r.report(t, other); len(report.Sandboxes)+len(report.Unwell)+len(report.Happened) > 0 {
		t.Errorf("another tenant is told %+v", report)
	}
	_, err := r.Report(auth.With(t.Context(), stacyvm.Principal{}))
	wantCode(t, err, stacyvm.CodeForbidden)
}

// TestReportOfWorkers: one that does not answer, one with a full disk, one that an operator has
// drained. Their restarts and problems are told as events, once.
func TestReportOfWorkers(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	beat := func(id stacyvm.WorkerID, session string, change func(*cluster.Beat)) {
		t.Helper()
		b := cluster.Beat{Worker: stacyvm.Worker{ID: id, Hostname: "host", Session: session, Status: "online", Providers: []string{"mock"}}}
		if change != nil {
			change(&b)
		}
		_, err := r.Heartbeat(auth.With(t.Context(), auth.WorkerIdentity{WorkerID: id, Scopes: auth.WorkerScopes()}.Principal()), b)
		wantCode(t, err, "")
	}
	register := func(b *cluster.Beat) { b.Register = true }
	full := func(b *cluster.Beat) { b.Problems = []string{"the disk is full"} }
	beat("w1", "first", register)
	beat("w1", "first", func(b *cluster.Beat) { b.Capacity.RPCURL = "http://10.0.0.7:1" })
	beat("w2", "first", register)
	beat("w2", "first", full)
	beat("w2", "first", full)
	r.report(t, r.Ctx, "worker w1: it does not answer", "worker w2: the disk is full")
	beat("w2", "first", nil)
	beat("w1", "second", register)
	beat("w2", "first", func(b *cluster.Beat) { b.Status = "draining" })
	r.report(t, r.Ctx, "worker w2: it is draining")
	beat("w2", "second", register)
	report := r.report(t, r.Ctx)
	var told []string
	for _, h := range report.Happened {
		text := string(h.Kind) + " " + h.Data["worker_id"].(string)
		if detail, _ := h.Data["detail"].(string); strings.Contains(detail, "without a word") {
			text += " killed"
		}
		for range h.Count {
			told = append(told, text)
		}
	}
	slices.Sort(told)
	want := []string{"worker.problem w2", "worker.recovered w2", "worker.started w1", "worker.started w1 killed", "worker.started w2", "worker.started w2"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}

// TestOutageIsTold: while the store does not answer the report says so and since when, and
// readiness does; when it answers again, two events tell of it.
func TestOutageIsTold(t *testing.T) { synctest.Test(t, outageIsTold) }

func outageIsTold(t *testing.T) {
	var away, full atomic.Bool
	gone := func(context.Context) error {
		if away.Load() {
			return stacyvm.Wrap(stacyvm.CodeUnavailable, errors.New("dial"), "the database's connection ended")
		}
		return nil
	}
	faulty := &controltest.FaultStore{Store: controltest.OpenSQLite(t), BeforePing: gone, BeforeUpdate: gone, BeforeView: gone}
	r := &rig{controltest.NewRigOn(t, faulty, func(c *control.Config) {
		c.Problems = func() []string {
			if full.Load() {
				return []string{"no room"}
			}
			return nil
		}
	})}
	r.report(t, r.Ctx)
	time.Sleep(10 * time.Second)
	away.Store(true)
	began := time.Now()
	time.Sleep(10 * time.Second)
	report := r.report(t, r.Ctx, "database: it does not answer: the database's connection ended")
	if since := report.Problems[0].Since.Sub(began); report.Known || since < 0 || since > 3*time.Second {
		t.Errorf("known %v, since %v after its end", report.Known, since)
	}
	if ready := r.Readiness(t.Context()); ready.Ready || len(ready.Problems) != 1 {
		t.Errorf("ready: %+v", ready)
	}
	time.Sleep(time.Minute)
	away.Store(false)
	time.Sleep(10 * time.Second)
	full.Store(true)
	time.Sleep(10 * time.Second)
	r.report(t, r.Ctx, "disk here: no room")
	full.Store(false)
	time.Sleep(10 * time.Second)
	report = r.report(t, r.Ctx)
	var told []string
	for _, h := range report.Happened {
		told = append(told, string(h.Kind)+" "+h.Data["about"].(string))
		if h.Count != 1 {
			t.Errorf("%s came %d times", h.Kind, h.Count)
		}
		if h.Kind == stacyvm.KindServerProblem && h.Data["about"] == "database" && h.Last.Sub(began).Abs() > 3*time.Second {
			t.Errorf("an outage of %s is told as of %s", began, h.Last)
		}
	}
	want := []string{"server.recovered disk", "server.problem disk", "server.recovered database", "server.problem database"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
