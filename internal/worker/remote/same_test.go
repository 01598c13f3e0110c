package remote_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// TestSameAnswers: what a guest refuses reads the same from here and from another machine, also
// when the caller is still sending.
func TestSameAnswers(t *testing.T) {
	far := openLocal(t)
	client, _ := overMTLS(t).connect(t, far.worker, nil)
	ref := fresh()
	create(t, client, ref)
	large := func() io.Reader { return bytes.NewReader(make([]byte, 16<<20)) }
	calls := map[string]func(context.Context, worker.Worker) error{
		"no such file": func(ctx context.Context, w worker.Worker) error {
			_, err := reach(t, w, ref, guest.ScopeFiles).StatFile(ctx, "/absent")
			return err
		},
		"reading a directory": func(ctx context.Context, w worker.Worker) error {
			_, _, err := reach(t, w, ref, guest.ScopeFiles).ReadFile(ctx, "/workspace")
			return err
		},
		"a directory is in the way": func(ctx context.Context, w worker.Worker) error {
			_, err := reach(t, w, ref, guest.ScopeFiles).WriteFile(ctx, "/workspace", 0, "", large())
			return err
		},
		"a file is in the way": func(ctx context.Context, w worker.Worker) error {
			files := reach(t, w, ref, guest.ScopeFiles)
			if _, err := files.WriteFile(ctx, "/workspace/file", 0, "", strings.NewReader("x")); err != nil {
				return err
			}
			_, err := files.WriteFile(ctx, "/workspace/file/below", 0, "", large())
			return err
		},
		"no command": func(ctx context.Context, w worker.Worker) error {
			_, err := reach(t, w, ref, guest.ScopeExec).Run(ctx, stacyvm.Command{})
			return err
		},
		"no such process": func(ctx context.Context, w worker.Worker) error {
			_, err := reach(t, w, ref, guest.ScopeExec).Attach(ctx, "absent", 0, 0, true)
			return err
		},
		"input for nobody": func(ctx context.Context, w worker.Worker) error {
			_, err := reach(t, w, ref, guest.ScopeExec).Input(ctx, "absent", make([]byte, 1<<20), nil, false)
			return err
		},
		"a signal for nobody": func(ctx context.Context, w worker.Worker) error {
			return reach(t, w, ref, guest.ScopeExec).Signal(ctx, "absent", 9)
		},
		"a port of nobody": func(ctx context.Context, w worker.Worker) error {
			_, err := reach(t, w, ref, guest.ScopeExec).Connect(ctx, 1)
			return err
		},
		"a bad pattern": func(ctx context.Context, w worker.Worker) error {
			_, err := reach(t, w, ref, guest.ScopeFiles).GlobFiles(ctx, "[")
			return err
		},
		"the other scope": func(ctx context.Context, w worker.Worker) error {
			_, err := reach(t, w, ref, guest.ScopeLogs).GlobFiles(ctx, "*")
			return err
		},
	}
	for name, call := range calls {
		here, there := call(t.Context(), far.worker), call(t.Context(), client)
		own, first := errors.AsType[*stacyvm.Error](here)
		other, second := errors.AsType[*stacyvm.Error](there)
		if !first || !second || own.Code != other.Code || own.Message != other.Message || own.Field != other.Field {
			t.Errorf("%s: %v here, %v there", name, here, there)
		}
	}
}

// TestStaleConnection: a connection of an earlier owner is refused once a newer one has come.
func TestStaleConnection(t *testing.T) {
	far := openLocal(t)
	client, _ := overTokens(t).connect(t, far.worker, nil)
	id := stacyvm.NewSandboxID()
	create(t, client, at(id, 1))
	older := reach(t, client, at(id, 1), guest.ScopeFiles)
	reach(t, client, at(id, 2), guest.ScopeFiles)
	_, err := older.WriteFile(t.Context(), "/workspace/f", 0, "", bytes.NewReader(make([]byte, 4<<20)))
	wantCode(t, "write", err, stacyvm.CodeStaleEpoch)
	_, err = older.StatFile(t.Context(), "/workspace/f")
	wantCode(t, "stat", err, stacyvm.CodeStaleEpoch)
	_, _, err = older.ReadFile(t.Context(), "/workspace/f")
	wantCode(t, "read", err, stacyvm.CodeStaleEpoch)
	if err := client.Destroy(t.Context(), at(id, 2)); err != nil {
		t.Fatal(err)
	}
	_, err = older.Ping(t.Context())
	wantCode(t, "ping of a destroyed one", err, stacyvm.CodeStaleEpoch, stacyvm.CodeNotFound)
}

// TestScopeIsKeptHere: a request beyond a connection's scope is not sent.
func TestScopeIsKeptHere(t *testing.T) {
	client, l := overTokens(t).connect(t, &scripted{}, nil)
	logs := reach(t, client, fresh(), guest.ScopeLogs)
	var asked atomic.Int32
	var counting http.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	l.handler.Store(&counting)
	_, err := logs.WriteFile(t.Context(), "/f", 0, "", bytes.NewReader(make([]byte, 1<<20)))
	wantCode(t, "write", err, stacyvm.CodeForbidden)
	_, err = logs.Run(t.Context(), stacyvm.Command{Argv: []string{"x"}})
	wantCode(t, "run", err, stacyvm.CodeForbidden)
	_, err = logs.Connect(t.Context(), 80)
	wantCode(t, "connect", err, stacyvm.CodeForbidden)
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// TestSecretStays: nobody changes a guest's secret from another machine.
func TestSecretStays(t *testing.T) {
	far := openLocal(t)
	client, _ := overMTLS(t).connect(t, far.worker, nil)
	ref := fresh()
	create(t, client, ref)
	err := reach(t, client, ref, guest.ScopeExec).Rotate(t.Context(), guest.NewSecret())
	wantCode(t, "rotate", err, stacyvm.CodeForbidden)
	if _, err := reach(t, far.worker, ref, guest.ScopeExec).Ping(t.Context()); err != nil {
		t.Errorf("the worker's own connection: %v", err)
	}
}

// TestDeadGuest: a guest that dies under a stream ends it as it does here: not as if it had come
// to its end.
func TestDeadGuest(t *testing.T) {
	far := openLocal(t)
	client, _ := overMTLS(t).connect(t, far.worker, nil)
	for name, w := range map[string]worker.Worker{"here": far.worker, "there": client} {
		ref := fresh()
		create(t, w, ref)
		exec := reach(t, w, ref, guest.ScopeExec)
		o, err := exec.Run(t.Context(), stacyvm.Command{Argv: []string{"/bin/sh", "-c", "yes"}, Lossless: true})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		_, body, err := reach(t, w, ref, guest.ScopeFiles).ReadFile(t.Context(), "/workspace/absent")
		wantCode(t, name+": a file", err, stacyvm.CodeNotFound)
		if body != nil {
			t.Errorf("%s: a file that is not there has a content", name)
		}
		far.engine.Kill(ref.ID)
		for err == nil || stacyvm.CodeOf(err) == stacyvm.CodeNotFound {
			_, err = o.Next(t.Context())
		}
		wantCode(t, name+": output", err, stacyvm.CodeUnavailable)
		_, err = exec.Ping(t.Context())
		wantCode(t, name+": ping", err, stacyvm.CodeUnavailable)
	}
}
