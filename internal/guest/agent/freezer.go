package agent

import "time"

// freezer lets all other processes of the sandbox stand still, for one caller at a time.
type freezer struct {
	turn chan struct{}
	call func(bool) error // nil: nobody can
}

func newFreezer(call func(bool) error) freezer { return freezer{make(chan struct{}, 1), call} }

// freeze waits for its turn and stops the processes; thaw lets them go on.
func (f freezer) freeze() (thaw func(), ok bool) {
	if f.call == nil {
		return nil, false
	}
	f.turn <- struct{}{}
	if err := f.call(true); err != nil {
		<-f.turn
		return nil, false
	}
	return func() {
		for f.call(false) != nil { // it worked before, and the sandbox must not stand still for good
			time.Sleep(mostPause)
		}
		<-f.turn
	}, true
}
