package dbtool_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// fakeDump puts a program named pg_dump into PATH that notes its arguments, environment and
// service file in the directory that it gives, and then runs rest with the output's path in $out.
func fakeDump(t *testing.T, rest string) (notes string) {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\ntr '\\0' '\\n' </proc/$$/cmdline >" + dir + "/arguments\nenv >" + dir + "/environment\ncat \"$PGSERVICEFILE\" >" + dir + "/service\n" +
		"for word; do case $word in --file=*) out=${word#--file=};; esac; done\n" + rest + "\n"
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "pg_dump"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	return dir
}

func note(t *testing.T, notes, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(notes, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const (
	canary  = "c4nary-pass word" // with what a URL must escape
	dumpEnd = "echo '-- PostgreSQL database dump complete'"
)

// TestDumpHandsTheConnectionOver reads what pg_dump is given: all of the connection, in its
// service file alone.
func TestDumpHandsTheConnectionOver(t *testing.T) {
	tests := []struct {
		dsn  string
		want []string
	}{
		{"postgres://ann:c4nary-pass%20word@db.example:6432/app?sslmode=require&pool_max_conns=4&search_path=x&connect_timeout=7",
			[]string{"host=db.example", "port=6432", "dbname=app", "user=ann", "password=" + canary, "connect_timeout=7", "sslmode=require"}},
		{"postgres://ann:c4nary-pass%20word@one:1,two:2/app",
			[]string{"host=one,two", "port=1,2", "dbname=app", "user=ann", "password=" + canary, "target_session_attrs=read-write"}},
		{"postgresql://ann:c4nary-pass%20word@[::1]/app", []string{"host=::1", "port=5432", "dbname=app", "user=ann", "password=" + canary}},
		{`host=/run/pg  user = 'ann' password='c4nary-pass\ word' dbname=it\'s default_query_exec_mode=exec`,
			[]string{"host=/run/pg", "port=5432", "dbname=it's", "user=ann", "password=" + canary}},
	}
	t.Setenv("STACYVM_DATABASE_DSN", "postgres://x:"+canary+"@y/z")
	t.Setenv("PGPASSWORD", canary)
	for _, tt := range tests {
		notes := fakeDump(t, dumpEnd+" >\"$out\"")
		out := filepath.Join(t.TempDir(), "dump.sql")
		made, err := dbtool.DumpPostgres(t.Context(), dbtool.DumpRequest{DSN: tt.dsn, Out: out, Format: "plain"})
		if err != nil || made.Files != 1 || made.Bytes == 0 {
			t.Fatalf("%+v, %v", made, err)
		}
		if got := strings.Split(strings.TrimSpace(note(t, notes, "service")), "\n"); fmt.Sprint(got) != fmt.Sprint(append([]string{"[stacyvm]"}, tt.want...)) {
			t.Errorf("the service file is %q, want %q", got, tt.want)
		}
		for _, place := range []string{"arguments", "environment"} {
			if strings.Contains(note(t, notes, place), "c4nary") {
				t.Errorf("the password is among pg_dump's %s", place)
			}
		}
		if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
}

func TestDumpRefuses(t *testing.T) {
	const dsn = "postgres://ann:c4nary-pass%20word@127.0.0.1:1/app"
	tests := []struct {
		name, dsn, format, script string
		want                      stacyvm.Code
	}{
		{"no DSN", "", "plain", "exit 0", stacyvm.CodeInvalid},
		{"no connection string", "c4nary-pass word", "plain", "exit 0", stacyvm.CodeInvalid},
		{"a format", dsn, "zip", "exit 0", stacyvm.CodeInvalid},
		{"it fails and tells all", dsn, "plain", "cat \"$PGSERVICEFILE\" >&2; echo partial >\"$out\"; exit 1", stacyvm.CodeUnavailable},
		{"it writes a part", dsn, "plain", "echo partial >\"$out\"", stacyvm.CodeInternal},
		{"it writes nothing", dsn, "plain", "exit 0", stacyvm.CodeInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fakeDump(t, tt.script)
			out := t.TempDir()
			_, err := dbtool.DumpPostgres(t.Context(), dbtool.DumpRequest{DSN: tt.dsn, Out: filepath.Join(out, "dump"), Format: tt.format})
			if stacyvm.CodeOf(err) != tt.want || strings.Contains(err.Error(), "c4nary") {
				t.Errorf("got %v, want %s and no password", err, tt.want)
			}
			wantFiles(t, out)
		})
	}
	t.Run("an output that exists", func(t *testing.T) {
		fakeDump(t, dumpEnd+" >\"$out\"")
		out := filepath.Join(t.TempDir(), "dump")
		for _, want := range []stacyvm.Code{"", stacyvm.CodeConflict} {
			if _, err := dbtool.DumpPostgres(t.Context(), dbtool.DumpRequest{DSN: dsn, Out: out, Format: "plain"}); stacyvm.CodeOf(err) != want {
				t.Errorf("got %v, want code %q", err, want)
			}
		}
	})
	t.Run("not installed", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, err := dbtool.DumpPostgres(t.Context(), dbtool.DumpRequest{DSN: dsn, Out: filepath.Join(t.TempDir(), "dump"), Format: "plain"})
		if stacyvm.CodeOf(err) != stacyvm.CodeUnsupported {
			t.Errorf("got %v", err)
		}
	})
}

// TestDumpInterrupted gives a dump up half-way.
func TestDumpInterrupted(t *testing.T) {
	notes := fakeDump(t, "echo partial >\"$out\"\nmkfifo $(dirname \"$0\")/../begun\nexec sleep 600")
	out := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := dbtool.DumpPostgres(ctx, dbtool.DumpRequest{DSN: "host=127.0.0.1 user=u dbname=d", Out: filepath.Join(out, "dump"), Format: "custom"})
		ended <- err
	}()
	for {
		if _, err := os.Stat(filepath.Join(notes, "begun")); err == nil {
			break
		}
		time.Sleep(time.Millisecond) // polls for another process
	}
	cancel()
	if err := <-ended; stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	wantFiles(t, out)
}

// TestDumpRestores dumps a database in each format while it is written, and puts it back with
// PostgreSQL's own programs.
func TestDumpRestores(t *testing.T) {
	server := testneed.Postgres(t)
	testneed.Program(t, "pg_dump")
	dsn := postgrestest.NewDatabase(t, server)
	live, err := store.NewPostgresStore(t.Context(), store.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = live.Close() })
	id, err := storetest.AddSandboxes(t.Context(), live)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range dbtool.DumpFormats {
		t.Run(format, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "dump")
			made, err := dbtool.DumpPostgres(t.Context(), dbtool.DumpRequest{DSN: dsn, Out: out, Format: format})
			if err != nil || made.Bytes == 0 || (made.Files > 1) != (format == "directory") {
				t.Fatalf("%+v, %v", made, err)
			}
			run(t, exec.Command("sha256sum", "--check", "--strict", filepath.Base(out)+".sha256"), filepath.Dir(out))
			empty := postgrestest.NewDatabase(t, server)
			if format == "plain" {
				run(t, exec.Command("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file="+out, empty), "")
			} else {
				run(t, exec.Command("pg_restore", "--exit-on-error", "--dbname="+empty, out), "")
			}
			back, err := store.NewPostgresStore(t.Context(), store.Config{DSN: empty})
			if err != nil {
				t.Fatal(err)
			}
			defer back.Close()
			if rows := liveRows(t, back); len(rows) != 2 || rows[id].ID != id {
				t.Errorf("%d rows came back", len(rows))
			}
		})
	}
}

func run(t *testing.T, cmd *exec.Cmd, dir string) {
	t.Helper()
	cmd.Dir = dir
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd.Args[0], err, output)
	}
}
