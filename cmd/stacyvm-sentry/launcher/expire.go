package launcher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/expiry"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// ExpiryGrace is how long the launcher waits before it ends an expired sandbox: both after its
// expiry and after the last client left. A server needs less for a restart. It is also more than
// the label may be behind the store: by the time that a create takes, and by what a server does
// not send again.
const ExpiryGrace = 2 * time.Minute

// expireLoop ends sandboxes that expire while no server is connected.
func (s *Server) expireLoop() {
	for range time.Tick(s.Grace / 8) {
		s.expireAll()
	}
}

// expireAll ends what has expired, unless a server is connected. It reads the labels anew each
// time: what a launcher before this one was told counts.
func (s *Server) expireAll() {
	if _, alone := s.absence(); !alone {
		return
	}
	entries, err := os.ReadDir(s.homes())
	if err != nil {
		s.Warn("look for expired sandboxes: %v", err)
	}
	for _, entry := range entries {
		if err := s.expire(entry.Name()); err != nil {
			s.Warn("end the expired sandbox %s: %v", entry.Name(), err)
		}
	}
}

// absence is how long no client has been connected; false: one is. A server that hangs is
// connected.
func (s *Server) absence() (expiry.Absence, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	return expiry.Absence{Since: s.since.Round(0), Lasted: now.Sub(s.since), Now: now.Round(0)}, s.clients == 0
}

// overdue reports whether a sandbox is to be ended now, and gives when it expired.
func (s *Server) overdue(id string) (expired time.Time, overdue bool) {
	absence, alone := s.absence()
	seconds, err := strconv.ParseInt(s.readAbout(id).Labels[wire.LabelExpires], 10, 64)
	if !alone || err != nil || seconds <= 0 {
		return expired, false
	}
	expired = time.Unix(seconds, 0).UTC()
	return expired, absence.Over(expired, s.Grace)
}

// expire ends a sandbox that is overdue. Its processes, control groups and disk go; what tells
// how it ended stays, for the next server, until that destroys the sandbox.
func (s *Server) expire(id string) (err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("panic: %v\n%s", problem, debug.Stack())
		}
	}()
	defer s.locks.lock(id)()
	expired, overdue := s.overdue(id)
	if !overdue {
		return nil
	}
	if !s.hasEnd(id) {
		at := expired.Format(time.RFC3339)
		s.Warn("ending sandbox %s: it expired at %s, and no server is connected", id, at)
		end := wire.End{
			Cause: wire.CauseExpired, At: time.Now().UTC(),
			Detail: "it expired at " + at + " by its machine's record, while no server ran there",
		}
		// first, so that its end is not taken for another's doing
		if err := s.writeJSON(id, endFile, end); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(s.home(id))
	if err != nil {
		return err
	}
	var rest []string
	for _, entry := range entries {
		if name := entry.Name(); name != aboutFile && name != endFile {
			rest = append(rest, filepath.Join(s.home(id), name))
		}
	}
	if len(rest) == 0 {
		return nil // done before
	}
	if err := s.terminate(id); err != nil {
		return err
	}
	var errs []error
	for _, path := range rest {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// setExpiry changes when a sandbox expires.
func (s *Server) setExpiry(id string, seconds int64) error {
	defer s.locks.lock(id)()
	if _, err := os.Stat(s.home(id)); err != nil {
		return Fail(wire.FailureNotFound, err)
	}
	kept := s.readAbout(id)
	if kept.Created.IsZero() {
		return errors.New("its record cannot be read")
	}
	if kept.Labels == nil {
		kept.Labels = map[string]string{}
	}
	kept.Labels[wire.LabelExpires] = strconv.FormatInt(seconds, 10)
	return s.writeJSON(id, aboutFile, kept)
}
