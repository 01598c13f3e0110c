package system

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/client"
)

// TestEscapes runs a hostile program as root in a sandbox. It tries to reach the host, its
// neighbours, the network and the guest program's secret in many ways; the targets exist and
// answer on the host, so that a wall is what holds.
func TestEscapes(t *testing.T) {
	s := start(t)
	const word = "only-the-neighbour-knows"

	canary := filepath.Join(s.Dir, "canary")
	if err := os.WriteFile(canary, []byte(word), 0o644); err != nil {
		t.Fatal(err)
	}
	tcp := listen(t, "tcp", "127.0.0.1:0")
	abstract := "stacyvm-escape-" + strconv.Itoa(os.Getpid())
	listen(t, "unix", "@"+abstract)

	neighbour := s.spawn(client.SpawnRequest{})
	s.shell(neighbour.ID, "echo "+word+" > /workspace/word; echo "+word+" > /tmp/word; hostname")
	if _, err := s.Start(t.Context(), neighbour.ID, client.ExecRequest{Command: "exec sleep 600 # " + word}); err != nil {
		t.Fatal(err)
	}

	sandbox := s.spawn(client.SpawnRequest{})
	probe, err := os.Open("testdata/probe.py")
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if _, err := s.Upload(t.Context(), sandbox.ID, "/workspace/probe.py", probe, client.UploadOptions{}); err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port)
	result, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Mode: client.ModeArgv, Command: "python3",
		Args: []string{"/workspace/probe.py", canary, port, abstract, neighbour.ID, word}})
	if err != nil {
		t.Fatal(err)
	}
	if result.ExitCode != 0 {
		t.Fatalf("the probe broke: %s", result.Stderr)
	}
	held := 0
	for line := range strings.Lines(result.Stdout) {
		if strings.HasPrefix(line, "held ") {
			held++
		} else {
			t.Error(strings.TrimSpace(line))
		}
	}
	t.Logf("%d walls held:\n%s", held, result.Stdout)
	if held < 30 {
		t.Errorf("only %d ways were tried and held, want at least 30", held)
	}
}

// listen answers on the host for the test's time.
func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			_ = connection.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener
}

// TestGuestKillsItsFirstProcess: a sandbox whose guest program is gone does not claim to run.
func TestGuestKillsItsFirstProcess(t *testing.T) {
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{})
	_, _ = s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do kill -$i 1; done; kill -9 -1; true"})
	s.until(60e9, "the sandbox answers again or says that it does not", func() bool {
		now, err := s.Sandbox(t.Context(), sandbox.ID)
		if err != nil {
			t.Fatal(err)
		}
		if now.State != "running" {
			return now.State == "unhealthy" || now.State == "error"
		}
		result, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: "echo alive"})
		return err == nil && result.Stdout == "alive\n"
	})
}

// TestKillReachesDaemons: a time limit ends what lost its parents and dropped its environment, a
// command that ended leaves what it left on purpose, and no command gets what the guest program
// tells them by.
func TestKillReachesDaemons(t *testing.T) {
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{})
	const daemon = `(env -i setsid sh -c 'exec 0<&- 1>&- 2>&-; sleep 1001 & exit' &); (setsid timeout 1000 sleep 1001 &); sleep 1000`
	for _, user := range []string{"root", "nobody"} {
		s.shell(sandbox.ID, "nohup sleep 1002 >/dev/null 2>&1 &")
		_, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: daemon, User: user, Timeout: "1s"})
		if code := client.CodeOf(err); code != client.CodeTimeout {
			t.Errorf("as %s: %v", user, err)
		}
		if left := s.shell(sandbox.ID, "pgrep -c -f '[s]leep 1001' || true"); left != "0\n" {
			t.Errorf("as %s: left %s", user, left)
		}
	}
	if left := s.shell(sandbox.ID, "pgrep -c -f '[s]leep 1002'; ps -eo stat | grep -c ^Z || true"); left != "2\n0\n" {
		t.Errorf("left on purpose, and dead: %q", left)
	}
	if held := s.shell(sandbox.ID, "unshare --uts true 2>/dev/null || echo refused"); held != "refused\n" {
		t.Errorf("a command may make namespaces: %q", held)
	}
}
