package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/stacyvm/stacyvm/internal/guest"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	keptFor  = 24 * time.Hour
	mostKept = 1000 // processes that have ended

	// keptMemory and keptDisk bound the output of ended processes in sum: beyond, the oldest ones'
	// goes to disk, and from there away. Outputs of up to smallOutput do not count.
	keptMemory  = 8 << 20
	keptDisk    = 256 << 20
	smallOutput = 4 << 10

	// largestList and mostInList bound the answer to List below the protocol's largest message, in
	// bytes and in fields.
	largestList = 3 << 20
	mostInList  = guest.MaxFields - fieldsListed
	// fieldsListed is more than a process has besides its arguments.
	fieldsListed = 32
)

// table holds every process until it is forgotten.
type table struct {
	mu     sync.Mutex
	closed bool
	byID   map[string]*process
	order  []*process // by start
	ended  []*process // by end
	held   []*process // ended, with streams that a child they left behind may still write to
	memory int64
	disk   int64
}

func newTable() *table { return &table{byID: map[string]*process{}} }

// claim gives the process with that id and whether it is new: then the caller must start it.
func (t *table) claim(id string, make func(id string) *process) (p *process, isNew bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, false, connect.NewError(connect.CodeUnavailable, errors.New("the guest program closes"))
	}
	t.expire(time.Now())
	if p, ok := t.byID[id]; ok {
		return p, false, nil
	}
	if id == "" {
		id = rand.Text()
	}
	p = make(id)
	t.byID[id] = p
	t.order = append(t.order, p)
	return p, true, nil
}

// get finds a process that runs, or has run and is kept.
func (t *table) get(id string) (*process, error) {
	t.mu.Lock()
	t.expire(time.Now())
	p, ok := t.byID[id]
	t.mu.Unlock()
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no process %q", id))
	}
	<-p.ready
	return p, nil
}

// all gives every process, oldest first.
func (t *table) all() []*process {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(time.Now())
	return slices.Clone(t.order)
}

// list describes every process, within the bounds of a message.
func (t *table) list() []*guestv1.Process {
	var list []*guestv1.Process
	size, fields := 0, 0
	for _, p := range slices.Backward(t.all()) {
		select {
		case <-p.ready:
		default:
			continue // is just being started
		}
		description := p.describe()
		size += proto.Size(description)
		if fields += fieldsListed + len(description.Argv); size > largestList || fields > mostInList {
			break
		}
		list = append(list, description)
	}
	slices.Reverse(list)
	return list
}

// markExited takes in a process that has ended, and makes room for its output.
func (t *table) markExited(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = append(t.ended, p)
	t.expire(p.ended)
	t.held = append(t.held, p) // measured at once
	t.makeRoom()
}

// grown makes room for what children that an ended process left behind have printed.
func (t *table) grown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.makeRoom()
}

// makeRoom keeps the output of ended processes within its bounds, whether it was read or not. The
// processes that ended first lose theirs first.
func (t *table) makeRoom() {
	t.held = slices.DeleteFunc(t.held, func(p *process) bool {
		ended := true
		for _, s := range p.streams() {
			if s.hasEnded() {
				s.ring.trim()
			} else {
				ended = false
			}
		}
		t.measure(p)
		return ended
	})
	for _, p := range t.ended {
		if t.memory <= keptMemory {
			break
		}
		t.shrink(p, p.memory, (*ring).flush)
	}
	for _, p := range t.ended { // there is no disk for it
		if t.memory <= keptMemory {
			break
		}
		t.shrink(p, p.memory, (*ring).discard)
	}
	for _, p := range t.ended {
		if t.disk <= keptDisk {
			break
		}
		t.shrink(p, p.disk, func(r *ring, _ bool) { r.removeSpill() })
	}
}

// shrink acts on the output of an ended process when it takes anything.
func (t *table) shrink(p *process, taken int64, act func(r *ring, ended bool)) {
	if taken == 0 {
		return
	}
	for _, s := range p.streams() {
		act(s.ring, s.hasEnded())
	}
	t.measure(p)
}

// measure notes what the output of an ended process takes.
func (t *table) measure(p *process) {
	var memory, disk int64
	for _, s := range p.streams() {
		m, d := s.ring.sizes()
		memory, disk = memory+m, disk+d
	}
	if memory <= smallOutput {
		memory = 0
	}
	t.memory += memory - p.memory
	t.disk += disk - p.disk
	p.memory, p.disk = memory, disk
}

// expire forgets the processes that ended first, when there are too many or it was too long ago.
func (t *table) expire(now time.Time) {
	for len(t.ended) > mostKept || len(t.ended) > 0 && now.Sub(t.ended[0].ended) > keptFor {
		p := t.ended[0]
		t.ended = t.ended[1:]
		is := func(other *process) bool { return other == p }
		t.order = slices.DeleteFunc(t.order, is)
		t.held = slices.DeleteFunc(t.held, is)
		delete(t.byID, p.id)
		t.memory -= p.memory
		t.disk -= p.disk
		p.forget()
	}
}

// close refuses new processes and gives those that there are.
func (t *table) close() []*process {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return slices.Clone(t.order)
}
