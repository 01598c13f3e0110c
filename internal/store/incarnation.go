package store

import (
	"context"
	"fmt"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/migrations"
)

const (
	// RestoreGrace is how long nothing is taken over from another worker after the first start
	// that follows a new incarnation: the owners come back first.
	RestoreGrace = stacyvm.LeaseTTL + stacyvm.LeaseGrace
	// graceLife is what a sandbox has left at least when the grace period begins: its life may
	// have been extended after the backup was taken, and its owner must see it first.
	graceLife = 5 * time.Minute

	// numbersApart is more events than a database can have lost with what came after the backup,
	// or before the promotion: their numbers are not given again.
	numbersApart = 1_000_000

	graceDuty = "settle"
	typeDuty  = "duty"
)

// Raise makes the next incarnation of a database that was put back from a backup, or promoted: one
// more than its own and than above, which may name a higher one that is known from elsewhere.
// Every live row is stamped with it, so that it is newer than whatever workers have confirmed, and
// the next RestoreGraceUntil begins a grace period; unused join tokens are forgotten. No server
// may use a database that is put back; CodeUnavailable and others as for Update.
func Raise(ctx context.Context, s Store, above int64) (cluster Cluster, err error) {
	err = s.Update(ctx, func(x Tx) error {
		cluster, err = x.(tx).bumpIncarnation(ctx, above)
		return err
	})
	return cluster, err
}

// bumpIncarnation is Raise within a transaction.
func (t tx) bumpIncarnation(ctx context.Context, above int64) (Cluster, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return Cluster{}, err
	}
	cluster, err := sqldb.ReadCluster(ctx, t.Tx)
	if err != nil {
		return cluster, err
	}
	cluster.Incarnation = max(cluster.Incarnation, above) + 1
	if _, err := t.Exec(ctx, `UPDATE cluster SET incarnation = $1 WHERE one = 1`, cluster.Incarnation); err != nil {
		return cluster, err
	}
	t.Touched.All = true
	if _, err := t.Exec(
		ctx,
		`UPDATE sandboxes SET incarnation = $1, updated_us = $2 WHERE `+migrations.ActiveSandbox,
		cluster.Incarnation,
		now,
	); err != nil {
		return cluster, err
	}
	if _, err := t.Exec(
		ctx,
		`UPDATE event_counter SET last = last + $1 WHERE one = 1`,
		int64(numbersApart),
	); err != nil {
		return cluster, err
	}
	// What was used after the backup is not known: a token must not be good twice.
	if _, err := t.Exec(ctx, `DELETE FROM join_tokens WHERE used_us = 0`); err != nil {
		return cluster, err
	}
	_, err = t.Exec(ctx, `
		INSERT INTO leases AS l (`+leaseColumns+`) VALUES ($1, $2, NULL, NULL, 1, 1, 0)
		ON CONFLICT (resource_id) DO UPDATE SET holder_id = NULL, holder_session = NULL, generation = l.generation + 1, expires_us = 0`,
		graceDuty, typeDuty)
	return cluster, err
}

// RestoreGraceUntil tells until when, by the database's clock, a database that was put back lately
// is in its grace period; zero: it is not. Control planes ask when they start and before they act
// on what they find. The first one that asks after Raise begins the period and gives every owner
// time to come back: leases that ran out live again, so that nobody else takes them for
// RestoreGrace, and so do sandboxes whose time has passed.
func RestoreGraceUntil(
	ctx context.Context,
	s Store,
	self stacyvm.WorkerID,
	session string,
) (until time.Time, err error) {
	var raised bool
	err = s.View(ctx, func(x Tx) (err error) {
		until, raised, err = x.(tx).grace(ctx)
		return err
	})
	if err != nil || !raised {
		return until, err
	}
	err = s.Update(ctx, func(x Tx) error {
		t := x.(tx)
		if until, raised, err = t.grace(ctx); err != nil || !raised {
			return err // another was faster
		}
		duty, err := leases{
			t,
		}.Acquire(
			ctx,
			LeaseRequest{Resource: graceDuty, Type: typeDuty, Holder: self, Session: session, TTL: RestoreGrace},
		)
		if err != nil {
			return err
		}
		until = duty.ExpiresAt
		return t.revive(ctx)
	})
	return until, err
}

// grace reads the duty. raised: nobody has begun the period yet.
func (t tx) grace(ctx context.Context) (until time.Time, raised bool, err error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return until, false, err
	}
	duty, err := leases{t}.Get(ctx, graceDuty)
	switch {
	case stacyvm.CodeOf(err) == stacyvm.CodeNotFound:
		return until, false, nil
	case err != nil || duty.Holder == "":
		return until, err == nil, err
	case toUS(duty.ExpiresAt) > now:
		until = duty.ExpiresAt
	}
	return until, false, nil
}

// revive gives leases and sandboxes whose time has passed a little more.
func (t tx) revive(ctx context.Context) error {
	now, err := t.NowUS(ctx)
	if err != nil {
		return err
	}
	_, err = t.Exec(
		ctx,
		`UPDATE leases SET expires_us = $1 WHERE holder_id IS NOT NULL AND resource_type <> $2 AND expires_us < $1`,
		now+stacyvm.LeaseTTL.Microseconds(),
		typeDuty,
	)
	if err != nil {
		return err
	}
	t.Touched.All = true
	_, err = t.Exec(
		ctx,
		`UPDATE sandboxes SET expires_us = $1, due_us = $1, `+fmt.Sprintf(changedUS, "$3", "$3")+` WHERE `+
			migrations.ActiveSandbox+` AND state <> $2 AND expires_us < $1`,
		now+graceLife.Microseconds(),
		string(stacyvm.StateExpired),
		now,
	)
	return err
}
