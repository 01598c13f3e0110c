package stacyvm

import "time"

const (
	// CreateWithin bounds a create on its worker, from its turn on; then the caller gets an error and what was made is undone.
	CreateWithin = 60 * time.Second
	// CreateAbandonedAfter is how long the row of a sandbox that is still being created has not changed when it has lost its
	// maker: longer than CreateWithin and the undoing after it. The rows of those that wait for their turn are touched.
	CreateAbandonedAfter = 90 * time.Second
)
