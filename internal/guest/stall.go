package guest

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// stallWithin is how long a transfer may wait for a guest that moves none of its bytes.
const stallWithin = 5 * time.Minute

var errStalled = stacyvm.Errorf(stacyvm.CodeTimeout, "the sandbox moved no byte for %s", stallWithin)

// watchdog ends a transfer whose guest moves nothing. Only the time in which the guest is waited
// for counts.
type watchdog struct{ timer *time.Timer }

// watch gives a context that the watchdog ends, with CodeTimeout as its cause. Cancel it.
func watch(ctx context.Context) (context.Context, context.CancelFunc, watchdog) {
	ctx, end := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stallWithin, func() { end(errStalled) })
	timer.Stop()
	return ctx, func() { timer.Stop(); end(nil) }, watchdog{timer}
}

// during waits for the guest.
func (w watchdog) during(wait func()) {
	w.timer.Reset(stallWithin)
	defer w.timer.Stop()
	wait()
}
