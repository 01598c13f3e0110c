package postgrestest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

// Server is a PostgreSQL server that a test may kill and promote. It is removed when the test
// ends.
type Server struct {
	DSN string
	Dir string // of its socket and its data
	t   testing.TB
}

// Start makes a server. conf is added to its postgresql.conf.
func Start(t testing.TB, conf ...string) *Server {
	t.Helper()
	testneed.PostgresServer(t)
	s := newServer(t)
	s.DSN = run(t, conf, "start", s.Dir)
	return s
}

// Standby makes a server that follows s.
func (s *Server) Standby() *Server {
	s.t.Helper()
	standby := newServer(s.t)
	standby.DSN = run(s.t, nil, "standby", s.Dir, standby.Dir)
	return standby
}

// Restart kills the server and starts it again.
func (s *Server) Restart() { s.t.Helper(); run(s.t, nil, "restart", s.Dir) }

// Halt kills the server.
func (s *Server) Halt() { s.t.Helper(); run(s.t, nil, "halt", s.Dir) }

// Promote makes a standby the primary.
func (s *Server) Promote() { s.t.Helper(); run(s.t, nil, "promote", s.Dir) }

// newServer names a directory that the server's user can reach, which t.TempDir is not, and has it
// removed.
func newServer(t testing.TB) *Server {
	dir := filepath.Join(os.TempDir(), "stacyvm-postgres-"+strings.ToLower(rand.Text()[:10]))
	t.Cleanup(func() { run(t, nil, "stop", dir) })
	return &Server{Dir: dir, t: t}
}

// run calls scripts/postgres.sh and gives what it prints.
func run(t testing.TB, conf []string, args ...string) string {
	t.Helper()
	command := exec.Command(script(t), args...)
	command.Env = append(os.Environ(), "STACYVM_POSTGRES_CONF="+strings.Join(conf, "\n"))
	var failure bytes.Buffer
	command.Stderr = &failure
	output, err := command.Output()
	if err != nil {
		t.Fatalf("postgres.sh %s: %v\n%s", args[0], err, &failure)
	}
	return strings.TrimSpace(string(output))
}

// script finds scripts/postgres.sh from a package's directory.
func script(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		path := filepath.Join(dir, "scripts", "postgres.sh")
		if _, err := os.Stat(path); err == nil {
			return path
		} else if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(dir) == dir {
			t.Fatalf("scripts/postgres.sh is not found: %v", err)
		}
		dir = filepath.Dir(dir)
	}
}
