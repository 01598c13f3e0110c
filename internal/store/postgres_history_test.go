package store_test

import (
	"testing"

	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
)

// TestPostgresThatTellsLittle: a server that refuses to tell its history, as managed ones do, is
// used all the same, and it is said.
func TestPostgresThatTellsLittle(t *testing.T) {
	server := postgrestest.Start(t)
	admin := postgrestest.Connect(t, server.DSN)
	run := func(text string) {
		t.Helper()
		if _, err := admin.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	run(`CREATE ROLE plain LOGIN`)
	run(`GRANT CREATE ON SCHEMA public TO plain`)
	user := postgrestest.With(server.DSN, "user", "plain")
	said := ""
	open := func(dsn string) store.Cluster {
		t.Helper()
		said = ""
		s, err := store.Open(t.Context(), store.Config{Driver: "postgres", DSN: dsn, Warn: func(message string) { said = message }})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		if _, err := storetest.AddSandboxes(t.Context(), s); err != nil {
			t.Error(err)
		}
		cluster, err := s.Cluster(t.Context())
		if err != nil {
			t.Error(err)
		}
		return cluster
	}
	first := open(user)
	if said != "" {
		t.Errorf("of a server that tells everything it says %q", said)
	}
	for _, function := range []string{"pg_control_system()", "pg_walfile_name(pg_lsn)"} {
		run(`REVOKE EXECUTE ON FUNCTION ` + function + ` FROM PUBLIC`)
		if again := open(user); again != first || said == "" {
			t.Errorf("without %s: %+v, want %+v; it says %q", function, again, first, said)
		}
		if found, err := dbtool.Inspect(t.Context(), store.Config{Driver: "postgres", DSN: user}); err != nil || found.Blind != said {
			t.Errorf("without %s: %+v, %v", function, found, err)
		}
	}
	// who may ask, and finds the lineage that was noted before
	if all := open(server.DSN); all != first || said != "" {
		t.Errorf("%+v, want %+v; it says %q", all, first, said)
	}
}
