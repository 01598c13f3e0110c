package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

const (
	// sandboxOOMScore makes the machine, when it is out of memory as a whole, look for a victim
	// among sandboxes first.
	sandboxOOMScore = 500
	oomScoreFile    = "/proc/self/oom_score_adj"
)

// oomScore gives the processes of sandboxes their oom_score_adj by inheritance: the launcher takes
// the value on while it starts any. A process that changed its own value would race with gVisor,
// which reads it right after the start, in two pieces ("0\n" and the second half of "500\n"), and
// fails the create for it.
type oomScore struct {
	mu       sync.Mutex
	starting int
	own      int // the launcher's value while nothing is being started
}

// raise makes what the launcher starts inherit sandboxOOMScore, or the launcher's own value where
// that is higher already, until lower is called.
func (o *oomScore) raise() (lower func(), err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.starting == 0 {
		text, err := os.ReadFile(oomScoreFile)
		if err != nil {
			return nil, err
		}
		if o.own, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			return nil, fmt.Errorf("%s: %w", oomScoreFile, err)
		}
		if err := setOOMScore(max(o.own, sandboxOOMScore)); err != nil {
			return nil, err
		}
	}
	o.starting++
	return o.lower, nil
}

func (o *oomScore) lower() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.starting--; o.starting == 0 {
		_ = setOOMScore(o.own) // refused: the launcher stays a candidate, and its successor finds all sandboxes
	}
}

func setOOMScore(score int) error {
	return os.WriteFile(oomScoreFile, []byte(strconv.Itoa(score)), 0)
}
