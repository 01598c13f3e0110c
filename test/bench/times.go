package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// runContext ends with an interrupt.
type runContext = context.Context

// times are samples of one duration.
type times []time.Duration

func (t times) percentile(p int) time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

func short(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
