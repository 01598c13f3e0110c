package budget_test

import (
	"errors"
	"testing"

	"github.com/stacyvm/stacyvm/internal/budget"
)

func TestSlots(t *testing.T) {
	s := budget.NewSlots(4)
	caller := func(name string) []budget.Quota {
		return []budget.Quota{{Name: "key", Most: 3}, {Name: "key/" + name, Most: 2}}
	}
	var first func()
	for range 2 {
		release, err := s.Acquire(caller("one")...)
		if err != nil {
			t.Fatal(err)
		}
		first = release
	}
	if _, err := s.Acquire(caller("one")...); !errors.Is(err, budget.ErrQuota) {
		t.Errorf("a third slot of one caller: %v", err)
	}
	if _, err := s.Acquire(caller("two")...); err != nil {
		t.Errorf("the first slot of another caller: %v", err)
	}
	if _, err := s.Acquire(caller("two")...); !errors.Is(err, budget.ErrQuota) {
		t.Errorf("a fourth slot of one key: %v", err)
	}
	if _, err := s.Acquire(budget.Quota{Name: "other key", Most: 3}); err != nil {
		t.Errorf("another key has no room: %v", err)
	}
	if _, err := s.Acquire(budget.Quota{Name: "other key", Most: 3}); !errors.Is(err, budget.ErrAllTaken) {
		t.Errorf("a fifth of four slots: %v", err)
	}
	first()
	first() // gives nothing back twice
	if _, err := s.Acquire(caller("one")...); err != nil {
		t.Errorf("a slot that was given back: %v", err)
	}
	if _, err := s.Acquire(budget.Quota{Name: "other key", Most: 3}); !errors.Is(err, budget.ErrAllTaken) {
		t.Errorf("a slot that was given back twice: %v", err)
	}
}
