package mock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/guest/agent"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// runtime is one sandbox: a directory and a guest program in this process. It implements
// engine.Instance.
type runtime struct {
	engine     *Engine
	id         stacyvm.SandboxID
	created    time.Time
	unenforced []stacyvm.Limit
	dir        string

	ending  sync.Mutex     // held by who takes it apart, to the end
	serving sync.WaitGroup // connections of the guest program

	mu     sync.Mutex
	labels map[string]string
	boot   guest.Boot
	agent  *agent.Agent // nil until somebody dials
	ended  string       // why it does not run
	died   time.Time    // when it ended by itself; zero: it did not
	gone   bool         // it is being destroyed
	muted  bool
	conns  map[net.Conn]bool // the guest's ends
}

func newRuntime(e *Engine, spec engine.Spec) *runtime {
	r := &runtime{
		engine: e, id: spec.ID, labels: maps.Clone(spec.Labels), created: time.Now().UTC(),
		dir: filepath.Join(e.dir, string(spec.ID)), ended: "it is being made", conns: map[net.Conn]bool{},
	}
	for _, limit := range []struct {
		name  stacyvm.Limit
		asked bool
	}{
		{stacyvm.LimitMemory, spec.MemoryBytes > 0}, {stacyvm.LimitCPU, spec.CPUs > 0},
		{stacyvm.LimitDisk, spec.DiskBytes > 0}, {stacyvm.LimitPids, spec.Pids > 0},
	} {
		if limit.asked {
			r.unenforced = append(r.unenforced, limit.name)
		}
	}
	return r
}

// start makes it ready. Its directory and its guest program come with the first dial, so that who
// measures creates does not measure them.
func (r *runtime) start(boot guest.Boot) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return stacyvm.Errorf(stacyvm.CodeConflict, "the sandbox was destroyed meanwhile")
	}
	boot.Env = maps.Clone(boot.Env)
	boot.User = "" // an account of the image's root file system, which is not here
	r.boot, r.ended, r.died = boot, "", time.Time{}
	return nil
}

// wake makes the directory and the guest program if they are not there; r.mu is held.
func (r *runtime) wake() error {
	if r.agent != nil {
		return nil
	}
	root := filepath.Join(r.dir, "root")
	for _, name := range []string{"workspace", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	a, err := agent.New(agent.Config{Root: root, SpillDir: filepath.Join(r.dir, "spill"), Version: version}, r.boot)
	r.agent = a
	return err
}

func (r *runtime) state() (running bool, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended == "", r.ended
}

func (r *runtime) labelled() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.labels)
}

// cause is why it ended.
func (r *runtime) cause() stacyvm.Cause {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.causeLocked()
}

func (r *runtime) causeLocked() stacyvm.Cause {
	if r.died.IsZero() {
		return stacyvm.Cause{}
	}
	return stacyvm.Cause{Reason: stacyvm.ReasonRuntimeDied, Detail: r.ended, Since: r.died}
}

// Dial implements engine.Instance. A port is a port of this machine.
func (r *runtime) Dial(ctx context.Context, target engine.Target) (net.Conn, error) {
	if err := r.engine.present().hang(ctx); err != nil {
		return nil, wrap(err)
	}
	if r.engine.failDial() {
		return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "the sandbox cannot be reached")
	}
	if target.Port == 0 {
		return r.serve()
	}
	if err := r.reachable(); err != nil {
		return nil, err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(target.Port))))
	if err != nil && ctx.Err() == nil {
		return nil, stacyvm.Wrap(stacyvm.CodeUnavailable, err, "nothing answers on this port")
	}
	return conn, wrap(err)
}

func (r *runtime) reachable() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.gone:
		return errNotFound
	case r.ended != "":
		return stacyvm.Wrap(stacyvm.CodeUnavailable, errors.New(r.ended), "the sandbox does not run")
	}
	return nil
}

// serve connects the caller with the guest program.
func (r *runtime) serve() (net.Conn, error) {
	if err := r.reachable(); err != nil {
		return nil, err
	}
	host, inside, err := pair()
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the sandbox cannot be reached")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err = errNotFound // ended meanwhile
	if r.ended == "" {
		err = r.wake()
	}
	if err != nil {
		host.Close()
		inside.Close()
		return nil, wrap(err)
	}
	r.conns[inside] = true
	if a := r.agent; !r.muted {
		r.serving.Go(func() {
			_ = a.ServeConn(context.Background(), inside) // ends with the connection or the agent
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.conns, inside)
		})
	}
	return host, nil
}

// Status implements engine.Instance.
func (r *runtime) Status(ctx context.Context) (engine.Status, error) {
	if err := ctx.Err(); err != nil {
		return engine.Status{}, wrap(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return engine.Status{}, errNotFound
	}
	return engine.Status{
		Running:    r.ended == "",
		Detail:     r.ended,
		Cause:      r.causeLocked(),
		Unenforced: r.unenforced,
	}, nil
}

// Destroy implements engine.Instance.
func (r *runtime) Destroy(ctx context.Context) error {
	if err := errors.Join(ctx.Err(), r.engine.present().Destroy); err != nil {
		return wrap(err)
	}
	return r.destroy()
}

// destroy removes everything; it may be called at any time and again.
func (r *runtime) destroy() error {
	r.mu.Lock()
	r.gone = true
	r.mu.Unlock()
	if err := r.kill("it was destroyed"); err != nil {
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the sandbox's processes do not end")
	}
	r.ending.Lock()
	defer r.ending.Unlock()
	r.serving.Wait()
	r.engine.mu.Lock()
	mine := r.engine.runtimes[r.id] == r
	r.engine.mu.Unlock()
	if !mine {
		return nil // it was removed before, and the id may be another's
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the sandbox's directory cannot be removed")
	}
	r.engine.mu.Lock()
	delete(r.engine.runtimes, r.id)
	r.engine.mu.Unlock()
	return nil
}

// kill ends the guest program and all its processes.
func (r *runtime) kill(why string) error {
	r.ending.Lock()
	defer r.ending.Unlock()
	r.mu.Lock()
	a := r.agent
	r.agent, r.ended = nil, why
	if r.died.IsZero() {
		r.died = time.Now()
	}
	r.cut()
	r.mu.Unlock()
	if a == nil {
		return nil
	}
	return a.Close()
}

// mute makes the guest program unreachable.
func (r *runtime) mute() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.muted = true
	r.cut()
}

// cut closes every connection; r.mu is held.
func (r *runtime) cut() {
	for conn := range r.conns {
		conn.Close()
	}
	clear(r.conns)
}

// pair gives two connected stream sockets: unlike net.Pipe they have a buffer, as every real
// connection does.
func pair() (net.Conn, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	var conns [2]net.Conn
	var errs [2]error
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "mock guest")
		conns[i], errs[i] = net.FileConn(file)
		file.Close()
	}
	if err := errors.Join(errs[:]...); err != nil {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
		return nil, nil, err
	}
	return conns[0], conns[1], nil
}
