package member

import (
	"context"
	"slices"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// join registers the session, not yet to be used. While nobody answers it waits: control planes
// may start later than their workers.
func (m *Member) join(ctx context.Context) error {
	for said := false; ; {
		err := m.beat(ctx, true)
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case final(err):
			return err
		case !said:
			m.log.Warn("no control plane answers; waiting for one", "error", err)
			said = true
		}
		if !m.clock.wait(ctx, retryAfter) {
			return nil
		}
	}
}

// final reports whether the same call would be refused again.
func final(err error) bool {
	return slices.Contains(
		[]stacyvm.Code{stacyvm.CodeConflict, stacyvm.CodeUnauthenticated, stacyvm.CodeForbidden, stacyvm.CodeInvalid},
		stacyvm.CodeOf(err),
	)
}

// heartbeatLoop shows the worker as soon as it acts, and then tells again and again that it lives.
func (m *Member) heartbeatLoop(ctx context.Context) error {
	select {
	case <-m.leased:
	case <-ctx.Done():
		return nil
	}
	shown, failing := false, false
	for {
		err := m.beat(ctx, false)
		switch {
		case ctx.Err() != nil:
			return nil
		case stacyvm.CodeOf(err) == stacyvm.CodeConflict:
			return err
		case err != nil:
			m.log.Warn("the heartbeat failed", "error", err)
		case !shown:
			shown = true
			close(m.ready)
		case failing:
			m.log.Info("heartbeats succeed again")
		}
		failing = err != nil
		pause := m.config.HeartbeatEvery
		if !shown {
			pause = min(pause, retryAfter)
		}
		if !m.clock.wait(ctx, retry.Jitter(pause)) {
			return nil
		}
	}
}

// beat sends one heartbeat. A worker that the control plane does not know, as after an operator
// deleted it, registers anew.
func (m *Member) beat(ctx context.Context, register bool) error {
	m.telling.Lock()
	defer m.telling.Unlock()
	offer, err := m.config.Offer(ctx)
	if err != nil {
		return err
	}
	beat := Heartbeat{Offer: offer, Status: m.status(offer), Session: m.config.Session, Register: register}
	if !m.acts() {
		beat.Status = stacyvm.WorkerStarting
	}
	err = m.tell(ctx, beat)
	if stacyvm.CodeOf(err) == stacyvm.CodeNotFound && !register {
		m.log.Warn("the control plane does not know this worker: registering it anew")
		beat.Register = true
		err = m.tell(ctx, beat)
	}
	return err
}

func (m *Member) tell(ctx context.Context, beat Heartbeat) error {
	return m.ask(ctx, func(ctx context.Context, plane ControlPlane) error {
		_, err := plane.Heartbeat(ctx, beat)
		return err
	})
}

func (m *Member) status(offer Offer) stacyvm.WorkerStatus {
	switch {
	case m.Draining():
		return stacyvm.WorkerDraining
	case len(offer.Providers) == 0:
		return stacyvm.WorkerUnhealthy
	}
	return stacyvm.WorkerOnline
}

// Once sends one heartbeat of no session, which takes nothing over, and gives the worker as the
// control plane has it.
func (m *Member) Once(ctx context.Context) (worker stacyvm.Worker, err error) {
	offer, err := m.config.Offer(ctx)
	if err != nil {
		return worker, err
	}
	err = m.ask(ctx, func(ctx context.Context, plane ControlPlane) (err error) {
		worker, err = plane.Heartbeat(ctx, Heartbeat{Offer: offer, Status: m.status(offer)})
		return err
	})
	return worker, err
}
