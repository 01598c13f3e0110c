package enginetest

import (
	"bufio"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// powers are features that stand for an interface which the port does not have yet: nobody can
// have them.
var powers = []stacyvm.Feature{stacyvm.FeaturePause, stacyvm.FeatureResume, stacyvm.FeatureSnapshots, stacyvm.FeatureFork}

func testCapabilities(t *testing.T, s suite) {
	if s.engine.Name() == "" {
		t.Error("the engine has no name")
	}
	for range 2 { // the second answer may come from another path
		c, err := s.engine.Probe(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		if !c.Usable || c.Version == "" {
			t.Errorf("%+v: want a usable engine with a version", c)
		}
		if !c.Isolates && len(c.Problems) == 0 {
			t.Error("an engine that does not isolate must say so among its problems")
		}
		for _, name := range c.Enforces {
			if !slices.Contains(stacyvm.AllLimits(), name) {
				t.Errorf("unknown limit %q", name)
			}
		}
		for _, name := range powers {
			if slices.Contains(c.Features, name) {
				t.Errorf("it claims %q, which it has no method for", name)
			}
		}
	}
	if all, err := s.engine.List(bounded(t)); err != nil || len(all) != 0 {
		t.Errorf("after probing: %v, %v", all, err)
	}
}

func testCreate(t *testing.T, s suite) {
	c, err := s.engine.Probe(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	spec := s.spec(t)
	spec.Boot.Env = map[string]string{"GREETING": "from outside"}
	i := s.create(t, spec)
	asked := client(t, i, spec.Boot.Secret)
	if stdout, code := output(t, asked, `printf %s "$GREETING"; exit 3`); stdout != "from outside" || code != 3 {
		t.Errorf("a command gives %q and %d", stdout, code)
	}
	status, err := i.Status(bounded(t))
	if err != nil || !status.Running {
		t.Fatalf("status %+v, %v", status, err)
	}
	for _, name := range stacyvm.AllLimits() {
		if slices.Contains(c.Enforces, name) && slices.Contains(status.Unenforced, name) {
			t.Errorf("%s is said to be enforced, and not to be", name)
		}
		if !slices.Contains(c.Enforces, name) && !slices.Contains(status.Unenforced, name) {
			t.Errorf("%s was asked for, cannot be enforced, and nothing says so", name)
		}
	}
}

func testSecondCreate(t *testing.T, s suite) {
	spec := s.spec(t)
	i := s.create(t, spec)
	asked := client(t, i, spec.Boot.Secret)
	before := bootID(t, asked)
	again := s.spec(t)
	again.ID = spec.ID
	_, err := s.engine.Create(bounded(t), again)
	wantCode(t, "second create", err, stacyvm.CodeConflict)
	if after := bootID(t, asked); after != before {
		t.Error("the second create started the guest anew")
	}
	if r := s.find(t, spec.ID); r == nil || !r.Running {
		t.Errorf("after the second create: %+v", r)
	}
}

func testDestroy(t *testing.T, s suite) {
	spec := s.spec(t)
	i := s.create(t, spec)
	bootID(t, client(t, i, spec.Boot.Secret))
	for range 2 {
		if err := i.Destroy(bounded(t)); err != nil {
			t.Fatal(err)
		}
	}
	if r := s.find(t, spec.ID); r != nil {
		t.Errorf("still listed: %+v", r)
	}
	_, err := i.Status(bounded(t))
	wantCode(t, "status", err, stacyvm.CodeNotFound)
	_, err = i.Dial(bounded(t), engine.Target{})
	wantCode(t, "dial", err, stacyvm.CodeNotFound)
	_, err = s.engine.Attach(bounded(t), spec.ID, spec.Boot.Secret)
	wantCode(t, "attach", err, stacyvm.CodeNotFound)

	remover, ok := s.engine.(engine.Remover)
	if !ok {
		return
	}
	if err := remover.Remove(bounded(t), spec.ID); err != nil {
		t.Errorf("remove of nothing: %v", err)
	}
	second := s.spec(t)
	second.ID = spec.ID // the id is free again
	s.create(t, second)
	for range 2 {
		if err := remover.Remove(bounded(t), spec.ID); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if r := s.find(t, spec.ID); r != nil {
		t.Errorf("still listed after its removal: %+v", r)
	}
}

func testList(t *testing.T, s suite) {
	began := time.Now()
	want := map[stacyvm.SandboxID]string{}
	for _, owner := range []string{"anne", "bob", ""} {
		spec := s.spec(t)
		spec.Labels = map[string]string{engine.LabelOwner: owner, engine.LabelEpoch: "7"}
		s.create(t, spec)
		want[spec.ID] = owner
	}
	all, err := s.engine.List(bounded(t))
	if err != nil || len(all) != len(want) {
		t.Fatalf("%+v, %v: want %d runtimes", all, err, len(want))
	}
	for _, r := range all {
		owner, known := want[r.ID]
		if !known || r.Labels[engine.LabelOwner] != owner || r.Labels[engine.LabelEpoch] != "7" || !r.Running {
			t.Errorf("%+v: want owner %q", r, owner)
		}
		if r.Created.Before(began.Add(-time.Second)) || r.Created.After(time.Now().Add(time.Second)) {
			t.Errorf("created %s, want now", r.Created)
		}
	}
}

// testExpiry: a changed expiry is the label from then on. Nothing ends while this process is
// connected.
func testExpiry(t *testing.T, s suite) {
	expirer, ok := s.engine.(engine.Expirer)
	if !ok {
		return
	}
	spec := s.spec(t)
	spec.Labels = map[string]string{engine.LabelOwner: "anne", engine.LabelExpires: "17"}
	bootID(t, client(t, s.create(t, spec), spec.Boot.Secret))
	for _, seconds := range []int64{time.Now().Add(time.Hour).Unix(), 1} {
		if err := expirer.Expire(bounded(t), spec.ID, time.Unix(seconds, 0)); err != nil {
			t.Fatal(err)
		}
		r := s.find(t, spec.ID)
		want := strconv.FormatInt(seconds, 10)
		if r == nil || !r.Running || r.Labels[engine.LabelExpires] != want || r.Labels[engine.LabelOwner] != "anne" {
			t.Errorf("%+v: want expiry %d", r, seconds)
		}
	}
	wantCode(t, "expire nothing", expirer.Expire(bounded(t), stacyvm.NewSandboxID(), time.Now()), stacyvm.CodeNotFound)
}

func testAttach(t *testing.T, s suite) {
	spec := s.spec(t)
	first := client(t, s.create(t, spec), spec.Boot.Secret)
	second, err := s.engine.Attach(bounded(t), spec.ID, spec.Boot.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if bootID(t, first) != bootID(t, client(t, second, spec.Boot.Secret)) {
		t.Error("attached to another guest")
	}
	wrong := guest.NewSecret()
	third, err := s.engine.Attach(bounded(t), spec.ID, wrong)
	if err == nil {
		_, err = client(t, third, wrong).Ping(bounded(t))
	}
	if err == nil {
		t.Error("a wrong secret opens the guest")
	}
	_, err = s.engine.Attach(bounded(t), stacyvm.NewSandboxID(), spec.Boot.Secret)
	wantCode(t, "attach to nothing", err, stacyvm.CodeNotFound)
}

// echo is a server that answers its first connection's lines; it prints its port first.
const echo = `perl -MSocket -e '$|=1; socket(S,PF_INET,SOCK_STREAM,0); bind(S,sockaddr_in(0,INADDR_LOOPBACK)); listen(S,5);
print((sockaddr_in(getsockname(S)))[0],"\n"); accept(C,S); select(C); $|=1; print C while <C>'`

func testPorts(t *testing.T, s suite) {
	spec := s.spec(t)
	i := s.create(t, spec)
	asked := client(t, i, spec.Boot.Secret)
	o, err := asked.Run(bounded(t), stacyvm.Command{Argv: []string{"/bin/sh", "-c", echo}})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var printed string
	for !strings.Contains(printed, "\n") {
		event, err := o.Next(bounded(t))
		if err != nil || event.Exit != nil {
			t.Fatalf("the server in the sandbox: %+v, %v", event.Exit, err)
		}
		printed += string(event.Data)
	}
	port, err := strconv.ParseUint(strings.TrimSpace(printed), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := i.Dial(bounded(t), engine.Target{Port: uint16(port)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("the port answers %q, %v", line, err)
	}
	_, err = i.Dial(bounded(t), engine.Target{Port: 1})
	wantCode(t, "a port without a listener", err, stacyvm.CodeUnavailable)
}

func testParallel(t *testing.T, s suite) {
	const many = 8
	var all sync.WaitGroup
	for range many {
		spec := s.spec(t)
		all.Go(func() {
			i, err := s.engine.Create(bounded(t), spec)
			if err != nil {
				t.Errorf("create: %v", err)
				return
			}
			if _, err := client(t, i, spec.Boot.Secret).Ping(bounded(t)); err != nil {
				t.Errorf("ping: %v", err)
			}
			if err := i.Destroy(bounded(t)); err != nil {
				t.Errorf("destroy: %v", err)
			}
		})
	}
	all.Wait()
	if left, err := s.engine.List(bounded(t)); err != nil || len(left) != 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}

// testCancelled gives creates up at several moments: each has made its sandbox, or nothing.
func testCancelled(t *testing.T, s suite) {
	for _, patience := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond, 100 * time.Millisecond} {
		spec := s.spec(t)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		i, err := s.engine.Create(ctx, spec)
		cancel()
		if err == nil {
			bootID(t, client(t, i, spec.Boot.Secret))
			if err := i.Destroy(bounded(t)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if r := s.find(t, spec.ID); r != nil {
			t.Errorf("given up after %s (%v), but there is %+v", patience, err, r)
		}
		s.create(t, spec) // as if the first had never been
	}
}

func testReopen(t *testing.T, s suite) {
	c, err := s.engine.Probe(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	spec := s.spec(t)
	i, err := s.engine.Create(bounded(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	before := bootID(t, client(t, i, spec.Boot.Secret))
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	s.engine = s.reopen(t, s.engine)
	if _, err := s.engine.Probe(bounded(t)); err != nil { // as every server does; it must leave runtimes alone
		t.Fatal(err)
	}
	again, err := s.engine.Attach(bounded(t), spec.ID, spec.Boot.Secret)
	if !c.Survives {
		wantCode(t, "attach", err, stacyvm.CodeNotFound)
		if r := s.find(t, spec.ID); r != nil {
			t.Errorf("it says that nothing survives, but there is %+v", r)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if after := bootID(t, client(t, again, spec.Boot.Secret)); after != before {
		t.Error("the guest was started anew")
	}
	if r := s.find(t, spec.ID); r == nil || !r.Running {
		t.Errorf("listed as %+v", r)
	}
	if err := again.Destroy(bounded(t)); err != nil {
		t.Error(err)
	}
}
