package budget

import (
	"errors"
	"sync"
)

// Errors of Slots.Acquire.
var (
	// ErrQuota says that the caller holds as many slots as it may.
	ErrQuota = errors.New("the quota is used up")
	// ErrAllTaken says that all callers together hold every slot.
	ErrAllTaken = errors.New("all slots are taken")
)

// Slots bounds how many requests or connections are open at once, of all callers together and of
// each.
type Slots struct {
	mu   sync.Mutex
	free int
	held map[string]int // by the quota's name
}

// Quota is the most slots that one name may hold, such as a credential or an address.
type Quota struct {
	Name string
	Most int
}

// NewSlots makes so many slots.
func NewSlots(n int) *Slots { return &Slots{free: n, held: map[string]int{}} }

// Acquire takes one slot, which counts against every quota. release gives it back; a second call
// changes nothing. ErrQuota: one of the quotas is used up; ErrAllTaken: no slot is free.
func (s *Slots) Acquire(quotas ...Quota) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range quotas {
		if s.held[q.Name] >= q.Most {
			return nil, ErrQuota
		}
	}
	if s.free == 0 {
		return nil, ErrAllTaken
	}
	s.free--
	for _, q := range quotas {
		s.held[q.Name]++
	}
	return sync.OnceFunc(func() { s.release(quotas) }), nil
}

func (s *Slots) release(quotas []Quota) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	for _, q := range quotas {
		if s.held[q.Name]--; s.held[q.Name] == 0 {
			delete(s.held, q.Name)
		}
	}
}
