package system

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

// TestDatabaseGoesAway stops PostgreSQL five times. What needs it is answered with 503 and
// Retry-After, a command that runs goes on and its output is whole, and five seconds after the
// database's return all is well again.
func TestDatabaseGoesAway(t *testing.T) {
	t.Parallel()
	database := postgrestest.Start(t)
	s := start(t, onPostgres(database.DSN)...)
	impatient, err := client.New(s.URL(), client.Options{Patience: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	sandbox := s.spawn(client.SpawnRequest{})
	process, err := s.Start(t.Context(), sandbox.ID, client.ExecRequest{
		Command: "i=0; while [ $i -lt 600 ]; do echo $i; i=$((i+1)); sleep 0.05; done"})
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan string, 1)
	go func() { read <- s.readAll(sandbox.ID, process.ID) }()
	for cycle := range 5 {
		database.Halt()
		s.until(20*time.Second, "what needs the database is refused", func() bool {
			_, err := impatient.Sandboxes(t.Context())
			var refused *client.Error
			if !errors.As(err, &refused) {
				return false
			}
			if refused.Status != http.StatusServiceUnavailable || refused.RetryAfter <= 0 {
				t.Fatalf("cycle %d: %+v", cycle, refused)
			}
			return true
		})
		database.Restart()
		s.until(5*time.Second, "the server is well again", func() bool {
			rows, err := impatient.Sandboxes(t.Context())
			return err == nil && len(rows) == 1 && rows[0].State == "running"
		})
		s.shell(sandbox.ID, "true")
	}
	var want strings.Builder
	for i := range 600 {
		fmt.Fprintln(&want, i)
	}
	if got := <-read; got != want.String() {
		t.Errorf("%d bytes of output that differ from the %d that were printed", len(got), want.Len())
	}
}

// readAll reads a process's output until its end.
func (s *server) readAll(sandbox, process string) string {
	var got strings.Builder
	for event, err := range s.Output(s.t.Context(), sandbox, process, client.OutputRequest{}) {
		if err != nil {
			s.t.Errorf("output: %v", err)
			break
		}
		got.Write(event.Data)
	}
	return got.String()
}
