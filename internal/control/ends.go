package control

import (
	"context"
	"sync"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// maxEnds bounds how many commands are waited for only to tell of their end.
const maxEnds = 4096

// ends waits for commands whose output nobody reads to the end, so that subscribers learn how they ended. What runs longer
// than this process is not told of.
type ends struct {
	life    context.Context
	stop    context.CancelFunc
	room    chan struct{}
	running sync.WaitGroup
}

func newEnds() *ends {
	e := &ends{room: make(chan struct{}, maxEnds)}
	e.life, e.stop = context.WithCancel(context.Background())
	return e
}

// close gives all of them up.
func (e *ends) close() {
	e.stop()
	e.running.Wait()
}

// tellEnd waits for a command in the background and tells how it ended. ctx names the caller; its end changes nothing.
func (s *Service) tellEnd(ctx context.Context, sandbox stacyvm.Sandbox, process string) {
	e := s.ends
	if e.life.Err() != nil {
		return
	}
	select {
	case e.room <- struct{}{}:
	default:
		return
	}
	waiting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	kept := context.AfterFunc(e.life, cancel)
	e.running.Go(func() {
		defer func() { kept(); cancel(); <-e.room }()
		if known, err := s.waitFor(waiting, sandbox.ID, process); err == nil {
			s.journal.add(line{notice: ended(sandbox, process, known.Exit)})
		}
	})
}
