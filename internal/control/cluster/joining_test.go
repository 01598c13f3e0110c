package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// authority signs what is "good" and fails when it is told to.
type authority struct{ fault error }

func (a *authority) Check(request string) error {
	if request != "good" {
		return stacyvm.Invalid("csr", "is none")
	}
	return nil
}

func (a *authority) Sign(worker stacyvm.WorkerID, _ string) (cluster.Certificate, error) {
	return cluster.Certificate{Worker: worker, PEM: "of " + string(worker)}, a.fault
}

func (a *authority) Fingerprint() (string, error) { return "f00d", a.fault }

func newJoinRig(t *testing.T) (*rig, *authority) {
	t.Helper()
	a := &authority{}
	r := &rig{controltest.NewRig(t, func(c *control.Config) { c.Authority, c.AuditSync = a, true })}
	return r, a
}

func (r *rig) joinToken(t *testing.T, worker string) string {
	t.Helper()
	issued, err := r.IssueJoinToken(controltest.AsAdmin(t.Context()), worker, 0)
	if err != nil || issued.Fingerprint != "f00d" || issued.Token == "" || !strings.Contains(issued.Token, issued.ID) {
		t.Fatalf("%+v, %v", issued, err)
	}
	return issued.Token
}

func TestJoin(t *testing.T) {
	r, _ := newJoinRig(t)
	ctx := t.Context() // of nobody
	token := r.joinToken(t, "rack1-*")
	_, err := r.Join(ctx, token, "rack1-7", "bad")
	wantCode(t, err, stacyvm.CodeInvalid)
	_, err = r.Join(ctx, token, "rack2-7", "good")
	wantCode(t, err, stacyvm.CodeUnauthenticated)
	_, err = r.Join(ctx, token+"A", "rack1-7", "good")
	wantCode(t, err, stacyvm.CodeUnauthenticated)
	made, err := r.Join(ctx, token, "rack1-7", "good") // no refusal has spent it
	if err != nil || made.Worker != "rack1-7" || made.PEM != "of rack1-7" {
		t.Fatalf("%+v, %v", made, err)
	}
	_, err = r.Join(ctx, token, "rack1-7", "good")
	wantCode(t, err, stacyvm.CodeUnauthenticated)
	list, err := r.JoinTokens(controltest.AsAdmin(ctx))
	if err != nil || len(list) != 1 || list[0].UsedBy != "rack1-7" || list[0].UsedAt.IsZero() {
		t.Errorf("%+v, %v", list, err)
	}
	lines := r.Operations(t, store.OperationFilter{})
	if len(lines) != 2 || lines[0].Action != "worker.join" || lines[0].Resource != "rack1-7" || lines[1].Action != "join_token.issue" || lines[1].Actor != "root" {
		t.Errorf("the audit holds %+v", lines)
	}
	for _, line := range lines {
		if secret := token[strings.LastIndex(token, ".")+1:]; strings.Contains(fmt.Sprint(line), secret) {
			t.Errorf("the audit tells the token: %+v", line)
		}
	}
}

// TestJoinAsAWorkerThatExists: a token for any new worker makes nobody one that is there already.
// One that names it does.
func TestJoinAsAWorkerThatExists(t *testing.T) {
	r, _ := newJoinRig(t)
	anybody := r.joinToken(t, "")
	_, err := r.Join(t.Context(), anybody, controltest.Self, "good")
	wantCode(t, err, stacyvm.CodeForbidden)
	_, err = r.Join(t.Context(), r.joinToken(t, string(controltest.Self)), controltest.Self, "good")
	wantCode(t, err, "")
	_, err = r.Join(t.Context(), anybody, "new", "good") // it was not spent
	wantCode(t, err, "")
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		_, err := tx.Workers().Save(t.Context(), stacyvm.Worker{ID: "there", Status: "online"})
		return err
	})
	another := r.joinToken(t, "*")
	_, err = r.Join(t.Context(), another, "there", "good")
	wantCode(t, err, stacyvm.CodeForbidden)
	wantCode(t, r.DeleteWorker(controltest.AsAdmin(t.Context()), "there", true), "")
	_, err = r.Join(t.Context(), another, "there", "good")
	wantCode(t, err, "")
}

// TestNobodyIsAControlPlanesOwn: no token makes a certificate for the worker in a control plane,
// nor for this one's own name while no record has it; and a worker that says to be such a one is
// not believed.
func TestNobodyIsAControlPlanesOwn(t *testing.T) {
	r, _ := newJoinRig(t)
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		_, err := tx.Workers().Save(t.Context(), stacyvm.Worker{ID: "inside", Status: "online", Capabilities: []string{stacyvm.CapabilityResident}})
		return err
	})
	wantCode(t, r.DeleteWorker(controltest.AsAdmin(t.Context()), controltest.Self, true), "")
	for _, id := range []stacyvm.WorkerID{"inside", controltest.Self} {
		for _, token := range []string{"*", string(id)} {
			_, err := r.Join(t.Context(), r.joinToken(t, token), id, "good")
			wantCode(t, err, stacyvm.CodeForbidden)
		}
	}
	liar := cluster.Beat{Register: true, Worker: stacyvm.Worker{ID: "liar", Session: "s", Capabilities: []string{"spawn", stacyvm.CapabilityResident}}}
	w, err := r.Heartbeat(controltest.AsWorker(t.Context(), "liar", auth.ScopeHeartbeat), liar)
	if err != nil || len(w.Capabilities) != 1 || w.Capabilities[0] != "spawn" {
		t.Errorf("%+v, %v", w, err)
	}
	_, err = r.Heartbeat(controltest.AsWorker(t.Context(), "liar", auth.ScopeHeartbeat), liar)
	wantCode(t, err, "")
}

func TestJoinOnce(t *testing.T) {
	r, _ := newJoinRig(t)
	token := r.joinToken(t, "*")
	var joined atomic.Int32
	var racing sync.WaitGroup
	for i := range 16 {
		racing.Go(func() {
			switch _, err := r.Join(t.Context(), token, stacyvm.WorkerID(fmt.Sprint("w", i)), "good"); stacyvm.CodeOf(err) {
			case "":
				joined.Add(1)
			case stacyvm.CodeUnauthenticated:
			default:
				t.Error(err)
			}
		})
	}
	racing.Wait()
	if joined.Load() != 1 {
		t.Errorf("%d joined", joined.Load())
	}
}

func TestJoinTokensOfDeletedAndElsewhere(t *testing.T) {
	r, a := newJoinRig(t)
	admin := controltest.AsAdmin(t.Context())
	issued, err := r.IssueJoinToken(admin, "w", time.Hour)
	wantCode(t, err, "")
	wantCode(t, r.DeleteJoinToken(admin, issued.ID), "")
	wantCode(t, r.DeleteJoinToken(admin, issued.ID), stacyvm.CodeNotFound)
	_, err = r.Join(t.Context(), issued.Token, "w", "good")
	wantCode(t, err, stacyvm.CodeUnauthenticated)
	a.fault = errors.New("the disk is gone")
	_, err = r.IssueJoinToken(admin, "w", 0)
	wantCode(t, err, stacyvm.CodeUnavailable)

	elsewhere := control.New(control.Config{Store: r.Store, Self: "b"}) // a control plane without the authority's key
	issued, err = elsewhere.IssueJoinToken(admin, "w", 0)
	if err != nil || issued.Fingerprint != "" {
		t.Errorf("%+v, %v", issued, err)
	}
	_, err = elsewhere.Join(t.Context(), issued.Token, "w", "good")
	wantCode(t, err, stacyvm.CodeUnavailable)
	a.fault = nil
	_, err = r.Join(t.Context(), issued.Token, "w", "good") // it was not spent there
	wantCode(t, err, "")
}

// TestWhoMayDoWhatWithWorkers: every verb of administrators refuses clients and workers, and every
// verb of workers all but the worker with the scope, and administrators.
func TestWhoMayDoWhatWithWorkers(t *testing.T) {
	r, _ := newJoinRig(t)
	client := controltest.As(t.Context(), "ann", "")
	for name, do := range map[string]func(ctx context.Context) error{
		"drain":       func(ctx context.Context) error { _, err := r.DrainWorker(ctx, self); return err },
		"resume":      func(ctx context.Context) error { _, err := r.ResumeWorker(ctx, self); return err },
		"delete":      func(ctx context.Context) error { return r.DeleteWorker(ctx, self, true) },
		"issue join":  func(ctx context.Context) error { _, err := r.IssueJoinToken(ctx, "w", 0); return err },
		"list join":   func(ctx context.Context) error { _, err := r.JoinTokens(ctx); return err },
		"delete join": func(ctx context.Context) error { return r.DeleteJoinToken(ctx, "x") },
		"issue a token": func(ctx context.Context) error {
			_, _, err := r.IssueWorkerToken(ctx, auth.WorkerTokenRequest{WorkerID: self})
			return err
		},
	} {
		for caller, ctx := range map[string]context.Context{"nobody": t.Context(), "a client": client, "the worker": controltest.AsWorker(t.Context(), self, auth.WorkerScopes()...)} {
			if err := do(ctx); stacyvm.CodeOf(err) != stacyvm.CodeForbidden {
				t.Errorf("%s by %s: %v", name, caller, err)
			}
		}
	}
	for name, v := range map[string]struct {
		scope string
		do    func(ctx context.Context) error
	}{
		"heartbeat": {auth.ScopeHeartbeat, func(ctx context.Context) error {
			_, err := r.Heartbeat(ctx, cluster.Beat{Worker: stacyvm.Worker{ID: self}})
			return err
		}},
		"certify":   {auth.ScopeHeartbeat, func(ctx context.Context) error { _, err := r.Certify(ctx, self, "good"); return err }},
		"renew":     {auth.ScopeLease, func(ctx context.Context) error { _, err := r.RenewLeases(ctx, self, "session-1", false); return err }},
		"renew one": {auth.ScopeLease, func(ctx context.Context) error { _, err := r.RenewLease(ctx, self, "x", time.Second); return err }},
		"lease":     {auth.ScopeLease, func(ctx context.Context) error { _, _, err := r.WorkerLease(ctx, self, "x"); return err }},
	} {
		for caller, ctx := range map[string]context.Context{
			"nobody": t.Context(), "a client": client, "another worker": controltest.AsWorker(t.Context(), "other", auth.WorkerScopes()...), "without scopes": controltest.AsWorker(t.Context(), self),
			"with the other scopes": controltest.AsWorker(t.Context(), self, without(v.scope)...), "a client of its name": controltest.As(t.Context(), "worker:"+string(self), ""),
		} {
			if err := v.do(ctx); stacyvm.CodeOf(err) != stacyvm.CodeForbidden {
				t.Errorf("%s by %s: %v", name, caller, err)
			}
		}
		for caller, ctx := range map[string]context.Context{"the worker": controltest.AsWorker(t.Context(), self, v.scope), "an administrator": controltest.AsAdmin(t.Context())} {
			if err := v.do(ctx); stacyvm.CodeOf(err) == stacyvm.CodeForbidden || stacyvm.CodeOf(err) == stacyvm.CodeUnauthenticated {
				t.Errorf("%s by %s: %v", name, caller, err)
			}
		}
	}
}

func without(scope string) (others []string) {
	for _, s := range auth.WorkerScopes() {
		if s != scope {
			others = append(others, s)
		}
	}
	return others
}
