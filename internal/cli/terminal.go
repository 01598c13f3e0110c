package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// rawTerminal puts the terminal in raw mode; restore puts it back.
func rawTerminal(file *os.File) (restore func(), err error) {
	state, err := term.MakeRaw(int(file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	return func() { _ = term.Restore(int(file.Fd()), state) }, nil // the terminal may be gone
}

// followSize tells the process about each change of our window until ctx ends.
func (s *session) followSize(ctx context.Context) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	defer signal.Stop(changes)
	for {
		if size, err := s.app.terminal(); err == nil {
			_ = s.client.Resize(ctx, s.sandbox, s.process, *size) // ended meanwhile, or the next change comes through
		}
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
	}
}

// Keys that leave a terminal without ending the process: Ctrl-P Ctrl-Q.
const (
	detachFirst  = 0x10
	detachSecond = 0x11
)

// detachKeys finds the detach sequence in typed input, also across reads.
type detachKeys struct {
	active bool
	held   bool // the first key came and is not passed on yet
}

// filter gives what is to be passed on; leave means that the sequence was typed.
func (k *detachKeys) filter(typed []byte) (pass []byte, leave bool) {
	if !k.active {
		return typed, false
	}
	for _, key := range typed {
		switch {
		case k.held && key == detachSecond:
			return pass, true
		case k.held && key == detachFirst:
			pass = append(pass, detachFirst)
		case key == detachFirst:
			k.held = true
		case k.held:
			k.held = false
			pass = append(pass, detachFirst, key)
		default:
			pass = append(pass, key)
		}
	}
	return pass, false
}
