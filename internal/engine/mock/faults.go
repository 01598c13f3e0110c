package mock

import (
	"context"
	"errors"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Faults make the engine misbehave; the zero value behaves. They hold for calls that begin after
// Inject.
type Faults struct {
	CreateDelay time.Duration // before anything is made
	Create      error         // what Create gives, before anything is made
	BreakCreate error         // what Create gives after it made the runtime, which stays: a broken promise
	Hang        bool          // Create, Attach and Dial wait for the end of their context
	Destroy     error         // what every removal gives; nothing is removed. Close removes all the same
	Dials       int           // so many dials fail from now on
	List        error         // what List gives
	Probe       error         // what Probe gives
	Unusable    string        // why Probe says that it cannot be used here
	// HideFromList names a runtime that List leaves out: a lie.
	HideFromList stacyvm.SandboxID
}

// Inject sets the faults in place of those before.
func (e *Engine) Inject(faults Faults) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = faults
}

// Kill ends a sandbox's guest program with all its processes, as if it had died; the runtime
// stays.
func (e *Engine) Kill(id stacyvm.SandboxID) {
	if r := e.find(id); r != nil {
		_ = r.kill("its guest program was killed") // what does not end now is ended by Destroy
	}
}

// Mute cuts the connections to a sandbox's guest program and lets nobody hear an answer on new
// ones.
func (e *Engine) Mute(id stacyvm.SandboxID) {
	if r := e.find(id); r != nil {
		r.mute()
	}
}

func (e *Engine) present() Faults {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.faults
}

// failDial reports whether this dial is one that fails.
func (e *Engine) failDial() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.faults.Dials == 0 {
		return false
	}
	e.faults.Dials--
	return true
}

func (f Faults) beforeCreate(ctx context.Context) error {
	if err := f.hang(ctx); err != nil {
		return err
	}
	if f.CreateDelay > 0 {
		timer := time.NewTimer(f.CreateDelay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return errors.Join(ctx.Err(), f.Create)
}

func (f Faults) hang(ctx context.Context) error {
	if f.Hang {
		<-ctx.Done()
	}
	return ctx.Err()
}
