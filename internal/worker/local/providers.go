package local

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// probeKept is how long a probe's result counts, and failureKept how long a failed one.
	probeKept   = 30 * time.Second
	failureKept = time.Second
	// probeWithin bounds a probe, which may make a trial sandbox.
	probeWithin = time.Minute
)

// Providers implements worker.Worker. A result counts for half a minute. A probe that takes longer
// than the caller waits goes on by itself.
func (w *Worker) Providers(ctx context.Context) ([]worker.Provider, error) {
	if err := w.enter(); err != nil {
		return nil, err
	}
	defer w.work.Done()
	ctx, cancel := w.whileOpen(ctx)
	defer cancel()
	counts := map[string]int{}
	for _, b := range w.all() {
		if r := b.current(); r != nil && r.Phase == phaseRunning {
			counts[r.Engine]++
		}
	}
	providers := make([]worker.Provider, len(w.engines))
	var asking errgroup.Group
	for i, e := range w.engines {
		asking.Go(func() error {
			providers[i] = w.probe(ctx, e)
			providers[i].Runtimes = counts[e.Name()]
			return nil
		})
	}
	return providers, asking.Wait()
}

// probe gives the last result when it still counts, or asks the engine. One probe serves everybody
// who waits.
func (w *Worker) probe(ctx context.Context, e engine.Engine) worker.Provider {
	last := w.probed(e.Name())
	kept := probeKept
	if last.Error != "" {
		kept = failureKept
	}
	if !last.CheckedAt.IsZero() && time.Since(last.CheckedAt) < kept {
		return last
	}
	result := w.probing.DoChan(e.Name(), func() (any, error) { return w.probeNow(e), nil })
	select {
	case r := <-result:
		return clone(r.Val.(worker.Provider))
	case <-ctx.Done():
		if last.CheckedAt.IsZero() {
			last.Error = "it is still being probed"
		}
		return last
	}
}

// probed gives the last result; without one, CheckedAt is zero.
func (w *Worker) probed(name string) worker.Provider {
	w.probeMu.Lock()
	defer w.probeMu.Unlock()
	if p, ok := w.probes[name]; ok {
		return clone(p)
	}
	return worker.Provider{Name: name, Default: name == w.fallback}
}

// clone keeps callers from sharing lists.
func clone(p worker.Provider) worker.Provider {
	c := &p.Capabilities
	c.Problems, c.Enforces, c.Features = slices.Clone(c.Problems), slices.Clone(c.Enforces), slices.Clone(c.Features)
	return p
}

func (w *Worker) probeNow(e engine.Engine) worker.Provider {
	p := worker.Provider{Name: e.Name(), Default: e.Name() == w.fallback}
	if err := w.enter(); err != nil {
		p.Error = errClosed.Message
		return p
	}
	defer w.work.Done()
	ctx, cancel := context.WithTimeout(w.life, probeWithin)
	defer cancel()
	began := time.Now()
	capabilities, err := e.Probe(ctx)
	p.Latency, p.CheckedAt = time.Since(began), time.Now()
	p.Capabilities = capabilities
	if err != nil {
		w.log.Warn("an engine cannot be probed", "engine", e.Name(), "error", err)
		p.Error = "the probe failed"
		if known := (*stacyvm.Error)(nil); errors.As(err, &known) && known.Message != "" {
			p.Error = known.Message
		}
	}
	w.probeMu.Lock()
	defer w.probeMu.Unlock()
	w.probes[e.Name()] = p
	return p
}

// usable finds the engine for a create. One that has once worked is not probed again: its create
// says whether it still does.
func (w *Worker) usable(ctx context.Context, name string) (engine.Engine, error) {
	if name == "" {
		name = w.fallback
	}
	e := w.engine(name)
	if e == nil {
		return nil, stacyvm.Errorf(stacyvm.CodeNotFound, "provider %.64q does not exist here", name)
	}
	if w.probed(name).Capabilities.Usable {
		return e, nil
	}
	p := w.probe(ctx, e)
	switch {
	case p.Error != "":
		return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "provider %s: %s", name, p.Error)
	case p.Capabilities.Usable:
		return e, nil
	case len(p.Capabilities.Problems) == 0:
		return nil, stacyvm.Errorf(stacyvm.CodeUnsupported, "provider %s cannot be used on this machine", name)
	}
	return nil, stacyvm.Errorf(stacyvm.CodeUnsupported, "provider %s: %s", name, p.Capabilities.Problems[0].What)
}
