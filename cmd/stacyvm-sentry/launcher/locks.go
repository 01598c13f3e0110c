package launcher

import "sync"

// keyed is a lock for each name.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	sync.Mutex
	users int
}

func (k *keyed) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	lock := k.locks[name]
	if lock == nil {
		lock = &keyedLock{}
		k.locks[name] = lock
	}
	lock.users++
	k.mu.Unlock()
	lock.Lock()
	return func() {
		lock.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if lock.users--; lock.users == 0 {
			delete(k.locks, name)
		}
	}
}

// busy tells whether somebody holds or waits for the lock of name.
func (k *keyed) busy(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.locks[name] != nil
}
