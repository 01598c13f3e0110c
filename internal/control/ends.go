package control

import (
	"context"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// maxEnds bounds how many commands are waited for only to tell of their end.
const maxEnds = 4096

// ends waits for commands whose output nobody reads to the end, so that the exec log and subscribers learn how they ended. Of
// what runs longer than this process the log says that its end is not known, and subscribers are not told.
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

// logEnd waits for a command in the background, writes its exec log line then and tells how it ended. ctx names the caller;
// its end changes nothing.
func (s *Service) logEnd(ctx context.Context, sandbox stacyvm.Sandbox, command stacyvm.Command, began time.Time) {
	e := s.ends
	room := e.life.Err() == nil
	if room {
		select {
		case e.room <- struct{}{}:
		default:
			room = false
		}
	}
	if !room {
		s.logExec(ctx, sandbox, command, began, nil)
		return
	}
	waiting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	kept := context.AfterFunc(e.life, cancel)
	e.running.Go(func() {
		defer func() { kept(); cancel(); <-e.room }()
		known, err := s.waitFor(waiting, sandbox.ID, command.ProcessID)
		if err != nil {
			known.Exit = nil
		}
		s.logExec(waiting, sandbox, command, began, known.Exit)
	})
}
