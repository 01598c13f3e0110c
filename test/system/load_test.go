package system

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
)

// TestTwoHundredSandboxes: 8 clients make 200 sandboxes, each writes and reads a file with Python,
// all are destroyed.
func TestTwoHundredSandboxes(t *testing.T) {
	s := start(t)
	const sandboxes, clients = 200, 8

	jobs := make(chan int, sandboxes)
	for i := range sandboxes {
		jobs <- i
	}
	close(jobs)
	var group errgroup.Group
	for range clients {
		group.Go(func() error {
			for i := range jobs {
				if err := oneLife(s, i); err != nil {
					return fmt.Errorf("sandbox %d: %w", i, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, s.Log())
	}
	if left, err := s.Sandboxes(t.Context()); err != nil || len(left) != 0 {
		t.Fatalf("left: %v, %v", left, err)
	}
	s.auditSandboxes(0)
}

// TestManyAtOnce: 150 sandboxes live at the same time, made by 4 clients, and each answers.
func TestManyAtOnce(t *testing.T) {
	s := start(t)
	const sandboxes, clients = 150, 4
	ids := make([]string, sandboxes)
	var group errgroup.Group
	group.SetLimit(clients)
	for i := range ids {
		group.Go(func() error {
			sandbox, err := s.Spawn(t.Context(), client.SpawnRequest{MemoryMB: 128})
			ids[i] = sandbox.ID
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, s.Log())
	}
	for _, id := range ids {
		if got := s.shell(id, "hostname"); got != id+"\n" {
			t.Errorf("%s says %q", id, got)
		}
	}
	s.auditSandboxes(sandboxes)
}

func oneLife(s *server, i int) error {
	ctx := s.t.Context()
	sandbox, err := s.Spawn(ctx, client.SpawnRequest{MemoryMB: 256})
	if err != nil {
		return fmt.Errorf("spawn: %w", err)
	}
	program := fmt.Sprintf("open('/workspace/f','w').write('%d'*1000); print(open('/workspace/f').read())", i)
	result, err := s.Exec(ctx, sandbox.ID, client.ExecRequest{Mode: client.ModeArgv, Command: "python3", Args: []string{"-c", program}})
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	if want := strings.Repeat(fmt.Sprint(i), 1000) + "\n"; result.ExitCode != 0 || result.Stdout != want {
		return fmt.Errorf("exit code %d, output of %d bytes, want %d: %s", result.ExitCode, len(result.Stdout), len(want), result.Stderr)
	}
	if err := s.Destroy(ctx, sandbox.ID); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	return nil
}
