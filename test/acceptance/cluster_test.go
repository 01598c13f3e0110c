package acceptance

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

// TestClusterPage types the six commands of docs/cluster.md on loopback, in two data directories,
// and then uses the cluster.
func TestClusterPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## Two machines in six commands\n")
	section, _, _ = strings.Cut(section, "\n## ")
	steps := regexp.MustCompile(`(?m)^# (.*)$`).FindAllStringSubmatch(section, -1)
	if len(steps) != 9 {
		t.Fatalf("the section has %d commands: %q", len(steps), steps)
	}
	r := newRig(t, "STACYVM_AUTH_API_KEY_FILE=etc/key", "STACYVM_PKI_DIR=etc/pki")
	for _, variable := range []string{"STACYVM_PROVIDERS_DEFAULT=mock", "STACYVM_PROVIDERS_MOCK_ENABLED=true", "STACYVM_PROVIDERS_GVISOR_ENABLED=false"} {
		r.env, r.server.Env = append(r.env, variable), append(r.server.Env, variable)
	}
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	listen := "127.0.0.1:" + strconv.Itoa(port)
	address := "127.0.0.1:" + strconv.Itoa(r.server.Port)
	spoken := strings.NewReplacer("/etc/stacyvm", r.path("etc"), "10.0.0.5:7423", address, "10.0.0.5", "127.0.0.1", "10.0.0.6:7424", listen)
	r.write("etc/.keep", "", 0o600)
	var log string
	for _, step := range steps {
		line := spoken.Replace(step[1])
		switch {
		case strings.HasSuffix(line, "stacyvm serve &"):
			for _, name := range []string{"STACYVM_PKI_DIR=", "STACYVM_AUTH_API_KEY_FILE=", "STACYVM_SERVER_HOST="} {
				if !strings.Contains(line, name) {
					t.Errorf("%s does not set %s", line, name)
				}
			}
			if r.server.HTTP, err = trustingFile(r.path("etc/pki/ca-bundle.pem")); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.server.HTTP.CloseIdleConnections() })
			t.Cleanup(func() {
				if err := r.server.Stop(); err != nil {
					t.Error(err)
				}
			})
			if err := r.server.Up(); err != nil {
				t.Fatal(err)
			}
		case strings.Contains(line, "worker join-token"):
			out := r.must(r.shell(line))
			r.write("token", regexp.MustCompile(`stacyvm-join-v1\S+`).FindString(out), 0o600)
			r.write("print", regexp.MustCompile(`[0-9a-f]{64}`).FindString(out), 0o600)
		case strings.HasPrefix(line, "stacyvm worker --control-plane"):
			log = r.join(line)
		case strings.HasPrefix(line, "export "):
			key := strings.TrimSpace(r.must(r.shell("cat " + r.path("etc/key"))))
			r.env = append(r.env, "STACYVM_API_KEY="+key, "STACYVM_SERVER=https://"+address, "STACYVM_CA_FILE="+r.path("etc/pki/ca-bundle.pem"))
			if r.client, err = client.New("https://"+address, client.Options{APIKey: key, HTTPClient: r.server.HTTP}); err != nil {
				t.Fatal(err)
			}
		default:
			out := r.must(r.shell(line))
			if strings.HasSuffix(line, "worker list") && (!strings.Contains(out, "local ") || !strings.Contains(out, "machine-two")) {
				t.Errorf("%s: %s", line, out)
			}
		}
	}
	// The control plane's own worker aside, the next sandbox can only be on the other machine.
	r.must(r.command("worker", "drain", "local"))
	sandbox, err := r.client.Spawn(t.Context(), client.SpawnRequest{})
	if err != nil || sandbox.WorkerID != "machine-two" {
		t.Fatalf("%+v, %v; see %s", sandbox, err, log)
	}
	if out := r.must(r.command("exec", sandbox.ID, "--", "echo", "from afar")); out != "from afar\n" {
		t.Errorf("printed %q", out)
	}
	sandboxes, err := r.client.Sandboxes(t.Context())
	for _, s := range sandboxes {
		if err := r.client.Destroy(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// join starts what the page's last command starts, and gives its log.
func (r *rig) join(line string) string {
	r.t.Helper()
	for _, word := range []string{"--authority-sha256 FINGERPRINT", "--join-token-file token"} {
		if !strings.Contains(line, word) {
			r.t.Errorf("%s has no %s", line, word)
		}
	}
	line = strings.Replace(line, "FINGERPRINT", strings.TrimSpace(r.must(r.shell("cat print"))), 1)
	log := r.path("worker.log")
	cmd := exec.Command("bash", "-c", "exec "+line+" --id machine-two > "+log+" 2>&1")
	cmd.Dir, cmd.Env = r.server.Dir, append(slices.Clone(r.env), "STACYVM_DATA_DIR="+r.path("two"))
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
			r.t.Error(err)
		}
	})
	eventually(r.t, "the worker is a member", func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(text), `"working"`)
	})
	return log
}
