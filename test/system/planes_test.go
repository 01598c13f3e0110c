package system

import (
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/test/harness"
)

// site is control planes without workers of their own, and worker processes with the mock engine
// unless they are told otherwise, on one PostgreSQL. They know each other by a signing key.
type site struct {
	*testing.T
	dir     string
	rows    *sql.DB
	planes  []*sitePlane
	workers []*harness.Worker
}

// sitePlane is one control plane, whose id is its name, with a client that gives up at once.
type sitePlane struct {
	*harness.Server
	*client.Client
	name string
}

func startSite(t *testing.T, planes, workers int, env ...string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "stacyvm-system-") //nolint:usetesting // scripts/host-state.sh finds what it leaves by this name
	s := &site{T: t, dir: dir}
	s.must(err)
	s.Cleanup(func() {
		s.until(90*time.Second, "nothing is left on the host", func() bool { return len(harness.Leftovers(dir)) == 0 })
		s.must(os.RemoveAll(dir))
	})
	dsn := postgrestest.Schema(t)
	s.rows = postgrestest.Connect(t, dsn)
	env = append([]string{"STACYVM_PROVIDERS_DEFAULT=mock", "STACYVM_PROVIDERS_MOCK_ENABLED=true", "STACYVM_PROVIDERS_GVISOR_ENABLED=false", s.key()}, env...)
	env = slices.Clip(env) // what is added for one process is not in another's
	var urls []string
	for i := range planes {
		p := &sitePlane{name: fmt.Sprintf("plane-%d", i)}
		place := s.place(p.name)
		data := filepath.Join(place, "data") // a control plane alone keeps its name there
		s.must(os.Mkdir(data, 0o700))
		s.must(os.WriteFile(filepath.Join(data, "worker_id"), []byte(p.name+"\n"), 0o600))
		p.Server, err = harness.New(place, append(onPostgres(dsn), append(env, "STACYVM_SERVER_WORKER=false")...)...)
		s.must(err)
		p.Client, err = client.New(p.URL(), client.Options{Patience: time.Millisecond})
		s.must(err)
		s.planes, urls = append(s.planes, p), append(urls, p.URL())
		s.Cleanup(func() { s.ended(p.name, p.Stop(), &p.Program) })
		s.must(p.Up())
	}
	for i := range workers {
		id := fmt.Sprintf("worker-%d", i)
		w, err := harness.NewWorker(s.place(id), id, append(env, "STACYVM_WORKER_VCPUS=64", "STACYVM_WORKER_CONTROL_PLANE_URL="+strings.Join(urls, ","))...)
		s.must(err)
		port, err := harness.FreePort()
		s.must(err)
		w.Listen = fmt.Sprintf("127.0.0.1:%d", port)
		w.Known = func() bool {
			known, err := s.planes[0].Worker(s.Context(), id)
			return err == nil && known.Status == "online"
		}
		s.workers = append(s.workers, w)
		s.Cleanup(func() { s.ended(id, w.Stop(), &w.Program) })
		s.must(w.Up())
	}
	return s
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// ended tells why a process did not end well.
func (s *site) ended(name string, err error, p *harness.Program) {
	if err != nil {
		s.Errorf("%s: %v", name, err)
	}
	if s.Failed() {
		s.Logf("%s:\n%s", name, p.Log())
	}
}

// place is a directory of one process.
func (s *site) place(name string) string {
	s.Helper()
	dir := filepath.Join(s.dir, name)
	s.must(os.Mkdir(dir, 0o700))
	return dir
}

// key writes the key that signs tokens of workers and control planes.
func (s *site) key() string {
	s.Helper()
	path := filepath.Join(s.dir, "signing.key")
	s.must(os.WriteFile(path, []byte("a signing key of a site under test, which is long enough"), 0o600))
	return "STACYVM_AUTH_WORKER_SIGNING_KEY_FILE=" + path
}

// duties are those that somebody holds, with the holder, as the database says.
func (s *site) duties() map[string]string {
	s.Helper()
	rows, err := s.rows.QueryContext(s.Context(), `SELECT resource_id, holder_id FROM leases WHERE resource_type = 'duty' AND holder_id IS NOT NULL AND resource_id <> 'settle'`)
	s.must(err)
	defer rows.Close()
	held := map[string]string{}
	for rows.Next() {
		var name, holder string
		s.must(rows.Scan(&name, &holder))
		held[name] = holder
	}
	s.must(rows.Err())
	return held
}

// until polls what offers no event to wait on.
func (s *site) until(limit time.Duration, what string, met func() bool) {
	s.Helper()
	for deadline := time.Now().Add(limit); !met(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// TestControlPlanesAndWorkers: what is made through one control plane is used, streamed and ended
// through the other; when the one that acts for all is killed, the other goes on with its readers
// and takes its duties over.
func TestControlPlanesAndWorkers(t *testing.T) {
	t.Parallel()
	s := startSite(t, 2, 2)
	one := s.planes[0]
	homes := map[string]int{}
	var sandboxes []client.Sandbox
	for i := range 8 {
		sandbox, err := s.planes[i%2].Spawn(t.Context(), client.SpawnRequest{})
		s.must(err)
		homes[sandbox.WorkerID]++
		sandboxes = append(sandboxes, sandbox)
	}
	if homes["worker-0"] < 2 || homes["worker-1"] < 2 {
		t.Errorf("sandboxes went to %v", homes)
	}
	for i, sandbox := range sandboxes {
		s.use(s.planes[(i+1)%2], sandbox.ID)
	}

	// A long stream, read through a control plane that holds duties until it is killed, and on
	// through the other.
	s.until(time.Minute, "every duty has a holder", func() bool { return len(s.duties()) == 3 })
	var lost int
	for i, p := range s.planes {
		if p.name == s.duties()["reconcile/worker-0"] {
			lost = i
		}
	}
	survivor := s.planes[1-lost]
	process, err := one.Start(t.Context(), sandboxes[0].ID, client.ExecRequest{Command: `i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.1; done`})
	s.must(err)
	text, from := s.read(s.planes[lost], sandboxes[0].ID, process.ID, 500)
	s.must(s.planes[lost].Kill(syscall.SIGKILL))
	killed := time.Now()
	for event, err := range survivor.Output(t.Context(), sandboxes[0].ID, process.ID, client.OutputRequest{StdoutOffset: from}) {
		s.must(err)
		text += string(event.Data)
	}
	var want strings.Builder
	for i := range 3000 {
		fmt.Fprintln(&want, i)
	}
	if text != want.String() {
		t.Errorf("of 3000 lines %d bytes came, want %d", len(text), want.Len())
	}

	short, err := survivor.Spawn(t.Context(), client.SpawnRequest{TTL: "1s"})
	s.must(err)
	s.until(90*time.Second, "the survivor ends what has expired", func() bool {
		_, err := survivor.Sandbox(t.Context(), short.ID)
		return client.CodeOf(err) == client.CodeNotFound
	})
	s.until(90*time.Second, "the survivor holds every duty", func() bool {
		held := s.duties()
		for _, holder := range held {
			if holder != survivor.name {
				return false
			}
		}
		return len(held) == 3
	})
	t.Logf("the duties moved within %v", time.Since(killed).Round(time.Second))
	for _, sandbox := range sandboxes {
		s.must(survivor.Destroy(t.Context(), sandbox.ID))
	}
	s.must(s.planes[lost].Up())
	if left, err := s.planes[lost].Sandboxes(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// use runs a command, moves a file there and back, and streams.
func (s *site) use(p *sitePlane, sandbox string) {
	s.Helper()
	result, err := p.Exec(s.Context(), sandbox, client.ExecRequest{Command: "echo out; echo err >&2; exit 7"})
	if err != nil || result.Stdout != "out\n" || result.Stderr != "err\n" || result.ExitCode != 7 {
		s.Errorf("exec through %s: %+v, %v", p.name, result, err)
	}
	content := strings.Repeat("0123456789abcdef", 1<<14)
	path := filepath.Join(s.dir, "file-"+sandbox) // the mock engine's files are this machine's
	_, err = p.Upload(s.Context(), sandbox, path, strings.NewReader(content), client.UploadOptions{})
	s.must(err)
	back, err := p.Download(s.Context(), sandbox, path)
	s.must(err)
	got, err := io.ReadAll(back)
	_ = back.Close()
	if err != nil || string(got) != content {
		s.Errorf("download through %s: %d bytes, %v", p.name, len(got), err)
	}
	process, err := p.Start(s.Context(), sandbox, client.ExecRequest{Command: "cat", Stdin: true})
	s.must(err)
	input := p.Input(sandbox, process.ID, 0)
	s.must(input.Write(s.Context(), []byte("through and back\n")))
	s.must(input.Close(s.Context()))
	if text, _ := s.read(p, sandbox, process.ID, -1); text != "through and back\n" {
		s.Errorf("stream through %s: %q", p.name, text)
	}
}

// read follows standard output for at least so many bytes, -1 for all of them, and gives where it
// stopped.
func (s *site) read(p *sitePlane, sandbox, process string, bytes int) (text string, offset uint64) {
	s.Helper()
	for event, err := range p.Output(s.Context(), sandbox, process, client.OutputRequest{}) {
		s.must(err)
		text += string(event.Data)
		if bytes >= 0 && len(text) >= bytes {
			break
		}
	}
	return text, uint64(len(text))
}
