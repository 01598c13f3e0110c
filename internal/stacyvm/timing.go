package stacyvm

import "time"

const (
	// CreateWithin bounds a create on its worker; then the caller gets an error and what was made is undone.
	CreateWithin = 60 * time.Second
	// CreateAbandonedAfter is the age from which a sandbox that is still being created has lost its maker: longer than
	// CreateWithin and the undoing after it.
	CreateAbandonedAfter = 90 * time.Second
)
