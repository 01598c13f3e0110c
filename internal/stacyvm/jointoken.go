package stacyvm

import (
	"crypto/sha256"
	"time"
)

// JoinToken is what is kept of a one-time token with which a new worker introduces itself, so that
// it never needs an administrator's key. Who reads the record cannot join with it.
type JoinToken struct {
	ID   string            // 32 hex digits; not secret
	Hash [sha256.Size]byte // of the secret, which has 256 random bits
	// Worker is the id that may join with it, or a pattern in the form of path.Match, such as
	// "rack1-*".
	Worker    string
	CreatedAt time.Time
	ExpiresAt time.Time
	UsedAt    time.Time // zero: not used
	UsedBy    WorkerID  // "" while not used
}
