package launcher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// left names what there is of a sandbox.
func (f *fakes) left(id string) (left []string) {
	if _, err := os.Lstat(f.server.home(id)); err == nil {
		left = append(left, "directory")
	}
	if len(f.processes.Find(f.server.homes())[id]) > 0 {
		left = append(left, "processes")
	}
	f.groups.mu.Lock()
	defer f.groups.mu.Unlock()
	if f.groups.made[id] {
		left = append(left, "groups")
	}
	return left
}

func TestSandbox(t *testing.T) {
	s, f := newServer(t)
	f.create("sb", "7")
	if answer := f.ask(wire.Request{Verb: wire.VerbCreate, ID: "sb", Create: &wire.Create{}}); answer.Failure != wire.FailureExists {
		t.Errorf("a second create: %+v", answer)
	}
	answer := f.ask(wire.Request{Verb: wire.VerbStatus, ID: "sb"})
	if len(answer.Runtimes) != 1 {
		t.Fatalf("%+v", answer)
	}
	if r := answer.Runtimes[0]; r.ID != "sb" || !r.Running || r.Labels[wire.LabelExpires] != "7" || r.Unenforced[0] != "cpu" || r.End != nil {
		t.Errorf("%+v", r)
	}
	for port, want := range map[uint16]wire.Failure{80: "", 81: wire.FailureRefused} {
		if answer := f.ask(wire.Request{Verb: wire.VerbDial, ID: "sb", Port: port}); answer.Failure != want {
			t.Errorf("dial %d: %+v", port, answer)
		}
	}
	f.processes.end("sb")
	if answer := f.ask(wire.Request{Verb: wire.VerbDial, ID: "sb", Port: 80}); answer.Failure != wire.FailureDead {
		t.Errorf("dial to a dead one: %+v", answer)
	}
	if answer := f.ask(wire.Request{Verb: wire.VerbList}); len(answer.Runtimes) != 1 || answer.Runtimes[0].Running || answer.Runtimes[0].End == nil {
		t.Errorf("%+v", answer)
	}
	for range 2 { // what is not there is destroyed
		if answer := f.ask(wire.Request{Verb: wire.VerbDestroy, ID: "sb"}); answer.Failure != "" || len(f.left("sb")) > 0 {
			t.Errorf("%+v, %v", answer, f.left("sb"))
		}
	}
	for _, verb := range []string{wire.VerbStatus, wire.VerbDial, wire.VerbExpire} {
		if answer := f.ask(wire.Request{Verb: verb, ID: "sb"}); answer.Failure != wire.FailureNotFound {
			t.Errorf("%s: %+v", verb, answer)
		}
	}
	if !s.idle(0, 0) {
		t.Error("the launcher is needed by nobody, and stays")
	}
}

// TestRefused: requests that mean nothing are told so, and a fault in the runtime is the fault of
// one request.
func TestRefused(t *testing.T) {
	_, f := newServer(t)
	for name, request := range map[string]wire.Request{
		"verb": {Verb: "dance", ID: "sb"}, "id": {Verb: wire.VerbDestroy, ID: "../sb"}, "no id": {Verb: wire.VerbDestroy},
		"nothing to make": {Verb: wire.VerbCreate, ID: "sb"},
	} {
		if answer := f.ask(request); answer.Failure != wire.FailureInvalid {
			t.Errorf("%s: %+v", name, answer)
		}
	}
	if answer, _ := f.server.answer(wire.Request{Version: wire.Version + 1, Verb: wire.VerbHello}, f.client); answer.Failure != wire.FailureInvalid {
		t.Errorf("another version: %+v", answer)
	}
	f.runtime.panics = true
	if answer := f.ask(wire.Request{Verb: wire.VerbCreate, ID: "sb", Create: &wire.Create{}}); answer.Failure != wire.FailureInternal {
		t.Errorf("panic: %+v", answer)
	}
	f.runtime.panics = false
	if answer := f.ask(wire.Request{Verb: wire.VerbDestroy, ID: "sb"}); answer.Failure != "" || len(f.left("sb")) > 0 {
		t.Errorf("after a panic: %+v, %v", answer, f.left("sb"))
	}
	f.create("sb")
}

// TestCreateFails: of a create that fails, or that nobody waits for any more, nothing is left.
func TestCreateFails(t *testing.T) {
	_, f := newServer(t)
	for kind, fails := range map[wire.Failure]error{
		wire.FailureInternal: errors.New("no"), wire.FailureInvalid: Fail(wire.FailureInvalid, errors.New("no")),
	} {
		f.runtime.fails = fails
		answer := f.ask(wire.Request{Verb: wire.VerbCreate, ID: "sb", Create: &wire.Create{}})
		if answer.Failure != kind || len(f.left("sb")) > 0 {
			t.Errorf("%+v, %v", answer, f.left("sb"))
		}
	}
	f.runtime.fails = nil
	f.groups.marked = errors.New("no")
	answer := f.ask(wire.Request{Verb: wire.VerbCreate, ID: "sb", Create: &wire.Create{}})
	if answer.Failure != wire.FailureLimits || len(f.left("sb")) > 0 {
		t.Errorf("nobody looks after its memory: %+v, %v", answer, f.left("sb"))
	}
	f.groups.marked = nil
	f.client = connection(t)
	f.client.Close()
	if answer := f.ask(wire.Request{Verb: wire.VerbCreate, ID: "sb", Create: &wire.Create{}}); answer.Failure == "" || len(f.left("sb")) > 0 {
		t.Errorf("the client left: %+v, %v", answer, f.left("sb"))
	}
}

// TestNoDescriptors: whatever fails for lack of file descriptors says so, also where gVisor gives
// the text alone.
func TestNoDescriptors(t *testing.T) {
	_, f := newServer(t)
	for _, fails := range []error{
		fmt.Errorf("start: %w", &os.PathError{Op: "open", Path: "x", Err: unix.EMFILE}), unix.ENFILE,
		Fail(wire.FailureInvalid, unix.EMFILE), fmt.Errorf("start: %s", unix.EMFILE.Error()),
	} {
		f.runtime.fails = fails
		answer := f.ask(wire.Request{Verb: wire.VerbCreate, ID: "sb", Create: &wire.Create{}})
		if answer.Failure != wire.FailureDescriptors || len(f.left("sb")) > 0 {
			t.Errorf("%v: %+v, %v", fails, answer, f.left("sb"))
		}
	}
}

// TestDestroyEndsCreate: a create that hangs does not hold up the sandbox's end.
func TestDestroyEndsCreate(t *testing.T) {
	_, f := newServer(t)
	f.runtime.hangs = make(chan struct{})
	created := make(chan wire.Answer)
	go func() { created <- f.ask(wire.Request{Verb: wire.VerbCreate, ID: "sb", Create: &wire.Create{}}) }()
	<-f.runtime.hangs
	if answer := f.ask(wire.Request{Verb: wire.VerbDestroy, ID: "sb"}); answer.Failure != "" {
		t.Errorf("%+v", answer)
	}
	if answer := <-created; answer.Failure == "" || len(f.left("sb")) > 0 {
		t.Errorf("%+v, %v", answer, f.left("sb"))
	}
}

// TestDestroyBesideLists: whoever looks at a sandbox at that moment makes a lock in its directory.
func TestDestroyBesideLists(t *testing.T) {
	_, f := newServer(t)
	done := make(chan struct{})
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					f.ask(wire.Request{Verb: wire.VerbList})
				}
			}
		})
	}
	for range 100 {
		f.create("sb")
		if answer := f.ask(wire.Request{Verb: wire.VerbDestroy, ID: "sb"}); answer.Failure != "" || len(f.left("sb")) > 0 {
			t.Errorf("%+v, %v", answer, f.left("sb"))
			break
		}
	}
	close(done)
	looking.Wait()
}

// TestRestart: another launcher finds what runs and what has ended, and clears what was not
// through or has no directory.
func TestRestart(t *testing.T) {
	_, f := newServer(t)
	for _, id := range []string{"runs", "dead", "never", "half", "ended", "orphan", "damaged"} {
		f.create(id)
	}
	f.processes.end("dead")
	f.runtime.boxes["never"].started = errors.New("created")
	for _, path := range []string{
		filepath.Join(f.server.home("half"), "state"), filepath.Join(f.server.home("ended"), "state"), f.server.home("orphan"),
	} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	end := wire.End{Cause: wire.CauseExpired, At: time.Now()}
	if err := f.server.writeJSON("ended", endFile, end); err != nil {
		t.Fatal(err)
	}
	f.processes.end("ended")
	if err := os.WriteFile(filepath.Join(f.server.home("damaged"), aboutFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.restart()
	causes := map[string]wire.Cause{}
	for _, r := range f.ask(wire.Request{Verb: wire.VerbList}).Runtimes {
		causes[r.ID] = ""
		if r.End != nil {
			causes[r.ID] = r.End.Cause
		}
		if r.Running != (r.ID == "runs") {
			t.Errorf("%+v", r)
		}
	}
	want := map[string]wire.Cause{"runs": "", "dead": wire.CauseLauncherGone, "ended": wire.CauseExpired, "damaged": ""}
	for id, cause := range want {
		if got, listed := causes[id]; !listed || got != cause {
			t.Errorf("%s: cause %q, listed: %v", id, got, listed)
		}
	}
	for _, id := range []string{"never", "half", "orphan"} {
		if left := f.left(id); len(left) > 0 {
			t.Errorf("of %s there is %v", id, left)
		}
	}
	if len(causes) != len(want) {
		t.Errorf("%v", causes)
	}
}

// TestRestartBeside: a sandbox that ends while a launcher starts does not keep that from starting.
func TestRestartBeside(t *testing.T) {
	_, f := newServer(t)
	f.create("sb")
	f.processes.blind = true
	f.restart()
	if runtimes := f.ask(wire.Request{Verb: wire.VerbList}).Runtimes; len(runtimes) != 1 {
		t.Errorf("%+v", runtimes)
	}
}

// TestExpire: what expires is ended when no server has been connected for the grace, and its
// record and end stay.
func TestExpire(t *testing.T) {
	for _, test := range []struct {
		name      string
		expires   time.Duration // from the beginning
		later     time.Duration // told afterwards; 0: nothing
		connected bool
		want      bool
	}{
		{"expired", time.Minute, 0, false, true},
		{"expires later", time.Hour, 0, false, false},
		{"extended", time.Minute, time.Hour, false, false},
		{"a server is connected", time.Minute, 0, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, f := newServer(t)
				began := time.Now()
				unix := func(d time.Duration) int64 { return began.Add(d).Unix() }
				f.create("sb", strconv.FormatInt(unix(test.expires), 10))
				if test.later > 0 {
					if answer := f.ask(wire.Request{Verb: wire.VerbExpire, ID: "sb", Expires: unix(test.later)}); answer.Failure != "" {
						t.Fatal(answer.Error)
					}
				}
				if test.connected {
					s.count(1)
				}
				for range 10 {
					time.Sleep(grace / 4)
					s.expireAll()
					s.expireAll()
				}
				runtime := s.examine("sb")
				if ended := runtime.End != nil && runtime.End.Cause == wire.CauseExpired; ended != test.want || runtime.Running == test.want {
					t.Errorf("%+v", runtime)
				}
				if test.want {
					entries, err := os.ReadDir(s.home("sb"))
					if err != nil || len(entries) != 2 || len(f.left("sb")) != 1 {
						t.Errorf("%v, %v, %v", entries, f.left("sb"), err)
					}
				}
				f.finish()
			})
		})
	}
}

// TestLocks: one at a time has the lock of a name, and nothing is kept of names that nobody uses.
func TestLocks(t *testing.T) {
	var locks keyed
	var holders [2]atomic.Int32
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			name := i % 2
			unlock := locks.lock(strconv.Itoa(name))
			if n := holders[name].Add(1); n != 1 {
				t.Errorf("%d hold one lock", n)
			}
			if !locks.busy(strconv.Itoa(name)) {
				t.Error("a lock that is held is not busy")
			}
			holders[name].Add(-1)
			unlock()
		})
	}
	all.Wait()
	if locks.busy("0") || len(locks.locks) > 0 {
		t.Errorf("%v", locks.locks)
	}
}

// TestStop: the launcher goes when its only client says so and there is no sandbox.
func TestStop(t *testing.T) {
	s, f := newServer(t)
	s.count(1)
	f.create("sb")
	if s.settles() {
		t.Error("it goes, with a sandbox")
	}
	f.ask(wire.Request{Verb: wire.VerbDestroy, ID: "sb"})
	if !s.settles() {
		t.Error("it stays, without a sandbox")
	}
	s.count(1)
	if s.settles() {
		t.Error("it goes, with another client")
	}
}
