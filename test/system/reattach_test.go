package system

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// TestReattach: a command prints a line each 10 ms for a minute while its reader is cut 50 times
// and the server restarted 3 times. What was read, piece by piece, is what was printed.
func TestReattach(t *testing.T) {
	t.Parallel()
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{})
	const lines, cuts, restarts = 6000, 50, 3
	process, err := s.Start(t.Context(), sandbox.ID, client.ExecRequest{Mode: client.ModeArgv, Command: "python3", Args: []string{"-uc", fmt.Sprintf(`
import time
start = time.monotonic()
for i in range(%d):
    print(f"line {i:05d} " + "x" * (i %% 50))
    time.sleep(max(0, start + (i + 1) * 0.01 - time.monotonic()))
`, lines)}})
	if err != nil {
		t.Fatal(err)
	}

	restart := make(chan struct{})
	restarted := make(chan struct{})
	go func() { // restarts happen beside the reading, as in life
		defer close(restarted)
		for range restart {
			s.stop()
			s.up()
		}
	}()

	var got strings.Builder
	var exit *client.Exit
	for cut := range cuts {
		if cut%(cuts/restarts) == cuts/restarts/2 {
			restart <- struct{}{}
		}
		exit = s.readFor(sandbox.ID, process.ID, &got, time.Minute/(cuts+2))
		if exit != nil {
			t.Fatalf("the command ended after %d cuts: %+v", cut, *exit)
		}
	}
	close(restart)
	<-restarted
	exit = s.readFor(sandbox.ID, process.ID, &got, 2*time.Minute)
	if exit == nil || exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "line %05d %s\n", i, strings.Repeat("x", i%50))
	}
	if got.String() != want.String() {
		t.Errorf("got %d bytes that differ from the %d that were printed", got.Len(), want.Len())
	}
}

// readFor reads on from where got ends until time is up or the process ends.
func (s *server) readFor(sandbox, process string, got *strings.Builder, limit time.Duration) *client.Exit {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	for event, err := range s.Output(ctx, sandbox, process, client.OutputRequest{StdoutOffset: uint64(got.Len())}) {
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			s.t.Fatalf("after %d bytes: %v\n%s", got.Len(), err, s.Log())
		case event.Gap > 0:
			s.t.Fatalf("%d bytes are missing at %d", event.Gap, event.Offset)
		case event.Exit != nil:
			return event.Exit
		case event.Stream == client.Stdout:
			if event.Offset != uint64(got.Len()) {
				s.t.Fatalf("offset %d after %d bytes", event.Offset, got.Len())
			}
			got.Write(event.Data)
		}
	}
	return nil
}
