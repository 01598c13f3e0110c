package health

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// pingEvery is how often the store is asked for a sign of life while it answers, and
	// pingAgain while it does not.
	pingEvery = 2 * time.Second
	pingAgain = time.Second
	// pingFailures is after how many failures in a row the store counts as away.
	pingFailures = 2
)

// outages knows what is wrong with this server itself, and since when: a store that does not
// answer, a full disk. Each is told as an event; one of the store when it is over, as nobody
// could keep it earlier.
type outages struct {
	monitor *Monitor

	mu       sync.Mutex
	failures int       // of the store, in a row
	since    time.Time // of the first of them
	cause    string    // of the last
	disk     []string
	full     time.Time // since when disk has anything
}

// run watches until ctx ends.
func (o *outages) run(ctx context.Context) {
	for {
		pause := pingEvery
		if !o.look(ctx) {
			pause = pingAgain
		}
		if retry.Sleep(ctx, pause) != nil {
			return
		}
	}
}

// look asks the store and the disk how they are, tells of what has changed and reports whether
// the store answers.
func (o *outages) look(ctx context.Context) (answers bool) {
	began := time.Now()
	asking, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	err := o.monitor.store.Ping(asking)
	if ctx.Err() != nil {
		return true
	}
	now, disk := time.Now(), o.monitor.problems()
	o.mu.Lock()
	failures, since, cause, before, full := o.failures, o.since, o.cause, o.disk, o.full
	if err != nil {
		if o.failures++; o.failures == 1 {
			o.since = began
		}
		o.cause = messageOf(err)
	} else {
		o.failures = 0
	}
	if o.disk = disk; len(before) == 0 {
		o.full = now
	}
	o.mu.Unlock()

	switch {
	case err != nil && failures+1 == pingFailures:
		o.monitor.log.Warn("the database does not answer; running commands go on", "since", since, "error", err)
	case err == nil && failures >= pingFailures:
		o.monitor.log.Info("the database answers again", "after", now.Sub(since).Round(time.Second))
		o.publish(ctx, stacyvm.KindServerProblem, since, "database", cause, since)
		o.publish(ctx, stacyvm.KindServerRecovered, now, "database", cause, since)
	}
	switch {
	case len(disk) > 0 && len(before) == 0:
		o.publish(ctx, stacyvm.KindServerProblem, now, "disk", strings.Join(disk, "; "), now)
	case len(disk) == 0 && len(before) > 0:
		o.publish(ctx, stacyvm.KindServerRecovered, now, "disk", strings.Join(before, "; "), full)
	}
	return err == nil
}

// publish tells subscribers of a problem of this server.
func (o *outages) publish(
	ctx context.Context, kind stacyvm.Kind, at time.Time, about, detail string, since time.Time,
) {
	o.monitor.audit.Publish(ctx, &stacyvm.Event{Kind: kind, CreatedAt: at.UTC(), Data: map[string]any{
		"server": string(o.monitor.self), "about": about, "detail": detail,
		"since": since.UTC().Format(time.RFC3339Nano),
	}})
}

// present gives since when the store does not answer, the zero time when it does as far as known,
// and since when the disk has something.
func (o *outages) present() (away, full time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failures > 0 {
		away = o.since
	}
	if len(o.disk) > 0 {
		full = o.full
	}
	return away, full
}

// messageOf is an error in words for callers.
func messageOf(err error) string {
	if known, ok := errors.AsType[*stacyvm.Error](err); ok && known.Message != "" {
		return known.Message
	}
	return "it fails; the server's log says how"
}
