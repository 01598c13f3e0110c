package controltest

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// FaultStore is a store with knobs. A knob that is nil does nothing; one may block. Set them
// before the store is used.
type FaultStore struct {
	store.Store
	// BeforeUpdate runs before each transaction that writes, and its error is the transaction's.
	BeforeUpdate func(context.Context) error
	// BeforeView does the same for those that read, and for reads without a transaction.
	BeforeView func(context.Context) error
	// BeforePing runs before each question whether the store answers.
	BeforePing func(context.Context) error
	// BeforeLine runs before a line of the audit, the administrators' audit, the exec log or the
	// events is written: a stacyvm.Operation, AdminCall, ExecRecord or Event. Its error is the
	// write's.
	BeforeLine func(line any) error
}

// Update implements store.Store.
func (s *FaultStore) Update(ctx context.Context, write func(store.Tx) error) error {
	if s.BeforeUpdate != nil {
		if err := s.BeforeUpdate(ctx); err != nil {
			return err
		}
	}
	return s.Store.Update(ctx, func(tx store.Tx) error { return write(faultTx{tx, s}) })
}

// Ping implements store.Store.
func (s *FaultStore) Ping(ctx context.Context) error {
	if s.BeforePing != nil {
		if err := s.BeforePing(ctx); err != nil {
			return err
		}
	}
	return s.Store.Ping(ctx)
}

// View implements store.Store.
func (s *FaultStore) View(ctx context.Context, read func(store.Tx) error) error {
	if err := s.beforeView(ctx); err != nil {
		return err
	}
	return s.Store.View(ctx, read)
}

func (s *FaultStore) beforeView(ctx context.Context) error {
	if s.BeforeView == nil {
		return nil
	}
	return s.BeforeView(ctx)
}

// Sandboxes implements store.Store.
func (s *FaultStore) Sandboxes() store.SandboxReader { return faultReader{s.Store.Sandboxes(), s} }

type faultReader struct {
	store.SandboxReader
	s *FaultStore
}

func (r faultReader) Get(ctx context.Context, id stacyvm.SandboxID) (stacyvm.Sandbox, error) {
	if err := r.s.beforeView(ctx); err != nil {
		return stacyvm.Sandbox{}, err
	}
	return r.SandboxReader.Get(ctx, id)
}

func (r faultReader) List(ctx context.Context, filter store.SandboxFilter) ([]stacyvm.Sandbox, error) {
	if err := r.s.beforeView(ctx); err != nil {
		return nil, err
	}
	return r.SandboxReader.List(ctx, filter)
}

// before asks BeforeLine about each line.
func before[T any](s *FaultStore, lines []T) error {
	if s.BeforeLine == nil {
		return nil
	}
	for _, line := range lines {
		if err := s.BeforeLine(line); err != nil {
			return err
		}
	}
	return nil
}

type faultTx struct {
	store.Tx
	s *FaultStore
}

func (t faultTx) Audit() store.Audit           { return faultAudit{t.Tx.Audit(), t.s} }
func (t faultTx) AdminAudit() store.AdminAudit { return faultAdminAudit{t.Tx.AdminAudit(), t.s} }
func (t faultTx) Events() store.Events         { return faultEvents{t.Tx.Events(), t.s} }

type faultAudit struct {
	store.Audit
	s *FaultStore
}

func (a faultAudit) AppendOperations(ctx context.Context, lines []stacyvm.Operation) error {
	if err := before(a.s, lines); err != nil {
		return err
	}
	return a.Audit.AppendOperations(ctx, lines)
}

func (a faultAudit) AppendExecs(ctx context.Context, lines []stacyvm.ExecRecord) error {
	if err := before(a.s, lines); err != nil {
		return err
	}
	return a.Audit.AppendExecs(ctx, lines)
}

type faultAdminAudit struct {
	store.AdminAudit
	s *FaultStore
}

func (a faultAdminAudit) Append(ctx context.Context, calls []stacyvm.AdminCall) error {
	if err := before(a.s, calls); err != nil {
		return err
	}
	return a.AdminAudit.Append(ctx, calls)
}

type faultEvents struct {
	store.Events
	s *FaultStore
}

func (e faultEvents) Append(ctx context.Context, events []stacyvm.Event) error {
	if err := before(e.s, events); err != nil {
		return err
	}
	return e.Events.Append(ctx, events)
}
