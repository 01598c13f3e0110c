package member

import (
	"context"
	"log/slog"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// renewLoop renews every stacyvm.LeaseRenewEvery, counted from when the last try was sent, and
// sooner after a failure.
func (m *Member) renewLoop(ctx context.Context) error {
	said := slog.LevelDebug // of the failure that goes on
	for {
		began := m.clock.now()
		lapsed, err := m.renew(ctx)
		pause := max(retry.Jitter(stacyvm.LeaseRenewEvery)-(m.clock.now()-began), 0)
		switch {
		case ctx.Err() != nil:
			return nil
		case stacyvm.CodeOf(err) == stacyvm.CodeConflict:
			return err
		case err != nil:
			said = m.complain(ctx, err, said)
			pause = retry.Jitter(retryAfter)
		case said > slog.LevelDebug:
			m.log.Info("leases are renewed again")
			said = slog.LevelDebug
		}
		if err == nil && lapsed > 0 {
			m.log.Info("leases that had run out are taken again", "left", lapsed)
			pause = regainAfter
		}
		if !m.clock.wait(ctx, pause) {
			return nil
		}
	}
}

// complain tells once that renewals fail, and once that the gate closed.
func (m *Member) complain(ctx context.Context, err error, said slog.Level) slog.Level {
	level, what := slog.LevelWarn, "the leases could not be renewed; trying again"
	if m.Gate() != nil {
		level, what = slog.LevelError, "the leases cannot be renewed: nothing is begun until they are; what runs goes on"
	}
	if level <= said {
		m.log.Debug(what, "error", err)
		return said
	}
	m.log.Log(ctx, level, what, "error", err)
	return level
}

// renew extends all leases. The gate opens from when the call was sent: when it was answered says
// nothing about when the database counted from. lapsed are left for the next renewal.
func (m *Member) renew(ctx context.Context) (lapsed int, err error) {
	lapsed, err = m.renewOnce(ctx)
	if stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
		return lapsed, err
	}
	if err := m.beat(ctx, false); err != nil {
		return 0, err
	}
	return m.renewOnce(ctx)
}

func (m *Member) renewOnce(ctx context.Context) (lapsed int, err error) {
	var sent time.Duration
	var answer Renewal
	round := m.fences.begin()
	err = m.ask(ctx, func(ctx context.Context, plane ControlPlane) (err error) {
		sent = m.clock.now()
		answer, err = plane.Renew(ctx, m.config.Session, false)
		return err
	})
	if err != nil {
		return 0, err
	}
	m.fences.learn(round, answer.Fences)
	m.gate.extend(sent)
	if !m.acts() {
		close(m.leased)
	}
	return answer.Lapsed, nil
}

// ask tries the control planes until one answers, beginning with the one that did so last. A
// refusal is told rather than silence; one that every control plane would repeat ends the search.
func (m *Member) ask(ctx context.Context, call func(context.Context, ControlPlane) error) error {
	planes, first := m.config.Planes, int(m.first.Load())
	var told error
	for i := range planes {
		at := (first + i) % len(planes)
		err := try(ctx, planes[at], call)
		switch code := stacyvm.CodeOf(err); {
		case code == stacyvm.CodeConflict:
			m.gate.fence()
			return errFenced
		case err == nil || code == stacyvm.CodeNotFound:
			m.first.Store(int64(at))
			return err
		case told == nil || final(err):
			told = err
		}
		m.log.Debug("a control plane did not help", "control_plane", planes[at].Address(), "error", err)
		if ctx.Err() != nil {
			break
		}
	}
	return told
}

func try(ctx context.Context, plane ControlPlane, call func(context.Context, ControlPlane) error) error {
	ctx, cancel := context.WithTimeout(ctx, TryWithin)
	defer cancel()
	return call(ctx, plane)
}
