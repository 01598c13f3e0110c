package acceptance

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/test/harness"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// rig is a directory with the built binary's data in it, and perhaps a server on it.
type rig struct {
	t      *testing.T
	binary string
	server *harness.Server
	client *client.Client
	env    []string
}

// newRig makes one without a server. At the test's end nothing of it may be left on the machine.
func newRig(t *testing.T, env ...string) *rig {
	t.Helper()
	testneed.GVisor(t)
	binary, err := harness.Binary()
	if err != nil {
		t.Fatal(err)
	}
	server, err := harness.New(t.TempDir(), env...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, left := range audit(server.Dir) {
			t.Error("left on the machine: " + left)
		}
	})
	return &rig{t: t, binary: binary, server: server, env: []string{
		"PATH=" + filepath.Dir(binary) + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + server.Dir, "LC_ALL=C.UTF-8",
		"STACYVM_DATA_DIR=" + server.DataDir(), "STACYVM_SERVER=" + server.URL(),
	}}
}

// serve starts the server. It is stopped at the test's end, and its sandboxes are destroyed.
func (r *rig) serve() *rig {
	r.t.Helper()
	r.t.Cleanup(func() {
		if r.client != nil {
			sandboxes, err := r.client.Sandboxes(context.Background())
			for _, s := range sandboxes {
				err = errors.Join(err, r.client.Destroy(context.Background(), s.ID))
			}
			if err != nil {
				r.t.Error(err)
			}
		}
		if err := r.server.Stop(); err != nil {
			r.t.Error(err)
		}
	})
	if err := r.server.Up(); err != nil {
		r.t.Fatal(err)
	}
	var key string
	for _, variable := range r.server.Env {
		key, _ = strings.CutPrefix(variable, "STACYVM_AUTH_API_KEY=")
	}
	c, err := client.New(r.server.URL(), client.Options{APIKey: key})
	if err != nil {
		r.t.Fatal(err)
	}
	r.client = c
	return r
}

// sandbox creates one.
func (r *rig) sandbox() string {
	r.t.Helper()
	s, err := r.client.Spawn(r.t.Context(), client.SpawnRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	return s.ID
}

// command prepares the product's command line; it is killed at the end of the test's patience.
func (r *rig) command(args ...string) *exec.Cmd { return r.program(r.binary, args...) }

// shell prepares a line for sh, with the product on its path.
func (r *rig) shell(line string) *exec.Cmd { return r.program("bash", "-o", "pipefail", "-c", line) }

func (r *rig) program(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*patience)
	r.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = r.server.Dir, r.env
	cmd.WaitDelay = patience
	return cmd
}

// result is how a command line ended.
type result struct {
	stdout, stderr string
	exit           int
}

// do runs a command to its end.
func (r *rig) do(cmd *exec.Cmd) result {
	r.t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs a command that has to succeed and gives what it printed.
func (r *rig) must(cmd *exec.Cmd) string {
	r.t.Helper()
	got := r.do(cmd)
	if got.exit != 0 {
		r.t.Fatalf("%q: exit code %d\n%s%s", cmd.Args[1:], got.exit, got.stdout, got.stderr)
	}
	return got.stdout
}

// path is a file's in the rig's directory.
func (r *rig) path(name string) string { return filepath.Join(r.server.Dir, name) }

// write makes a file in the rig's directory.
func (r *rig) write(name, content string, mode os.FileMode) {
	r.t.Helper()
	path := r.path(name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode)); err != nil {
		r.t.Fatal(err)
	}
}

// eventually polls the outside world until it is as it must be.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}
