package agent

import (
	"context"
	"sync"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	keptExits = 4096
	// mostExits is how many ends one message holds.
	mostExits = 512
)

// exitLog numbers the ends of processes and keeps the last of them for watchers.
type exitLog struct {
	notifier notifier

	mu   sync.Mutex
	last uint64 // number of the newest
	kept []*guestv1.ProcessExit
}

// add notes an end.
func (l *exitLog) add(id string, exit *guestv1.Exit) {
	l.mu.Lock()
	l.last++
	l.kept = append(l.kept, &guestv1.ProcessExit{Number: l.last, Id: id, Exit: exit})
	if len(l.kept) > 2*keptExits { // moving them is rare
		l.kept = append([]*guestv1.ProcessExit(nil), l.kept[len(l.kept)-keptExits:]...)
	}
	l.mu.Unlock()
	l.notifier.broadcast()
}

// after gives up to mostExits ends that follow a number, oldest first.
func (l *exitLog) after(number uint64) []*guestv1.ProcessExit {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.kept[max(len(l.kept)-keptExits, 0):]
	if fresh := l.last - min(number, l.last); fresh < uint64(len(kept)) {
		kept = kept[uint64(len(kept))-fresh:]
	}
	return kept[:min(len(kept), mostExits)]
}

// watch sends ends from the given one on until ctx ends.
func (l *exitLog) watch(ctx context.Context, number uint64, send func(*guestv1.WatchExitsResponse) error) error {
	for first := true; ; {
		news := l.notifier.listen()
		exits := l.after(number)
		if len(exits) > 0 || first {
			if err := send(&guestv1.WatchExitsResponse{Exits: exits}); err != nil {
				return err
			}
			first = false
		}
		if len(exits) > 0 {
			number = exits[len(exits)-1].Number
			continue
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
