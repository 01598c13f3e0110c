package limits

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// marks are the events of memory groups of version 1 whose sentries are being started.
type marks struct {
	mu sync.Mutex
	of map[string]mark
}

// mark is an event that the kernel sends when a group's use passes its first mark.
type mark struct {
	event int        // a sentry inherits it
	set   chan error // takes one
}

// add begins to have a sandbox's group tell, and gives the event's descriptor. The kernel waits for
// a grace period, 12 ms, while the sandbox's processes start. More marks would be one such wait
// each, and the guard looks at the use by itself beyond the first.
func (m *marks) add(id string, own Limits) (event int, err error) {
	event, err = unix.Eventfd(0, unix.EFD_NONBLOCK)
	if err != nil {
		return 0, err
	}
	one := mark{event, make(chan error, 1)}
	go func() { one.set <- setMark(own, event) }()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[string]mark{}
	}
	m.of[id] = one
	return event, nil
}

// Marked waits until a sandbox's group tells its sentry, which has been started, of its use. After
// an error it does not: nobody would look after the memory.
func (g *Groups) Marked(id string) error { return g.marks.finish(id) }

// finish waits until the group tells, and closes the launcher's descriptor. It does nothing for a
// sandbox whose group has no mark or was finished.
func (m *marks) finish(id string) error {
	m.mu.Lock()
	one, ok := m.of[id]
	delete(m.of, id)
	m.mu.Unlock()
	if !ok {
		return nil
	}
	defer unix.Close(one.event)
	return <-one.set
}

// setMark has the kernel send the event, and sends it once itself: from then on the sentry knows
// that it will be told.
func setMark(own Limits, event int) error {
	usage, err := os.Open(filepath.Join(own.MemoryGroup, "memory.usage_in_bytes"))
	if err != nil {
		return err
	}
	defer usage.Close()
	line := fmt.Sprintf("%d %d %d", event, usage.Fd(), firstMark(own.MemoryBytes))
	if err := os.WriteFile(filepath.Join(own.MemoryGroup, "cgroup.event_control"), []byte(line), 0); err != nil {
		return fmt.Errorf("watch the memory group: %w", err)
	}
	_, err = unix.Write(event, binary.NativeEndian.AppendUint64(nil, 1))
	return err
}
