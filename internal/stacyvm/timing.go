package stacyvm

import "time"

const (
	// CreateWithin bounds a create on its worker, from its turn on; then the caller gets an error
	// and what was made is undone.
	CreateWithin = 60 * time.Second
	// CreateAbandonedAfter is how long the row of a sandbox that is still being created has not
	// changed when it has lost its maker: longer than CreateWithin and the undoing after it. The
	// rows of those that wait for their turn are touched.
	CreateAbandonedAfter = 90 * time.Second
	// ExpiryDrift is how far a worker's record of a sandbox's expiry may be from the store's
	// before it is sent again. The gVisor launcher waits longer than this, and than CreateWithin,
	// before it ends an expired sandbox by itself.
	ExpiryDrift = time.Minute
)
