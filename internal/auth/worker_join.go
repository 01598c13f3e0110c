package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"path"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// joinPrefix begins a join token: stacyvm-join-v1.<id>.<secret>.
	joinPrefix = "stacyvm-join-v1"
	// JoinTokenDefault is a join token's life when nothing else is asked for.
	JoinTokenDefault = time.Hour
	// JoinTokenMax is its longest life.
	JoinTokenMax = 7 * 24 * time.Hour
)

// JoinToken is what the server keeps of a one-time token with which a new worker introduces
// itself, so that it never needs an administrator's key. Who reads the record cannot join with it.
type JoinToken struct {
	ID   string            // 32 hex digits; not secret
	Hash [sha256.Size]byte // of the secret, which has 256 random bits
	// Worker is the id that may join with it, or a pattern in the form of path.Match, such as
	// "rack1-*".
	Worker    string
	CreatedAt time.Time
	ExpiresAt time.Time
	UsedAt    time.Time        // zero: not used
	UsedBy    stacyvm.WorkerID // "" while not used
}

// JoinTokens keeps join tokens.
type JoinTokens interface {
	// AddJoinToken keeps a new one.
	AddJoinToken(ctx context.Context, token JoinToken) error
	// JoinToken gives one by its id, or a CodeNotFound error.
	JoinToken(ctx context.Context, id string) (JoinToken, error)
	// UseJoinToken marks it as used by a worker, in one conditional write: only if it is unused
	// and has not expired, by the store's own time. Otherwise it changes nothing and returns a
	// CodeConflict error. Of many callers one succeeds.
	UseJoinToken(ctx context.Context, id string, worker stacyvm.WorkerID) error
}

// NewJoinToken makes a token for a worker's id or a pattern, and what is to be kept of it. A life
// of 0 is JoinTokenDefault. It returns CodeInvalid errors.
func NewJoinToken(worker string, life time.Duration, now time.Time) (token string, kept JoinToken, err error) {
	if life == 0 {
		life = JoinTokenDefault
	}
	if _, bad := path.Match(
		worker,
		"",
	); bad != nil || worker == "" || len(worker) > 64 ||
		strings.ContainsAny(worker, "/\\ ") {
		return "", JoinToken{}, stacyvm.Invalid("worker", "is neither a worker's id nor a pattern such as rack1-*")
	}
	if life < time.Second || life > JoinTokenMax {
		return "", JoinToken{}, stacyvm.Invalid("ttl", "must be between 1s and %s", JoinTokenMax)
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // it ends the program rather than fail
	kept = JoinToken{
		ID:        newTokenID(),
		Hash:      sha256.Sum256(secret[:]),
		Worker:    worker,
		CreatedAt: now.UTC(),
		ExpiresAt: now.UTC().Add(life),
	}
	return joinPrefix + "." + kept.ID + "." + base64.RawURLEncoding.EncodeToString(secret[:]), kept, nil
}

// Join spends a token for a worker. It gives CodeUnauthenticated errors for every token that is
// not accepted, with the same message whether it is unknown or its secret is wrong, and passes
// other errors of the store on.
func Join(
	ctx context.Context,
	tokens JoinTokens,
	token string,
	worker stacyvm.WorkerID,
	now time.Time,
) (JoinToken, error) {
	id, secret, ok := splitJoin(token)
	if !ok || !worker.Valid() {
		return JoinToken{}, errJoin
	}
	kept, err := tokens.JoinToken(ctx, id)
	switch {
	case stacyvm.CodeOf(err) == stacyvm.CodeNotFound:
		return JoinToken{}, errJoin
	case err != nil:
		return JoinToken{}, err
	}
	if err := kept.verify(secret, worker, now); err != nil {
		return JoinToken{}, err
	}
	if err := tokens.UseJoinToken(ctx, id, worker); stacyvm.CodeOf(err) == stacyvm.CodeConflict {
		return JoinToken{}, refused("the join token has been used or has expired")
	} else if err != nil {
		return JoinToken{}, err
	}
	kept.UsedAt, kept.UsedBy = now.UTC(), worker
	return kept, nil
}

// errJoin says nothing about what is wrong.
var errJoin = refused("the join token is not known")

// verify judges a secret; only who has the right one learns what else is wrong.
func (t JoinToken) verify(secret []byte, worker stacyvm.WorkerID, now time.Time) error {
	sum := sha256.Sum256(secret)
	if subtle.ConstantTimeCompare(sum[:], t.Hash[:]) != 1 {
		return errJoin
	}
	fits, err := path.Match(t.Worker, string(worker))
	switch {
	case err != nil || !fits:
		return refused("the join token is for another worker")
	case !now.Before(t.ExpiresAt): // the store decides that, too, and whether it was used
		return refused("the join token has been used or has expired")
	}
	return nil
}

func splitJoin(token string) (id string, secret []byte, ok bool) {
	parts := strings.Split(token, ".")
	if len(token) > maxWorkerToken || len(parts) != 3 || parts[0] != joinPrefix {
		return "", nil, false
	}
	raw, err := hex.DecodeString(parts[1])
	secret, ok = decodeSegment(parts[2])
	return parts[1], secret, ok && err == nil && len(raw) == 16 && hex.EncodeToString(raw) == parts[1] &&
		len(secret) == 32
}
