package guest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// newDirectSandbox also takes direct connections, and counts them.
func newDirectSandbox(t testing.TB) (*sandbox, *atomic.Int32) {
	t.Helper()
	s := newSandbox(t, "a secret that is long enough for tests")
	dials := new(atomic.Int32)
	s.DialDirect = func(ctx context.Context) (net.Conn, error) {
		dials.Add(1)
		return s.dial(ctx)
	}
	return s, dials
}

// largest reads an output to its end and gives its longest piece.
func largest(t testing.TB, o *guest.Output) (longest, total int) {
	t.Helper()
	defer o.Close()
	for {
		event, err := o.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return longest, total
		}
		if err != nil {
			t.Fatal(err)
		}
		longest, total = max(longest, len(event.Data)), total+len(event.Data)
	}
}

// TestDirectConnections: one after the other, commands and files need one connection, and bytes
// come in large frames.
func TestDirectConnections(t *testing.T) {
	s, dials := newDirectSandbox(t)
	exec, files := s.client(guest.ScopeExec), s.client(guest.ScopeFiles)
	content := bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
	if _, err := files.WriteFile(t.Context(), "/file", 0, "", bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, body, err := files.ReadFile(t.Context(), "/file")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		_ = body.Close()
	}
	started, err := exec.Start(t.Context(), shell("cat "+filepath.Join(s.root, "file")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.Wait(t.Context(), started.ID); err != nil {
		t.Fatal(err)
	}
	o, err := exec.Attach(t.Context(), started.ID, 0, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	longest, total := largest(t, o)
	if total != len(content) || longest <= 64<<10 || longest > guest.LargeFrame {
		t.Errorf("%d bytes in pieces of up to %d", total, longest)
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestSharedConnectionsCarrySmallFrames: a large frame would hold up the others.
func TestSharedConnectionsCarrySmallFrames(t *testing.T) {
	s := newSandbox(t, "a secret that is long enough for tests")
	o, err := s.client(guest.ScopeExec).Run(t.Context(), shell("head -c 1000000 /dev/zero"))
	if err != nil {
		t.Fatal(err)
	}
	if longest, total := largest(t, o); total != 1000000 || longest > 64<<10 {
		t.Errorf("%d bytes in pieces of up to %d", total, longest)
	}
}

// TestMoreRequestsThanDirectConnections: the others share connections.
func TestMoreRequestsThanDirectConnections(t *testing.T) {
	const commands = 100
	s, dials := newDirectSandbox(t)
	exec := s.client(guest.ScopeExec)
	outputs := make([]*guest.Output, commands)
	for i := range outputs {
		command := shell("read line; echo $line")
		command.Stdin, command.ProcessID = true, "p"+string(rune('a'+i/26))+string(rune('a'+i%26))
		var err error
		if outputs[i], err = exec.Run(t.Context(), command); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range outputs {
		event, err := o.Next(t.Context())
		if err != nil || event.Started == nil {
			t.Fatalf("%+v, %v", event, err)
		}
		if _, err := exec.Input(t.Context(), event.Started.ID, []byte("said\n"), nil, true); err != nil {
			t.Fatal(err)
		}
		if stdout, _, exit := collect(t, o); string(stdout) != "said\n" || exit.Code != 0 {
			t.Errorf("%q, %+v", stdout, exit)
		}
	}
	if n := dials.Load(); n != 64 {
		t.Errorf("%d direct connections", n)
	}
}

// TestAGuestWithoutDirectConnections is one of an earlier release: it is asked once.
func TestAGuestWithoutDirectConnections(t *testing.T) {
	s := newSandbox(t, "a secret that is long enough for tests")
	asked := 0
	s.DialDirect = func(context.Context) (net.Conn, error) {
		asked++
		return nil, stacyvm.Errorf(stacyvm.CodeUnsupported, "it has none")
	}
	for range 3 {
		o, err := s.client(guest.ScopeExec).Run(t.Context(), shell("echo well"))
		if err != nil {
			t.Fatal(err)
		}
		if stdout, _, _ := collect(t, o); string(stdout) != "well\n" {
			t.Errorf("%q", stdout)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// TestDirectConnectionsEndWithTheWatchedOne: a guest that gives no sign of life on the connection
// for control calls, which is asked for one, is given up.
func TestDirectConnectionsEndWithTheWatchedOne(t *testing.T) {
	s, _ := newDirectSandbox(t)
	exec := s.client(guest.ScopeExec)
	if _, err := exec.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	watched := s.last
	s.mu.Unlock()
	o, err := exec.Run(t.Context(), shell("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := o.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = watched.Close()
	_, err = o.Next(t.Context())
	if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("a stream of a guest that is gone: %v", err)
	}
}

// countingConn counts writes.
type countingConn struct {
	net.Conn
	writes atomic.Int32
}

func (c *countingConn) Write(data []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(data)
}

// TestTheEndIsOneWrite: a command that prints nothing takes two writes of the guest, its start and
// its end. Each is a slow system call there.
func TestTheEndIsOneWrite(t *testing.T) {
	s := newSandbox(t, "a secret that is long enough for tests")
	var guestEnd *countingConn
	ended := make(chan struct{})
	s.DialDirect = func(context.Context) (net.Conn, error) {
		ours, theirs, err := socketPair()
		if err == nil {
			guestEnd = &countingConn{Conn: theirs}
			go func() {
				defer close(ended)
				_ = s.agent.ServeConn(context.Background(), guestEnd)
			}()
		}
		return ours, err
	}
	for range 5 {
		o, err := s.client(guest.ScopeExec).Run(t.Context(), shell("exit 3"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, exit := collect(t, o); exit == nil || exit.Code != 3 {
			t.Errorf("%+v", exit)
		}
	}
	s.Close()
	<-ended
	if n := guestEnd.writes.Load(); n > 2*5 {
		t.Errorf("%d writes for 5 commands", n)
	}
}

// TestDirectTransfersThatStandStillHoldLittle measures downloads that nobody reads, on both sides.
func TestDirectTransfersThatStandStillHoldLittle(t *testing.T) {
	const transfers = 32
	s, _ := newDirectSandbox(t)
	if err := os.WriteFile(filepath.Join(s.root, "large"), make([]byte, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	before := heap()
	bodies := make([]io.ReadCloser, transfers)
	for i := range bodies {
		_, body, err := s.client(guest.ScopeFiles).ReadFile(t.Context(), "/large")
		if err != nil {
			t.Fatal(err)
		}
		bodies[i] = body
	}
	settled := heap()
	for last := int64(0); settled != last; {
		last = settled
		for range 100 {
			runtime.Gosched()
		}
		settled = heap()
	}
	each := (settled - before) / transfers
	if each > 3*guest.LargeFrame {
		t.Errorf("a download that nobody reads holds %d KiB", each>>10)
	}
	t.Logf("a download holds %d KiB", each>>10)
	for _, body := range slices.Backward(bodies) {
		_ = body.Close()
	}
}
