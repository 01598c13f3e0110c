package agent

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// idle makes a process that nothing runs for: time can pass in a moment.
func idle(t *testing.T, id string) (*Agent, *process) {
	t.Helper()
	a := &Agent{table: newTable(), ringBytes: defaultRing}
	p, _, err := a.table.claim(id, func(id string) *process { return a.newProcess(id, &guestv1.StartRequest{Argv: []string{"true"}}) })
	if err != nil {
		t.Fatal(err)
	}
	close(p.ready)
	return a, p
}

func TestKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := idle(t, "quiet")
		start := time.Now()
		var got []time.Duration
		ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
		defer cancel()
		time.AfterFunc(20*time.Second, func() { p.stdout.ring.write([]byte("x")) })
		err := (&reader{p: p, frame: frameSize, begun: true, send: func(*guestv1.ProcessEvent) error {
			got = append(got, time.Since(start))
			return nil
		}}).follow(ctx, [2]uint64{})
		if want := []time.Duration{15 * time.Second, 20 * time.Second, 35 * time.Second}; !slices.Equal(got, want) || ctx.Err() == nil {
			t.Errorf("events after %v, %v", got, err)
		}
	})
}

func TestExitIsKeptForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := idle(t, "old")
		p.setExit(&guestv1.Exit{})
		a.table.markExited(p)
		time.Sleep(keptFor)
		if _, err := a.table.get("old"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		_, err := a.table.get("old")
		wantCode(t, err, connect.CodeNotFound)
	})
}
