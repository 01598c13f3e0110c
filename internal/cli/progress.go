package cli

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows what is being waited for, once it takes more than a second, when w is a terminal.
// Call the returned function when it is done; it wipes the line.
func progress(w *os.File, what string) (done func()) {
	return progressOf(w, func() string { return what })
}

// progressOf is progress of something whose description changes.
func progressOf(w *os.File, what func() string) (done func()) {
	if !term.IsTerminal(int(w.Fd())) {
		return func() {}
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { spin(w, what, stop) })
	var once sync.Once
	return func() {
		once.Do(func() {
			close(stop)
			running.Wait()
		})
	}
}

func spin(w *os.File, what func() string, stop <-chan struct{}) {
	start := time.Now()
	select {
	case <-stop:
		return
	case <-time.After(time.Second):
	}
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	defer func() { _, _ = fmt.Fprint(w, "\r\x1b[K") }() // decoration: a failed write harms nothing
	for frame := 0; ; frame++ {
		_, _ = fmt.Fprintf(
			w,
			"\r\x1b[K%c %s (%ds)",
			[]rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")[frame%10],
			what(),
			int(time.Since(start).Seconds()),
		)
		select {
		case <-stop:
			return
		case <-ticks.C:
		}
	}
}
