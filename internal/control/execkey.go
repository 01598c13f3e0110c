package control

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// An exec with an idempotency key runs as a process whose id is made of the caller and the key
// alone. The guest starts one process for an id, whoever comes first, and gives back the tag of
// the request that did. So every repeat, at whatever time and through whatever server, learns
// from the same answer which command the key stands for.

// nameByKey gives a request that has a key its process id.
func (r *ExecRequest) nameByKey(caller stacyvm.Principal) error {
	if r.Key.Key == "" {
		return nil
	}
	if err := r.Key.check(); err != nil {
		return err
	}
	if r.ProcessID != "" {
		return stacyvm.Invalid("Idempotency-Key", "cannot go together with id, which does the same")
	}
	sum := sha256.Sum256([]byte(r.Key.scope(caller) + " " + r.Key.Key))
	r.ProcessID = "k-" + hex.EncodeToString(sum[:])[:62]
	return nil
}

// tag is what one request leaves with its process: the body's hash, and a word of its own.
func (k Idempotency) tag() string {
	if k.Key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(k.BodyHash))
	return hex.EncodeToString(sum[:16]) + "." + rand.Text()
}

// identify finds out whose process an exec with a key has got. CodeKeyReused: that of a request
// with another body. A guest program of an earlier version keeps no tags: its processes count as
// the caller's.
func identify(process *stacyvm.Process, command stacyvm.Command) error {
	if process == nil || process.Tag == command.Tag || process.Tag == "" {
		return nil
	}
	theirs, _, _ := strings.Cut(process.Tag, ".")
	if mine, _, _ := strings.Cut(command.Tag, "."); theirs != mine && mine != "" {
		return stacyvm.Errorf(stacyvm.CodeKeyReused, "Idempotency-Key: it came before with another body")
	}
	process.Replayed = true
	return nil
}
