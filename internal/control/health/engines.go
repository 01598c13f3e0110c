package health

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// enginesLife is how old what workers of other machines told of their engines may be.
	enginesLife = 10 * time.Second
	// enginesWithin bounds the question, and enginesAsked how many workers are asked for one
	// engine before it counts as broken.
	enginesWithin = 2 * time.Second
	enginesAsked  = 3
)

// engines keeps what workers of other machines told of their engines.
type engines struct {
	mu    sync.Mutex
	known []worker.Provider
	until time.Time // monotonic
}

// engines lists every engine that this server can use, by name: those of the worker in this
// process, and of the others that the workers of other machines have, each as one of these told.
func (m *Monitor) engines(ctx context.Context) ([]worker.Provider, error) {
	var own []worker.Provider
	here, err := m.workers(m.self)
	if err == nil {
		own, err = here.Providers(ctx)
	} else if stacyvm.CodeOf(err) == stacyvm.CodeUnavailable {
		err = nil // a control plane alone
	}
	if err != nil {
		return nil, err
	}
	away, err := m.enginesElsewhere(ctx)
	if err != nil && len(own) == 0 {
		return nil, err
	}
	for _, p := range away {
		if !slices.ContainsFunc(own, func(q worker.Provider) bool { return q.Name == p.Name }) {
			own = append(own, p)
		}
	}
	slices.SortFunc(own, func(a, b worker.Provider) int { return strings.Compare(a.Name, b.Name) })
	return own, nil
}

// enginesElsewhere asks some worker for each engine.
func (m *Monitor) enginesElsewhere(ctx context.Context) ([]worker.Provider, error) {
	m.elsewhere.mu.Lock()
	defer m.elsewhere.mu.Unlock()
	if time.Now().Before(m.elsewhere.until) {
		return slices.Clone(m.elsewhere.known), nil
	}
	having, err := m.havingEngines(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, enginesWithin)
	defer cancel()
	found := make([]worker.Provider, len(having))
	var asking sync.WaitGroup
	for i, engine := range having {
		asking.Go(func() { found[i] = m.askForEngine(ctx, engine.name, engine.workers) })
	}
	asking.Wait()
	m.elsewhere.known, m.elsewhere.until = found, time.Now().Add(enginesLife)
	return slices.Clone(found), nil
}

// engineAway is an engine that workers of other machines have.
type engineAway struct {
	name    string
	workers []stacyvm.WorkerID
}

// havingEngines reads from the registrations which workers that can be called have which engines.
func (m *Monitor) havingEngines(ctx context.Context) (all []engineAway, err error) {
	err = m.store.View(ctx, func(tx store.Tx) error {
		now, err := tx.Now(ctx)
		if err != nil {
			return err
		}
		workers, err := tx.Workers().List(ctx, store.Page{})
		if err != nil {
			return err
		}
		all = nil
		for _, w := range workers {
			if w.ID == m.self || w.Capacity.RPCURL == "" || w.Status != stacyvm.WorkerOnline ||
				now.Sub(w.LastHeartbeat) > stacyvm.WorkerStaleAfter {
				continue
			}
			for _, name := range w.Providers {
				i := slices.IndexFunc(all, func(e engineAway) bool { return e.name == name })
				if i < 0 {
					i, all = len(all), append(all, engineAway{name: name})
				}
				all[i].workers = append(all[i].workers, w.ID)
			}
		}
		return nil
	})
	return all, err
}

// askForEngine gives an engine as the first worker that answers has it, or as one that nobody
// could be asked about.
func (m *Monitor) askForEngine(ctx context.Context, name string, workers []stacyvm.WorkerID) worker.Provider {
	var failures []error
	for _, id := range workers[:min(len(workers), enginesAsked)] {
		w, err := m.workers(id)
		if err == nil {
			var told []worker.Provider
			if told, err = w.Providers(ctx); err == nil {
				for _, p := range told {
					if p.Name == name {
						return p
					}
				}
				continue // it was there at the last heartbeat
			}
		}
		failures = append(failures, err)
	}
	m.log.Warn("no worker could be asked about an engine", "provider", name, "error", errors.Join(failures...))
	return worker.Provider{Name: name, Error: "its workers do not answer", CheckedAt: time.Now()}
}
