package auth_test

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
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// joinStore keeps join tokens in memory as a database would: a use is one conditional write.
type joinStore struct {
	mu     sync.Mutex
	tokens map[string]auth.JoinToken
	now    func() time.Time
	fault  error
}

func (s *joinStore) AddJoinToken(_ context.Context, token auth.JoinToken) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token.ID] = token
	return s.fault
}

func (s *joinStore) JoinToken(_ context.Context, id string) (auth.JoinToken, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token, ok := s.tokens[id]
	if !ok {
		return token, stacyvm.Errorf(stacyvm.CodeNotFound, "no such token")
	}
	return token, s.fault
}

func (s *joinStore) UseJoinToken(_ context.Context, id string, worker stacyvm.WorkerID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.tokens[id]
	if !token.UsedAt.IsZero() || !s.now().Before(token.ExpiresAt) {
		return stacyvm.Errorf(stacyvm.CodeConflict, "used or expired")
	}
	token.UsedAt, token.UsedBy = s.now(), worker
	s.tokens[id] = token
	return nil
}

// joinToken makes a token that is kept in a new store.
func joinToken(t *testing.T, worker string, life time.Duration) (*joinStore, string, auth.JoinToken) {
	t.Helper()
	store := &joinStore{tokens: map[string]auth.JoinToken{}, now: atNoon}
	token, kept, err := auth.NewJoinToken(worker, life, noon)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.AddJoinToken(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	return store, token, kept
}

func TestJoin(t *testing.T) {
	for _, c := range []struct {
		pattern, worker string
		at              time.Duration
		ok              bool
	}{
		{"worker-a", "worker-a", 0, true}, {"worker-a", "worker-a", time.Hour - 1, true}, {"worker-a", "worker-a", time.Hour, false}, {"worker-a", "worker-a", 1000 * time.Hour, false},
		{"worker-a", "worker-b", 0, false}, {"worker-a", "worker-aa", 0, false}, {"worker-a", "Worker-a", 0, false}, {"worker-a", "", 0, false}, {"worker.a", "worker-a", 0, false},
		{"rack1-*", "rack1-7", 0, true}, {"rack1-*", "rack1-", 0, true}, {"rack1-*", "rack2-7", 0, false}, {"rack1-?", "rack1-10", 0, false}, {"*", "anybody", 0, true}, {"*", "any/body", 0, false}, {"*", "any body", 0, false},
	} {
		store, token, kept := joinToken(t, c.pattern, 0)
		used, err := auth.Join(t.Context(), store, token, stacyvm.WorkerID(c.worker), noon.Add(c.at))
		if c.ok != (err == nil) || c.ok != (string(used.UsedBy) == c.worker && c.worker != "") {
			t.Errorf("%q by %q after %s: %+v, %v", c.pattern, c.worker, c.at, used, err)
		}
		if !c.ok {
			mustRefuse(t, c.pattern+" by "+c.worker, err, auth.WorkerCredential{Token: token})
			if !store.tokens[kept.ID].UsedAt.IsZero() {
				t.Errorf("%q by %q: a refused use spent it", c.pattern, c.worker)
			}
			continue
		}
		_, err = auth.Join(t.Context(), store, token, stacyvm.WorkerID(c.worker), noon.Add(c.at))
		mustRefuse(t, "a second time", err, auth.WorkerCredential{Token: token})
	}
}

// TestJoinOnce: of many workers with one token, one joins, whatever each of them saw before.
func TestJoinOnce(t *testing.T) {
	store, token, _ := joinToken(t, "*", 0)
	var joined atomic.Int32
	var racing sync.WaitGroup
	for i := range 16 {
		racing.Go(func() {
			if _, err := auth.Join(t.Context(), store, token, stacyvm.WorkerID(fmt.Sprint("w", i)), noon); err == nil {
				joined.Add(1)
			} else {
				mustRefuse(t, "a loser", err, auth.WorkerCredential{Token: token})
			}
		})
	}
	racing.Wait()
	if joined.Load() != 1 {
		t.Errorf("%d joined", joined.Load())
	}
}

// TestJoinByTheStoresClock: a control plane whose clock is behind lets nobody in late.
func TestJoinByTheStoresClock(t *testing.T) {
	store, token, _ := joinToken(t, "w", time.Minute)
	store.now = func() time.Time { return noon.Add(time.Minute) }
	_, err := auth.Join(t.Context(), store, token, "w", noon)
	mustRefuse(t, "expired", err, auth.WorkerCredential{Token: token})
}

func TestJoinForgeries(t *testing.T) {
	store, token, kept := joinToken(t, "*", 0)
	_, other, _ := joinToken(t, "*", 0)
	parts, others := strings.Split(token, "."), strings.Split(other, ".")
	if len(parts) != 3 || strings.Contains(fmt.Sprintf("%+v %x", kept, kept.Hash), parts[2]) {
		t.Fatalf("what is kept tells the token: %+v", kept)
	}
	texts := map[string]error{}
	for name, forged := range map[string]string{
		"empty": "", "unknown id": other, "another's secret": parts[0] + "." + parts[1] + "." + others[2], "another's id": parts[0] + "." + others[1] + "." + parts[2], "the hash": parts[0] + "." + parts[1] + "." + b64(kept.Hash[:]),
		"no secret": parts[0] + "." + parts[1] + ".", "no id": parts[0] + ".." + parts[2], "next version": strings.Replace(token, "v1", "v2", 1), "more": token + ".x", "a space": token + " ", "a line end": token + "\n", "upper case": parts[0] + "." + strings.ToUpper(parts[1]) + "." + parts[2],
		"huge": token + strings.Repeat("x", 1<<20), "a worker's token": sign(secretA, signedClaims()), "an id that is a path": parts[0] + ".../../x." + parts[2], "padding": token + "=",
	} {
		_, err := auth.Join(t.Context(), store, forged, "w", noon)
		mustRefuse(t, name, err, auth.WorkerCredential{Token: forged})
		texts[fmt.Sprint(err)] = err
	}
	if len(texts) != 1 {
		t.Errorf("the errors tell apart what is wrong: %v", texts)
	}
	if _, err := auth.Join(t.Context(), store, token, "w", noon); err != nil {
		t.Errorf("after all forgeries: %v", err)
	}
}

func TestJoinPassesFaultsOn(t *testing.T) {
	store, token, _ := joinToken(t, "*", 0)
	store.fault = stacyvm.Wrap(stacyvm.CodeUnavailable, errors.New("gone"), "the store does not answer")
	if _, err := auth.Join(t.Context(), store, token, "w", noon); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("%v", err)
	}
}

func TestNewJoinTokenRefuses(t *testing.T) {
	for _, c := range []struct {
		field, worker string
		life          time.Duration
	}{
		{"worker", "", 0}, {"worker", "a/b", 0}, {"worker", "[", 0}, {"worker", strings.Repeat("x", 65), 0}, {"worker", "a b", 0}, {"worker", `a\b`, 0},
		{"ttl", "w", -1}, {"ttl", "w", time.Millisecond}, {"ttl", "w", auth.JoinTokenMax + 1},
	} {
		token, _, err := auth.NewJoinToken(c.worker, c.life, noon)
		if known, ok := errors.AsType[*stacyvm.Error](err); token != "" || !ok || known.Code != stacyvm.CodeInvalid || known.Field != c.field {
			t.Errorf("%q, %s: %v", c.worker, c.life, err)
		}
	}
}
