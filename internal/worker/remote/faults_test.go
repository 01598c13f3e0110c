package remote_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/workertest"
)

// faulty is a network between a client and a worker: it delays, and it cuts connections wherever
// they are.
type faulty struct {
	target string
	delay  time.Duration // at most, of each piece
	frozen atomic.Bool   // nothing arrives any more, and nobody is told
	cuts   atomic.Int32  // of 1000 pieces, so many are the last of their connection
	cut    atomic.Int32  // connections that were cut
	socket net.Listener
	work   sync.WaitGroup
	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

// between puts a network before an address.
func between(t testing.TB, target string, delay time.Duration) *faulty {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{target: target, delay: delay, socket: socket, open: map[net.Conn]bool{}}
	f.work.Go(f.run)
	t.Cleanup(func() {
		socket.Close()
		f.mu.Lock()
		f.closed = true
		for conn := range f.open {
			conn.Close()
		}
		f.mu.Unlock()
		f.work.Wait()
	})
	return f
}

func (f *faulty) address() string { return f.socket.Addr().String() }

func (f *faulty) run() {
	for {
		near, err := f.socket.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", f.target)
		if err != nil {
			near.Close()
			continue
		}
		if !f.keep(near, far) {
			return
		}
		f.work.Go(func() { f.carry(near, far) })
		f.work.Go(func() { f.carry(far, near) })
	}
}

func (f *faulty) keep(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range conns {
		f.open[conn] = true
		if f.closed {
			conn.Close()
		}
	}
	return !f.closed
}

// carry copies until an end, or until it cuts both ways.
func (f *faulty) carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 8<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if f.frozen.Load() {
			continue
		}
		if f.delay > 0 {
			time.Sleep(rand.N(f.delay)) // this is the fault
		}
		if rand.N(int32(1000)) < f.cuts.Load() {
			f.cut.Add(1)
			_, _ = to.Write(buffer[:rand.N(n)])
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// doubled repeats each call that went well: a duplicate that arrives late changes nothing and says
// the same.
type doubled struct {
	worker.Worker
	t testing.TB
}

func (d doubled) Create(ctx context.Context, ref stacyvm.Ref, r worker.CreateRequest) (worker.Created, error) {
	first, err := d.Worker.Create(ctx, ref, r)
	if err != nil {
		return first, err
	}
	second, err := d.Worker.Create(ctx, ref, r)
	if err == nil && second.RuntimeID != first.RuntimeID {
		d.t.Errorf("a repeated create gives %+v after %+v", second, first)
	}
	if code := stacyvm.CodeOf(err); code == stacyvm.CodeStaleEpoch || code == stacyvm.CodeConflict {
		err = nil // it was destroyed meanwhile
	}
	return first, err
}

func (d doubled) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	return errors.Join(d.Worker.Destroy(ctx, ref), d.Worker.Destroy(ctx, ref))
}

func (d doubled) Expire(ctx context.Context, ref stacyvm.Ref, at time.Time) error {
	return errors.Join(worker.Expire(ctx, d.Worker, ref, at), worker.Expire(ctx, d.Worker, ref, at))
}

func (d doubled) Inventory(ctx context.Context) (worker.Inventory, error) {
	if _, err := d.Worker.Inventory(ctx); err != nil {
		return worker.Inventory{}, err
	}
	return d.Worker.Inventory(ctx)
}

// TestSuiteSlowAndDoubled: the same promises over a slow network, each call twice.
func TestSuiteSlowAndDoubled(t *testing.T) {
	t.Parallel()
	tr := overMTLS(t)
	workertest.Run(t, func(t *testing.T) *workertest.Machine {
		m, l := tr.suite(t)
		slow := between(t, l.address, 2*time.Millisecond)
		m.Worker = doubled{tr.dial(t, "https://"+slow.address()), t}
		return m
	})
}

// soak is one network that loses connections, and what is done over it.
type soak struct {
	t      *testing.T
	client worker.Worker
	failed atomic.Int32
}

// insist repeats a call as long as the connection breaks under it; another error is a failure.
func (s *soak) insist(what string, call func() error) error {
	for range 200 {
		err := call()
		if err == nil {
			return nil
		}
		if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			return fmt.Errorf("%s: %w", what, err)
		}
		s.failed.Add(1)
	}
	return fmt.Errorf("%s never went through", what)
}

// reach gives a client of the sandbox's guest; only its making is insisted on.
func (s *soak) reach(ref stacyvm.Ref, scope guest.Scope) (client *guest.Client, err error) {
	err = s.insist("guest", func() error {
		conn, err := s.client.Guest(s.t.Context(), ref, scope)
		client = guest.NewClient(conn)
		return err
	})
	return client, err
}

// live takes a sandbox through its life and gives its guest's boot id when it is to stay.
func (s *soak) live(ref stacyvm.Ref, stay bool) (boot string, err error) {
	ctx := s.t.Context()
	if err := s.insist("create", func() error { _, err := s.client.Create(ctx, ref, request()); return err }); err != nil {
		return "", err
	}
	exec, err := s.reach(ref, guest.ScopeExec)
	if err != nil {
		return "", err
	}
	if err := s.insist("ping", func() (err error) { boot, err = exec.Ping(ctx); return err }); err != nil {
		return "", err
	}
	if err := s.output(exec); err != nil {
		return "", err
	}
	if stay {
		return boot, nil
	}
	return "", s.insist("destroy", func() error { return s.client.Destroy(ctx, ref) })
}

// output runs a command under an id and reads on from where it was whenever the connection breaks:
// nothing is missing or twice.
func (s *soak) output(exec *guest.Client) error {
	command := stacyvm.Command{ProcessID: "the-one", Argv: []string{"/bin/sh", "-c", "seq 1 30000"}}
	var content bytes.Buffer
	read := func(o *guest.Output, err error) (*stacyvm.Exit, error) {
		if err != nil {
			return nil, err
		}
		defer o.Close()
		for {
			event, err := o.Next(s.t.Context())
			if err != nil || event.Exit != nil {
				return event.Exit, err
			}
			if event.Gap > 0 || len(event.Data) > 0 && event.Offset != uint64(content.Len()) {
				return nil, fmt.Errorf("at %d came %d, %d are missing", content.Len(), event.Offset, event.Gap)
			}
			content.Write(event.Data)
		}
	}
	var exit *stacyvm.Exit
	started := false
	err := s.insist("run", func() (err error) {
		if !started {
			_, err = exec.Start(s.t.Context(), command)
			started = err == nil
			return errors.Join(err, errAgain[started])
		}
		exit, err = read(exec.Attach(s.t.Context(), "the-one", uint64(content.Len()), 0, true))
		return err
	})
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(content.Bytes()); exit.Code != 0 || !bytes.Equal(sum[:], exit.StdoutSHA256) {
		return fmt.Errorf("%d bytes and %+v", content.Len(), exit)
	}
	return nil
}

// errAgain lets insist go on after a start, to the reading.
var errAgain = map[bool]error{true: stacyvm.Errorf(stacyvm.CodeUnavailable, "now read")}

// TestLostConnections: over a network that cuts connections at any moment every call can be
// repeated until it goes through, no output is lost, and in the end the machine has what it was
// asked for and nothing else.
func TestLostConnections(t *testing.T) {
	testneed.Patience(t)
	t.Parallel()
	far := openLocal(t)
	tr := overMTLS(t)
	_, l := tr.connect(t, far.worker, nil)
	network := between(t, l.address, time.Millisecond)
	network.cuts.Store(25)
	s := &soak{t: t, client: tr.dial(t, "https://"+network.address())}
	var mu sync.Mutex
	kept := map[stacyvm.Ref]string{}
	var lives sync.WaitGroup
	for range 4 {
		lives.Go(func() {
			for i := range 10 {
				ref := fresh()
				boot, err := s.live(ref, i%2 == 0)
				if err != nil {
					t.Errorf("%s: %v", ref.ID, err)
					return
				}
				if boot != "" {
					mu.Lock()
					kept[ref] = boot
					mu.Unlock()
				}
			}
		})
	}
	lives.Wait()
	network.cuts.Store(0)
	if network.cut.Load() < 20 || s.failed.Load() < 20 {
		t.Errorf("%d connections were cut, %d calls failed: nothing was tried", network.cut.Load(), s.failed.Load())
	}
	t.Logf("%d connections were cut, %d calls failed", network.cut.Load(), s.failed.Load())
	var inventory worker.Inventory
	if err := s.insist("inventory", func() (err error) { inventory, err = s.client.Inventory(t.Context()); return err }); err != nil {
		t.Fatal(err)
	}
	there, err := far.engine.List(t.Context())
	if err != nil || len(inventory.Runtimes) != len(kept) || len(there) != len(kept) {
		t.Errorf("%d sandboxes were kept, %d are in the inventory, %d in the engine (%v)", len(kept), len(inventory.Runtimes), len(there), err)
	}
	for ref, boot := range kept {
		if now, err := reach(t, s.client, ref, guest.ScopeLogs).Ping(t.Context()); err != nil || now != boot {
			t.Errorf("%s was started anew: %q after %q, %v", ref.ID, now, boot, err)
		}
	}
}

// hanging lets creates wait for the end of their context.
var hanging = mock.Faults{Hang: true}

// TestCutDuringCreate: a create whose connection is lost is undone without its caller.
func TestCutDuringCreate(t *testing.T) {
	far := openLocal(t)
	tr := overTokens(t)
	client, l := tr.connect(t, far.worker, nil)
	network := between(t, l.address, 0)
	lost := tr.dial(t, "http://"+network.address())
	far.engine.Inject(hanging)
	ref := fresh()
	done := make(chan error, 1)
	go func() {
		_, err := lost.Create(t.Context(), ref, request())
		done <- err
	}()
	until(t, "the create", func() bool { there, _ := far.engine.List(t.Context()); return len(there) == 1 })
	network.mu.Lock()
	for conn := range network.open {
		conn.Close()
	}
	network.mu.Unlock()
	wantCode(t, "create", <-done, stacyvm.CodeUnavailable)
	until(t, "the undoing", func() bool {
		inventory, err := client.Inventory(t.Context())
		there, _ := far.engine.List(t.Context())
		return err == nil && len(inventory.Runtimes) == 0 && len(there) == 0
	})
}

// TestLeavingEndsTheCall: who stops waiting ends what goes on at the worker, and in the guest.
func TestLeavingEndsTheCall(t *testing.T) {
	far := openLocal(t)
	client, _ := overMTLS(t).connect(t, far.worker, nil)
	ref := fresh()
	create(t, client, ref)
	exec := reach(t, client, ref, guest.ScopeExec)
	started, err := exec.Start(t.Context(), stacyvm.Command{Argv: []string{"/bin/sh", "-c", "read never"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	own := stacyvm.Errorf(stacyvm.CodeConflict, "the caller has a reason")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { _, err := exec.Wait(ctx, started.ID); done <- err }()
	cancel(own)
	wantCode(t, "wait", <-done, stacyvm.CodeConflict)
	short, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	_, err = exec.Wait(short, started.ID)
	wantCode(t, "wait", err, stacyvm.CodeTimeout)

	far.engine.Inject(hanging)
	ctx, cancel = context.WithCancelCause(t.Context())
	go func() { _, err := client.Create(ctx, fresh(), request()); done <- err }()
	until(t, "the create", func() bool { there, _ := far.engine.List(t.Context()); return len(there) == 2 })
	cancel(own)
	wantCode(t, "create", <-done, stacyvm.CodeConflict)
	if there, err := far.engine.List(t.Context()); err != nil || len(there) != 1 {
		t.Errorf("the call has ended, and the engine has %d sandboxes (%v)", len(there), err)
	}
}

// TestFrozenNetwork: a caller that gave up does not wait for a worker that says nothing. If it
// waited for the worker's undo, it would take 20 seconds.
func TestFrozenNetwork(t *testing.T) {
	far := openLocal(t)
	tr := overMTLS(t)
	_, l := tr.connect(t, far.worker, nil)
	network := between(t, l.address, 0)
	client := tr.dial(t, "https://"+network.address())
	ref := fresh()
	create(t, client, ref)
	exec := reach(t, client, ref, guest.ScopeExec)
	network.frozen.Store(true)
	calls := unaryCalls(client, ref)
	calls["ping"] = func(ctx context.Context) error { _, err := exec.Ping(ctx); return err }
	for what, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		began := time.Now()
		wantCode(t, what, call(ctx), stacyvm.CodeTimeout)
		cancel()
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("%s took %s", what, took)
		}
	}
}

// TestCloseCuts: closing the client ends what goes on over it.
func TestCloseCuts(t *testing.T) {
	far := openLocal(t)
	client, _ := overMTLS(t).connect(t, far.worker, nil)
	ref := fresh()
	create(t, client, ref)
	o, err := reach(t, client, ref, guest.ScopeExec).Run(t.Context(), stacyvm.Command{Argv: []string{"/bin/sh", "-c", "read never"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if event, err := o.Next(t.Context()); err != nil || event.Started == nil {
		t.Fatalf("%+v, %v", event, err)
	}
	far.engine.Inject(hanging)
	done := make(chan error, 1)
	go func() { _, err := client.Create(t.Context(), fresh(), request()); done <- err }()
	until(t, "the create", func() bool { there, _ := far.engine.List(t.Context()); return len(there) == 2 })
	_ = client.Close()
	wantCode(t, "create", <-done, stacyvm.CodeUnavailable)
	_, err = o.Next(t.Context())
	wantCode(t, "output", err, stacyvm.CodeUnavailable)
}
