package member

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/retry"
)

// clock is how a member sees time pass.
type clock struct {
	now  func() time.Duration
	wait func(ctx context.Context, d time.Duration) bool // false: ctx ended first
}

// sinceBoot is a clock that nobody sets and that also counts the time in which the machine slept:
// others did not.
func sinceBoot() clock {
	return clock{now: bootTime, wait: wait}
}

func bootTime() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &at); err != nil {
		panic("member: the kernel has no CLOCK_BOOTTIME: " + err.Error()) // Linux has had it since 2.6.39
	}
	return time.Duration(at.Nano())
}

func wait(ctx context.Context, d time.Duration) bool { return retry.Sleep(ctx, d) == nil }
