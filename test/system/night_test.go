package system

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/test/harness"
)

const (
	nightSandboxes = 200
	// of them with gVisor, which outlives its worker; the others have the mock engine, which does
	// not
	nightGVisor = 10
	nightDisk   = 512 << 20 // bytes of the file system of one worker
	toldWithin  = 10 * time.Second
)

// TestNight plays one night: 200 sandboxes on two workers, and one after the other a full disk, a
// sandbox that runs out of memory, a worker that is killed, a database that goes away, and a
// control plane that is killed. After each of them `stacyvm status` tells within ten seconds what
// happened. In the morning everything that could live lives: the same processes with their files,
// commands that have gone on, and an output, read through the whole night, without a gap. Whatever
// died says why.
func TestNight(t *testing.T) {
	n := &night{cluster: startCluster(t, 1, 2, func(c *cluster) {
		c.mounted = filepath.Join(c.dir, workerName(1), "data")
		c.must(os.MkdirAll(c.mounted, 0o700))
		testneed.Mount(c.T, c.mounted, nightDisk)
	})}
	n.plane, n.killed, n.full = n.planes[0], n.workers[0], n.workers[1]
	n.populate()
	n.quiet()

	n.fillDisk()
	n.outOfMemory()
	n.killWorker()
	n.stopDatabase()
	n.killPlane()

	n.morning()
}

// night is a cluster with what was made on it.
type night struct {
	*cluster
	plane        *plane
	killed, full *harness.Worker // one of them is killed, the disk of the other fills up

	gvisor, mock []client.Sandbox
	sentries     map[string]int // process of each gVisor sandbox
	reads        []*nightRead
}

// nightRead follows the output of one process until its end.
type nightRead struct {
	sandbox, process string
	bytes            int
	hash             []byte
	gap              uint64
	exit             *client.Exit
	done             chan error
}

// populate makes the sandboxes, puts a file into each, and starts commands that count, and one on
// each worker that prints.
func (n *night) populate() {
	n.Helper()
	began := time.Now()
	made := make([]client.Sandbox, nightSandboxes)
	var group errgroup.Group
	group.SetLimit(16)
	for i := range made {
		request := client.SpawnRequest{Provider: "mock", MemoryMB: 64, TTL: "1h"}
		if i < nightGVisor {
			request = client.SpawnRequest{Provider: "gvisor", MemoryMB: 256, TTL: "1h"}
		}
		group.Go(func() (err error) {
			if made[i], err = n.plane.Spawn(n.Context(), request); err != nil {
				return fmt.Errorf("spawn %d: %w", i, err)
			}
			_, err = n.plane.Upload(n.Context(), made[i].ID, "/workspace/file", strings.NewReader(made[i].ID), client.UploadOptions{})
			return err
		})
	}
	n.must(group.Wait())
	n.gvisor, n.mock = made[:nightGVisor], made[nightGVisor:]
	n.sentries = n.processes()
	printing := map[string]bool{}
	for _, s := range n.gvisor {
		_, err := n.plane.Start(n.Context(), s.ID, client.ExecRequest{Command: `cd /workspace; i=0
			while :; do i=$((i+1)); echo $i > new; mv new count; sleep 0.2; done`})
		n.must(err)
		if !printing[s.WorkerID] {
			printing[s.WorkerID] = true
			n.follow(s.ID)
		}
	}
	if len(printing) != 2 {
		n.Fatalf("sandboxes of gVisor are on %v alone", printing)
	}
	n.Logf("%d sandboxes in %v", nightSandboxes, time.Since(began).Round(time.Millisecond))
}

// follow starts a command that prints until there is a file, and reads its output.
func (n *night) follow(sandbox string) {
	n.Helper()
	process, err := n.plane.Start(n.Context(), sandbox, client.ExecRequest{Lossless: true, Command: `cd /workspace; i=0
		while [ ! -e enough ]; do i=$((i+1)); echo $i; sleep 0.02; done`})
	n.must(err)
	r := &nightRead{sandbox: sandbox, process: process.ID, done: make(chan error, 1)}
	n.reads = append(n.reads, r)
	go func() {
		hash := sha256.New()
		for event, err := range n.plane.Output(n.Context(), sandbox, process.ID, client.OutputRequest{}) {
			if err != nil {
				r.done <- err
				return
			}
			hash.Write(event.Data)
			r.bytes, r.gap, r.exit = r.bytes+len(event.Data), r.gap+event.Gap, event.Exit
		}
		r.hash = hash.Sum(nil)
		r.done <- nil
	}()
}

// processes are those of the gVisor sandboxes on both workers.
func (n *night) processes() map[string]int {
	all := n.killed.Sentries()
	maps.Copy(all, n.full.Sentries())
	return all
}

// status runs the documented command and gives what it prints.
func (n *night) status(args ...string) (text string, code int) {
	n.Helper()
	binary, err := harness.Binary()
	n.must(err)
	ctx, cancel := context.WithTimeout(n.Context(), toldWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"status"}, args...)...)
	cmd.Env = append(os.Environ(), "STACYVM_CONFIG=", "STACYVM_DATA_DIR="+n.plane.DataDir(),
		"STACYVM_SERVER="+n.plane.URL(), "STACYVM_API_KEY="+clusterKey,
		"STACYVM_CA_FILE="+filepath.Join(n.dir, "pki", "ca-bundle.pem"))
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	err = cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) || ctx.Err() != nil || failure.Len() > 0 {
		n.Fatalf("stacyvm status %v: %v\n%s%s", args, err, &out, &failure)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// report is what the command says for programs.
func (n *night) report() (report client.Report) {
	n.Helper()
	said, code := n.status("--json")
	if err := json.Unmarshal([]byte(said), &report); err != nil {
		n.Fatalf("stacyvm status --json: %v\n%s", err, said)
	}
	if (code == 0) != (report.Status == "ok") || (code == 0) != (len(report.Problems) == 0) {
		n.Errorf("exit code %d:\n%s", code, said)
	}
	return report
}

// told demands that the command tells within ten seconds what is asked for; missing says what it
// does not tell.
func (n *night) told(event string, missing func(client.Report) string) {
	n.Helper()
	for began := time.Now(); ; {
		lacks := missing(n.report())
		took := time.Since(began)
		if lacks == "" && took < toldWithin {
			text, _ := n.status()
			n.Logf("%s: told after %v:\n%s", event, took.Round(time.Millisecond), text)
			return
		}
		if took > toldWithin {
			text, _ := n.status()
			n.Fatalf("%s: after %v not told: %s\n%s", event, took, lacks, text)
		}
	}
}

// problem looks for one with these words.
func problem(r client.Report, about, name, detail string) string {
	for _, p := range r.Problems {
		if p.About == about && (name == "" || p.Name == name) && strings.Contains(p.Detail, detail) && p.Fix != "" {
			return ""
		}
	}
	return fmt.Sprintf("a problem with the %s %s: %s", about, name, detail)
}

// happened looks for events of a type whose data has these values.
func happened(r client.Report, kind string, data map[string]string) *client.Happening {
next:
	for i, h := range r.Happened {
		for key, value := range data {
			if text, _ := h.Data[key].(string); !strings.Contains(text, value) || text == "" {
				continue next
			}
		}
		if h.Type == kind {
			return &r.Happened[i]
		}
	}
	return nil
}

// want is the text of what is missing when an event is.
func want(r client.Report, kind string, data map[string]string) string {
	if happened(r, kind, data) == nil {
		return fmt.Sprintf("that %s with %v happened", kind, data)
	}
	return ""
}

// quiet waits until the command says that all is well, as often as it may take.
func (n *night) quiet() {
	n.Helper()
	began := time.Now()
	defer func() { n.Logf("all is well after %v", time.Since(began).Round(time.Millisecond)) }()
	n.until(time.Minute, "all is well", func() string {
		if n.report().Status == "ok" {
			return ""
		}
		text, _ := n.status()
		return text
	})
}

func (n *night) fillDisk() {
	n.Helper()
	ballast := filepath.Join(n.full.DataDir(), "ballast")
	fill(n.T, ballast)
	n.told("a full disk", func(r client.Report) string { return problem(r, "worker", n.full.ID, "MiB free") })

	made, err := n.plane.impatient.Spawn(n.Context(), client.SpawnRequest{Provider: "mock", MemoryMB: 64})
	if err != nil || made.WorkerID != n.killed.ID {
		n.Errorf("a create beside a full disk: on %q, %v", made.WorkerID, err)
	} else {
		n.must(n.plane.Destroy(n.Context(), made.ID))
	}
	for _, s := range n.gvisor {
		_, err := n.plane.impatient.Upload(n.Context(), s.ID, "/workspace/more", strings.NewReader("more"), client.UploadOptions{})
		if full := s.WorkerID == n.full.ID; full != (client.CodeOf(err) == client.CodeStorageFull) || !full && err != nil {
			n.Errorf("a file for %s: %v", s.WorkerID, err)
		}
		text, err := n.shell(n.plane, s.ID, "cat /workspace/file")
		if err != nil || text != s.ID {
			n.Errorf("a command beside a full disk: %q, %v", text, err)
		}
	}
	n.must(os.Remove(ballast))
	n.quiet()
	n.told("room again", func(r client.Report) string {
		full := map[string]string{"worker_id": n.full.ID}
		return want(r, "worker.problem", full) + want(r, "worker.recovered", full)
	})
}

func (n *night) outOfMemory() {
	n.Helper()
	s := n.gvisor[0]
	result, err := n.plane.Exec(n.Context(), s.ID, client.ExecRequest{Command: `exec python3 -c 'bytearray(400 << 20)'`})
	if err != nil || result.ExitCode != 137 || result.Reason != "oom" {
		n.Errorf("too much memory: %+v, %v", result, err)
	}
	n.told("out of memory", func(r client.Report) string {
		if h := happened(r, "exec.completed", map[string]string{"reason": "oom"}); h == nil || h.SandboxID != s.ID {
			return "that the command was out of memory"
		}
		return ""
	})
}

func (n *night) killWorker() {
	n.Helper()
	n.must(n.killed.Kill(syscall.SIGKILL))
	n.told("a killed worker", func(r client.Report) string { return problem(r, "worker", n.killed.ID, "does not answer") })
	n.must(n.killed.Up())
	var lost []string
	for _, s := range n.mock {
		if s.WorkerID == n.killed.ID {
			lost = append(lost, s.ID)
		}
	}
	n.until(2*time.Minute, "what cannot live is said to be dead, the rest runs", func() string {
		r := n.report()
		if r.Reasons["lost"] == len(lost) && r.Sandboxes["running"] == nightSandboxes-len(lost) {
			return ""
		}
		return fmt.Sprintf("%d are lost; %v, %v", len(lost), r.Sandboxes, r.Reasons)
	})
	n.told("a worker that is back", func(r client.Report) string {
		return problem(r, "sandboxes", "", fmt.Sprintf("%d lost", len(lost))) +
			want(r, "worker.started", map[string]string{"worker_id": n.killed.ID, "detail": "killed or crashed"})
	})
	var group errgroup.Group
	group.SetLimit(16)
	for _, id := range lost {
		group.Go(func() error {
			dead, err := n.plane.Sandbox(n.Context(), id)
			if err == nil && (dead.Reason != "lost" || dead.Since.IsZero()) {
				err = fmt.Errorf("%s is %s for %q since %s", id, dead.State, dead.Reason, dead.Since)
			}
			return errors.Join(err, n.plane.Destroy(n.Context(), id))
		})
	}
	n.check(group.Wait())
	n.quiet()
}

// stopDatabase takes PostgreSQL away. Workers stop acting after 25 seconds without a renewal, and
// leases run out after 30; nothing else depends on how long it is away, so that 35 seconds show
// what a minute does.
func (n *night) stopDatabase() {
	n.Helper()
	away := 35 * time.Second
	if os.Getenv("STACYVM_TEST_LONG") != "" {
		away = time.Minute
	}
	n.database.Halt()
	back := time.After(away)
	n.told("a database that is away", func(r client.Report) string { return problem(r, "database", "", "") })
	_, err := n.plane.impatient.Sandboxes(n.Context())
	if refused := new(client.Error); !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || refused.RetryAfter <= 0 {
		n.Errorf("a list without a database: %v", err)
	}
	<-back // how long it is away is what is tested
	n.told("a database that is still away", func(r client.Report) string { return problem(r, "database", "", "") })
	n.database.Restart()
	n.quiet()
	n.told("a database that is back", func(r client.Report) string {
		database := map[string]string{"about": "database", "since": "T"}
		return want(r, "server.problem", database) + want(r, "server.recovered", database)
	})
}

func (n *night) killPlane() {
	n.Helper()
	n.must(n.plane.Kill(syscall.SIGKILL))
	n.told("a killed server", func(r client.Report) string { return problem(r, "server", n.plane.URL(), "no server answers") })
	n.must(n.plane.Up())
	n.quiet()
}

// morning demands that everything that could live does, and has gone on.
func (n *night) morning() {
	n.Helper()
	if now := n.processes(); len(now) != nightGVisor {
		n.Errorf("%d processes of gVisor, were %d", len(now), nightGVisor)
	} else {
		for id, pid := range n.sentries {
			if now[id] != pid {
				n.Errorf("sandbox %s was process %d and is %d", id, pid, now[id])
			}
		}
	}
	var group errgroup.Group
	group.SetLimit(8)
	for _, s := range n.left() {
		group.Go(func() error { return n.sound(s) })
	}
	n.check(group.Wait())
	for _, r := range n.reads {
		_, err := n.shell(n.plane, r.sandbox, "touch /workspace/enough")
		n.must(err)
		select {
		case err = <-r.done:
		case <-time.After(time.Minute):
			err = errors.New("its end has not come within a minute")
		}
		if err != nil || r.exit == nil || r.gap > 0 || hex.EncodeToString(r.hash) != r.exit.StdoutSHA256 {
			n.Errorf("the output through the night: %v; %d bytes with hash %x, %d missing; the process says %+v", err, r.bytes, r.hash, r.gap, r.exit)
			continue
		}
		n.Logf("%d bytes of output through the night, whole", r.bytes)
	}
	for _, s := range n.left() {
		group.Go(func() error { return n.plane.Destroy(n.Context(), s.ID) })
	}
	n.check(group.Wait())
}

// left are the sandboxes that nothing has ended.
func (n *night) left() []client.Sandbox {
	return slices.DeleteFunc(slices.Concat(n.mock, n.gvisor), func(s client.Sandbox) bool {
		return s.Provider == "mock" && s.WorkerID == n.killed.ID
	})
}

// sound demands that a sandbox runs with its file, and that its command counts on.
func (n *night) sound(s client.Sandbox) error {
	body, err := n.plane.Download(n.Context(), s.ID, "/workspace/file")
	if err != nil {
		return fmt.Errorf("%s on %s: %w", s.ID, s.WorkerID, err)
	}
	defer body.Close()
	if text, err := io.ReadAll(body); err != nil || string(text) != s.ID {
		return fmt.Errorf("%s on %s: its file reads %q, %w", s.ID, s.WorkerID, text, err)
	}
	if s.Provider == "mock" {
		return nil
	}
	text, err := n.shell(n.plane, s.ID, "cd /workspace; cat count; old=$(cat count); for i in $(seq 100); do [ $(cat count) -gt $old ] && exit 0; sleep 0.1; done; exit 1")
	if err != nil {
		return fmt.Errorf("%s on %s does not count any more: %w", s.ID, s.WorkerID, err)
	}
	// It counts five times a second at most, and the night lasts more than a minute.
	if counted, err := strconv.Atoi(strings.TrimSpace(text)); err != nil || counted < 50 {
		return fmt.Errorf("%s on %s has counted to %q", s.ID, s.WorkerID, text)
	}
	return nil
}
