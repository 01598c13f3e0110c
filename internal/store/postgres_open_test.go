package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

// TestWrongDSNsTellNoPassword opens with each mistake that a connection string invites.
func TestWrongDSNsTellNoPassword(t *testing.T) {
	for name, tt := range map[string]struct {
		config store.Config
		want   stacyvm.Code
	}{
		"missing":            {store.Config{}, stacyvm.CodeInvalid},
		"nobody listens":     {store.Config{DSN: "postgres://u:hunter2@127.0.0.1:1/x"}, stacyvm.CodeUnavailable},
		"keywords":           {store.Config{DSN: "host=127.0.0.1 port=1 user=u password=hunter2"}, stacyvm.CodeUnavailable},
		"no such host":       {store.Config{DSN: "postgres://u:hunter2@nowhere.invalid/x"}, stacyvm.CodeUnavailable},
		"no socket":          {store.Config{DSN: "host=/nowhere password=hunter2"}, stacyvm.CodeUnavailable},
		"a wrong port":       {store.Config{DSN: "postgres://u:hunter2@127.0.0.1:port/x"}, stacyvm.CodeInvalid},
		"an unescaped slash": {store.Config{DSN: "postgres://u:1234/hunter2@127.0.0.1/x"}, stacyvm.CodeInvalid},
		"an unescaped hash":  {store.Config{DSN: "postgres://u:1234#hunter2@127.0.0.1/x"}, stacyvm.CodeInvalid},
		"a question mark":    {store.Config{DSN: "postgres://u:1234?hunter2@127.0.0.1/x"}, stacyvm.CodeInvalid},
		"a percent sign":     {store.Config{DSN: "postgres://u:1234%hunter2@127.0.0.1/x"}, stacyvm.CodeInvalid},
		"a space":            {store.Config{DSN: "host=127.0.0.1 password=1234 hunter2 port=1"}, stacyvm.CodeInvalid},
		"an open quote":      {store.Config{DSN: "host=127.0.0.1 password='hunter2"}, stacyvm.CodeInvalid},
		"not a DSN":          {store.Config{DSN: "hunter2"}, stacyvm.CodeInvalid},
		"another scheme":     {store.Config{DSN: "mysql://u:hunter2@127.0.0.1/x"}, stacyvm.CodeInvalid},
		"TLS words":          {store.Config{DSN: "postgres://u:hunter2@127.0.0.1:1/x?sslmode=maybe"}, stacyvm.CodeInvalid},
		"another exec mode":  {store.Config{DSN: "postgres://u:hunter2@127.0.0.1:1/x", ExecMode: "fast"}, stacyvm.CodeInvalid},
		"listen DSN":         {store.Config{DSN: "postgres://u@127.0.0.1:1/x", ListenDSN: "postgres://u:1234/hunter2@h/x"}, stacyvm.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.config.ConnectTimeout = 2 * time.Second
			s, err := store.NewPostgresStore(t.Context(), tt.config)
			if s != nil {
				_ = s.Close()
			}
			if stacyvm.CodeOf(err) != tt.want {
				t.Errorf("got %v, want code %q", err, tt.want)
			}
			for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", err)} {
				if strings.Contains(text, "hunter2") || strings.Contains(text, "1234") {
					t.Errorf("the password is told: %s", text)
				}
			}
		})
	}
}

// TestServerRefusals opens a server that wants a password, with users who lack something.
func TestServerRefusals(t *testing.T) {
	server := postgrestest.Start(t)
	admin := postgrestest.Connect(t, server.DSN)
	exec := func(text string) {
		t.Helper()
		if _, err := admin.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE ROLE plain LOGIN PASSWORD 'hunter2'`)
	exec(`CREATE DATABASE own OWNER plain`)
	rules := filepath.Join(server.Dir, "data", "pg_hba.conf")
	kept, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rules, append([]byte("local all plain scram-sha-256\n"), kept...), 0o600); err != nil {
		t.Fatal(err)
	}
	exec(`SELECT pg_reload_conf()`)
	for name, tt := range map[string]struct {
		user, password, database string
		more                     string
		want                     stacyvm.Code
	}{
		"wrong password":   {"plain", "hunter3", "own", "", stacyvm.CodeInvalid},
		"no such user":     {"nobody", "hunter2", "own", "", stacyvm.CodeInvalid},
		"no such database": {"plain", "hunter2", "another", "", stacyvm.CodeInvalid},
		"no right":         {"plain", "hunter2", "postgres", "", stacyvm.CodeInvalid},
		"no schema":        {"plain", "hunter2", "own", "search_path=none", stacyvm.CodeInvalid},
		"unsafe commits":   {"plain", "hunter2", "own", "synchronous_commit=off", stacyvm.CodeInvalid},
		"a plain user":     {"plain", "hunter2", "own", "", ""},
	} {
		dsn := fmt.Sprintf("host=%s port=5432 user=%s password=%s dbname=%s %s", server.Dir, tt.user, tt.password, tt.database, tt.more)
		s, err := store.NewPostgresStore(t.Context(), store.Config{DSN: dsn})
		if s != nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		if stacyvm.CodeOf(err) != tt.want || strings.Contains(fmt.Sprint(err), "hunter") {
			t.Errorf("%s: got %v, want code %q", name, err, tt.want)
		}
	}
}

func TestPostgresRefusesANewerSchema(t *testing.T) {
	config := drivers["postgres"](t)
	open(t, config)
	if _, err := postgrestest.Connect(t, config.DSN).ExecContext(t.Context(), `INSERT INTO schema_migrations (version_id, is_applied) VALUES (9999, true)`); err != nil {
		t.Fatal(err)
	}
	wantOpen(t, config, stacyvm.CodeUnsupported)
}

// TestDialectsHaveOneSchema opens each database twice and compares what they made.
func TestDialectsHaveOneSchema(t *testing.T) {
	shapes := map[string]dbtool.Schema{}
	for name, make := range drivers {
		config := make(t)
		first, err := open(t, config).Cluster(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if second, err := open(t, config).Cluster(t.Context()); err != nil || second != first {
			t.Errorf("%s: the identity went from %+v to %+v, %v", name, first, second, err)
		}
		shape, err := dbtool.Inspect(t.Context(), config)
		if err != nil || len(shape.Pending) > 0 || len(shape.Missing) > 0 || len(shape.Tables) < 16 {
			t.Errorf("%s: pending %v, missing %v, tables %v, %v", name, shape.Pending, shape.Missing, shape.Tables, err)
		}
		shape.Server, shape.Cluster = "", store.Cluster{}
		shapes[name] = shape
	}
	if diff := cmp.Diff(shapes["sqlite"], shapes["postgres"]); diff != "" {
		t.Errorf("the databases differ:\n%s", diff)
	}
}

// TestPoolIsBounded fills the pool: the next caller is told after ConnectTimeout, the only limit
// here that is short, and nobody is lost.
func TestPoolIsBounded(t *testing.T) {
	config := drivers["postgres"](t)
	config.MaxOpenConns, config.ConnectTimeout, config.QueryTimeout = 2, 200*time.Millisecond, time.Hour
	s := open(t, config)
	release := make(chan struct{})
	var inside, done sync.WaitGroup
	inside.Add(2)
	for range 2 {
		done.Go(func() {
			if err := s.Update(t.Context(), func(store.Tx) error { inside.Done(); <-release; return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	inside.Wait()
	if err := s.Ping(t.Context()); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Error(err)
	}
	close(release)
	done.Wait()
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
