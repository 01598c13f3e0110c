package agent

import (
	"bytes"
	"encoding/json"
	"sync"

	"golang.org/x/sys/unix"
)

// oomReports reads from the sandbox's kernel which processes it ended for lack of memory: lines
// with a JSON array of process ids, the ended one first, then its parents. A line is there before
// its process ends.
type oomReports struct {
	mu   sync.Mutex
	fd   int // a pipe that does not block; 0: there is none
	rest []byte
}

// take gives the lines that have come since the last call.
func (r *oomReports) take() (lines [][]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd == 0 {
		return nil
	}
	var buffer [4 << 10]byte
	for {
		n, err := unix.Read(r.fd, buffer[:])
		if n <= 0 || err != nil {
			break
		}
		r.rest = append(r.rest, buffer[:n]...)
	}
	for {
		line, rest, whole := bytes.Cut(r.rest, []byte("\n"))
		if !whole {
			return lines
		}
		r.rest = rest
		var pids []int
		if json.Unmarshal(line, &pids) == nil {
			lines = append(lines, pids)
		}
	}
}

// noteOOM marks the processes that lost something to lack of memory: themselves, or one that they
// had started. It is called whenever a process has ended and is not collected yet, so that each
// number in a report is still its process's.
func (a *Agent) noteOOM() {
	for _, pids := range a.oom.take() {
		a.markOOM(pids)
	}
}

// markOOM marks the first of these that is a process of the table.
func (a *Agent) markOOM(pids []int) {
	processes := a.table.all()
	for _, pid := range pids {
		for _, p := range processes {
			p.mu.Lock()
			found := p.pid == pid && !p.collected
			p.oom = p.oom || found
			p.mu.Unlock()
			if found {
				return
			}
		}
	}
}
