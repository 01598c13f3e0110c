package health

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// reportWithin bounds the store's part of a report, and reportAsks the question to each
	// worker, so that both stay below ten seconds together.
	reportWithin = 3 * time.Second
	reportAsks   = 4 * time.Second
	// reportAtOnce is how many workers are asked at a time.
	reportAtOnce = 64
	// reportUnwell and reportHappened are how many entries a report has at most, reportSandboxes
	// and reportEvents how many sandboxes and events are looked at for them.
	reportUnwell    = 20
	reportSandboxes = 1000
	reportHappened  = 20
	reportEvents    = 2000
)

// Report is how the whole installation is, and what went wrong with it lately.
type Report struct {
	Problems []Problem // what is wrong now; none: all is well
	// Known: the store answered. Without it Workers is what this process remembers, and the rest
	// is empty.
	Known     bool
	Workers   []WorkerReport
	Sandboxes map[stacyvm.State]int  // of the caller; states without any are left out
	Reasons   map[stacyvm.Reason]int // of those that are unhealthy or in error, of the newest thousand
	Unwell    []stacyvm.Sandbox      // those that have been so for the shortest time
	Happened  []Happening            // newest first
}

// Problem is one thing that is wrong now, and what to do about it.
type Problem struct {
	About  string    // server, database, disk, worker, engine, audit, sandboxes
	Name   string    // of the worker or engine
	Since  time.Time // when it began, or the last good sign came; zero: not known
	Detail string
	Fix    string
}

// WorkerReport is a worker and whether it answered just now.
type WorkerReport struct {
	cluster.Worker
	Asked   bool // it can be called from here, and was
	Answers bool
	Error   string   // why it does not answer
	Engines []string // those that do not work, and why
	Lapsed  int      // leases of its sandboxes that have run out
}

// Happening is one kind of event that told of a fault, as often as it came for the same reason.
type Happening struct {
	Kind        stacyvm.Kind
	Count       int
	First, Last time.Time
	SandboxID   stacyvm.SandboxID // of the last one
	Data        map[string]any    // of the last one
}

// faultKinds tell that something went wrong, or is well again; oomKinds do when their reason is
// that memory ran out.
var (
	faultKinds = []stacyvm.Kind{
		stacyvm.KindSandboxError, stacyvm.KindSandboxUnhealthy, stacyvm.KindProviderFailed,
		stacyvm.KindServerProblem, stacyvm.KindServerRecovered,
		stacyvm.KindWorkerStarted, stacyvm.KindWorkerProblem, stacyvm.KindWorkerRecovered,
	}
	oomKinds = []stacyvm.Kind{stacyvm.KindExecCompleted, stacyvm.KindExecTimeout, stacyvm.KindExecFailed}
)

// Report asks everything that can be asked within a few seconds. A part that does not answer is a
// problem in it and no error.
func (m *Monitor) Report(ctx context.Context) (Report, error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadSandboxes); err != nil {
		return Report{}, err
	}
	r := Report{Sandboxes: map[stacyvm.State]int{}}
	asking, cancel := context.WithTimeout(ctx, reportWithin)
	defer cancel()
	err := m.store.View(asking, func(tx store.Tx) error { return m.readReport(asking, tx, caller.Tenant, &r) })
	if r.Known = err == nil; !r.Known {
		r = Report{Workers: m.remembered()}
	}
	m.askWorkers(ctx, r.Workers)
	m.judge(&r, err)
	return r, nil
}

// readReport reads the store's part.
func (m *Monitor) readReport(ctx context.Context, tx store.Tx, tenant string, r *Report) error {
	workers, err := tx.Workers().List(ctx, store.Page{})
	if err != nil {
		return err
	}
	statuses, err := cluster.Judge(ctx, tx, workers...)
	if err != nil {
		return err
	}
	r.Workers = make([]WorkerReport, len(statuses))
	lapsed, err := tx.Leases().Lapsed(ctx)
	if err != nil {
		return err
	}
	for i, status := range statuses {
		r.Workers[i] = WorkerReport{Worker: status, Lapsed: lapsed[status.ID]}
	}
	for _, state := range stacyvm.States {
		if state == stacyvm.StateDestroyed {
			continue
		}
		n, err := tx.Sandboxes().Count(ctx, store.SandboxFilter{Tenant: tenant, States: []stacyvm.State{state}})
		if err != nil {
			return err
		}
		if n > 0 {
			r.Sandboxes[state] = n
		}
	}
	unwell := store.SandboxFilter{
		Tenant: tenant, States: []stacyvm.State{stacyvm.StateUnhealthy, stacyvm.StateError},
		Page: store.Page{Limit: reportSandboxes},
	}
	if r.Unwell, err = tx.Sandboxes().List(ctx, unwell); err != nil {
		return err
	}
	r.Reasons = map[stacyvm.Reason]int{}
	for _, sandbox := range r.Unwell {
		r.Reasons[sandbox.Reason]++
	}
	slices.SortStableFunc(r.Unwell, func(a, b stacyvm.Sandbox) int { return b.Since.Compare(a.Since) })
	r.Unwell = r.Unwell[:min(reportUnwell, len(r.Unwell))]
	faults, err := tx.Events().Recent(ctx, store.RecentFilter{Tenant: tenant, Kinds: faultKinds, Limit: reportEvents})
	if err != nil {
		return err
	}
	oom, err := tx.Events().Recent(ctx, store.RecentFilter{
		Tenant: tenant, Kinds: oomKinds, Reason: string(stacyvm.ReasonOOM), Limit: reportEvents,
	})
	r.Happened = grouped(slices.Concat(faults, oom))
	return err
}

// grouped makes one entry of events that say the same of the same worker or server, and gives the
// newest.
func grouped(events []stacyvm.Event) []Happening {
	found := map[string]*Happening{}
	for _, n := range events {
		var key strings.Builder
		key.WriteString(string(n.Kind))
		same := []string{"reason", "code", "worker_id", "server", "about"}
		if n.Kind == stacyvm.KindWorkerStarted { // in order, or after a crash
			same = append(same, "detail")
		}
		for _, of := range same {
			fmt.Fprintf(&key, "\x00%v", n.Data[of])
		}
		h := found[key.String()]
		if h == nil {
			h = &Happening{Kind: n.Kind, First: n.CreatedAt}
			found[key.String()] = h
		}
		h.Count++
		if n.CreatedAt.Before(h.First) {
			h.First = n.CreatedAt
		}
		if h.Count == 1 || n.CreatedAt.After(h.Last) {
			h.Last, h.SandboxID, h.Data = n.CreatedAt, n.SandboxID, n.Data
		}
	}
	all := make([]Happening, 0, len(found))
	for _, h := range found {
		all = append(all, *h)
	}
	slices.SortFunc(all, func(a, b Happening) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Kind, b.Kind))
	})
	return all[:min(reportHappened, len(all))]
}

// remembered reports the workers that this process knows of without the store.
func (m *Monitor) remembered() (workers []WorkerReport) {
	for _, w := range m.placement.Remembered() {
		workers = append(workers, WorkerReport{Worker: cluster.Worker{Worker: w}})
	}
	return workers
}

// askWorkers asks each worker that can be called whether it is there.
func (m *Monitor) askWorkers(ctx context.Context, workers []WorkerReport) {
	ctx, cancel := context.WithTimeout(ctx, reportAsks)
	defer cancel()
	turns := make(chan struct{}, reportAtOnce)
	var asking sync.WaitGroup
	for i := range workers {
		w := &workers[i]
		if w.Capacity.RPCURL == "" && w.ID != m.self {
			continue // in another server, which alone reaches it
		}
		asking.Go(func() {
			select {
			case turns <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-turns }()
			m.askWorker(ctx, w)
		})
	}
	asking.Wait()
}

// askWorker asks one worker. Where looking its address up has taken all the time, because the
// store is silent, it was not asked.
func (m *Monitor) askWorker(ctx context.Context, w *WorkerReport) {
	var providers []worker.Provider
	called, err := m.workers(w.ID)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		providers, err = called.Providers(ctx)
	}
	if err != nil && ctx.Err() != nil {
		err = stacyvm.Wrap(stacyvm.CodeUnavailable, err, fmt.Sprintf("no answer within %s", reportAsks))
	}
	w.Asked, w.Answers = true, err == nil
	if err != nil {
		w.Error = messageOf(err)
	}
	for _, p := range providers {
		if status := m.status(p); !status.Healthy {
			w.Engines = append(w.Engines, p.Name+": "+status.Error)
		}
	}
}

// makeRoom is what to do about a full disk.
const makeRoom = "make room there: `stacyvm doctor` on that machine names the largest sandboxes"

// judge says what is wrong; err is why the store gave nothing.
func (m *Monitor) judge(r *Report, err error) {
	add := func(about, name string, since time.Time, detail, fix string) {
		r.Problems = append(r.Problems, Problem{about, name, since, detail, fix})
	}
	away, full := m.outages.present()
	if err != nil {
		if away.IsZero() {
			away = time.Now()
		}
		add("database", "", away, "it does not answer: "+messageOf(err),
			"look at the database; running commands go on, and the server comes back by itself")
	} else if !m.recovered() {
		add("server", string(m.self), time.Time{}, "it compares its records with the machine after its start",
			"wait; its log says what holds it up")
	}
	for _, problem := range m.problems() {
		add("disk", string(m.self), full, problem, makeRoom)
	}
	if n := m.audit.Dropped(); n > 0 {
		add("audit", string(m.self), time.Time{}, fmt.Sprintf("%d audit lines are in the log alone", n),
			"look for `an audit line is lost` in the server's log")
	}
	for i := range r.Workers {
		for _, p := range r.Workers[i].problems(r.Happened) {
			add("worker", string(r.Workers[i].ID), p.Since, p.Detail, p.Fix)
		}
	}
	if broken := r.Sandboxes[stacyvm.StateUnhealthy] + r.Sandboxes[stacyvm.StateError]; broken > 0 {
		add("sandboxes", "", time.Time{}, fmt.Sprintf("%d are not well: %s", broken, reasonsOf(r.Reasons)),
			"docs/operations.md, \"Why a sandbox is not well\", says what each reason means")
	}
}

// problems says what is wrong with a worker; since when its machine has a problem is in what
// happened.
func (w *WorkerReport) problems(happened []Happening) (found []Problem) {
	switch {
	case w.Asked && !w.Answers:
		found = append(found, Problem{Since: w.LastHeartbeat, Detail: "it does not answer: " + w.Error,
			Fix: "look at the machine and start the worker there; its sandboxes come back when it runs"})
	case w.Stale:
		found = append(found, Problem{Since: w.LastHeartbeat, Detail: "it sends no heartbeat",
			Fix: "look at the machine and its way to the control plane"})
	case w.Status != stacyvm.WorkerOnline && !w.Capacity.Drained:
		found = append(found, Problem{Since: w.UpdatedAt, Detail: "it is " + string(w.Status),
			Fix: "its log says why; `stacyvm doctor` on that machine says what does not work"})
	case w.Lapsed > 0:
		const lapsed = "the leases of %d sandboxes have run out: calls for them are refused until it has renewed them"
		found = append(found, Problem{Detail: fmt.Sprintf(lapsed, w.Lapsed),
			Fix: "wait a few seconds; then look whether it reaches the control plane"})
	}
	for _, engine := range w.Engines {
		found = append(found, Problem{Detail: "an engine does not work: " + engine,
			Fix: "`stacyvm doctor` on that machine says what to do"})
	}
	since := time.Time{}
	if i := slices.IndexFunc(happened, func(h Happening) bool {
		return h.Kind == stacyvm.KindWorkerProblem && h.Data["worker_id"] == string(w.ID)
	}); i >= 0 {
		since = happened[i].Last
	}
	for _, problem := range w.Problems {
		found = append(found, Problem{Since: since, Detail: problem, Fix: makeRoom})
	}
	return found
}

// reasonsOf lists reasons with their numbers.
func reasonsOf(counts map[stacyvm.Reason]int) string {
	var parts []string
	for _, reason := range stacyvm.Reasons {
		if n := counts[reason]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, reason))
		}
	}
	return strings.Join(parts, ", ")
}
