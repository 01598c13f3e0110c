//go:build cluster

package system

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
)

const (
	healWithin = 90 * time.Second
	perGVisor  = 8 // one sandbox of so many is of gVisor; the others have the mock engine, which ends with its worker
)

// size is how many sandboxes the cluster has and how long a worker is cut off: a lease, the grace
// and a little, or with STACYVM_TEST_CLUSTER, the number of sandboxes, half a minute past the
// lease.
func size(t *testing.T) (sandboxes int, cut time.Duration) {
	t.Helper()
	text := os.Getenv("STACYVM_TEST_CLUSTER")
	if text == "" {
		return 48, 45 * time.Second
	}
	sandboxes, err := strconv.Atoi(text)
	if err != nil || sandboxes < 3*perGVisor {
		t.Fatalf("STACYVM_TEST_CLUSTER is %q, want a number of sandboxes, at least %d", text, 3*perGVisor)
	}
	return sandboxes, 60 * time.Second
}

// fleet is what clients were told that they have.
type fleet struct {
	mu        sync.Mutex
	made      map[string]client.Sandbox
	destroyed map[string]bool // and were told so
	asked     map[string]bool // to be destroyed, whatever was answered
}

func (f *fleet) add(s client.Sandbox) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made[s.ID] = s
}

func (f *fleet) mark(set map[string]bool, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set[id] = true
}

// alive lists what was made and not destroyed, in a fixed order.
func (f *fleet) alive() (all []client.Sandbox) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, s := range f.made {
		if !f.destroyed[id] {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b client.Sandbox) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// TestCluster: two control planes, three workers, many sandboxes. Each sandbox is used through the
// control plane that did not make it. Then a worker and a control plane are killed, PostgreSQL is
// restarted and a worker is cut off, while clients go on. Nobody ever acts for what another owns,
// and nothing is lost or left without a word.
func TestCluster(t *testing.T) {
	many, cut := size(t)
	c := startCluster(t, 2, 3)
	c.recordLeases()
	f := &fleet{made: map[string]client.Sandbox{}, destroyed: map[string]bool{}, asked: map[string]bool{}}
	c.populate(f, many)
	c.useCrosswise(f)
	quiet := c.startQuiet(f)
	sentries := c.sentries()

	clients, stop := context.WithCancel(t.Context())
	var busy errgroup.Group
	for i := range 4 {
		busy.Go(func() error { return c.live(clients, f, i) })
	}
	c.killWorker()
	c.killPlane()
	c.database.Restart()
	c.until(30*time.Second, "the cluster answers after the database's restart", c.answers)
	c.cutOff(f, c.workers[1], cut)
	stop()
	c.check(busy.Wait())

	c.until(healWithin, "workers have what the records say", func() string { return c.compare(f) })
	c.wantJournals(c.wantOneWriter())
	c.wantNothingLost(f)
	c.wantEndsTold(f)
	quiet()
	if now := c.sentries(); !covers(now, sentries) {
		t.Errorf("gVisor sandboxes were started again: processes %v, were %v", now, sentries)
	}
}

// populate makes the sandboxes through both control planes.
func (c *cluster) populate(f *fleet, many int) {
	c.Helper()
	var group errgroup.Group
	group.SetLimit(8)
	began := time.Now()
	for i := range many {
		request := client.SpawnRequest{Provider: "mock", MemoryMB: 64, TTL: "1h"}
		if i%perGVisor == 0 {
			request.Provider, request.MemoryMB = "gvisor", 128
		}
		group.Go(func() error {
			s, err := c.planes[i%2].Spawn(c.Context(), request)
			if err != nil {
				return fmt.Errorf("spawn %d: %w", i, err)
			}
			s.Metadata = map[string]string{"plane": fmt.Sprint(i % 2)}
			f.add(s)
			return nil
		})
	}
	c.must(group.Wait())
	on, real := map[string]int{}, map[string]bool{}
	count := func(s client.Sandbox) {
		on[s.WorkerID]++
		real[s.WorkerID] = real[s.WorkerID] || s.Provider == "gvisor"
	}
	for _, s := range f.alive() {
		count(s)
	}
	for tries := 0; slices.Contains(slices.Collect(maps.Values(real)), false) && tries < many; tries++ {
		s, err := c.planes[0].Spawn(c.Context(), client.SpawnRequest{Provider: "gvisor", MemoryMB: 128, TTL: "1h"})
		c.must(err) // placing is a draw: every worker is to have a sandbox of gVisor
		s.Metadata = map[string]string{"plane": "0"}
		f.add(s)
		count(s)
	}
	c.Logf("%d sandboxes in %v, on %v", many, time.Since(began).Round(time.Millisecond), on)
	if len(on) != len(c.workers) {
		c.Errorf("sandboxes are on %v, not on all workers", on)
	}
}

// useCrosswise runs a command, moves a file and reads a stream in each sandbox, through the
// control plane that did not make it.
func (c *cluster) useCrosswise(f *fleet) {
	c.Helper()
	var group errgroup.Group
	group.SetLimit(8)
	for i, s := range f.alive() {
		other := c.planes[0]
		if s.Metadata["plane"] == "0" {
			other = c.planes[1]
		}
		group.Go(func() error {
			if err := c.use(other, s.ID, i); err != nil {
				return fmt.Errorf("%s (%s on %s): %w", s.ID, s.Provider, s.WorkerID, err)
			}
			return nil
		})
	}
	c.must(group.Wait())
}

func (c *cluster) use(p *plane, id string, i int) error {
	ctx := c.Context()
	word := bytes.Repeat(fmt.Appendf(nil, "%s-%d\n", id, i), 1000)
	if _, err := p.Upload(ctx, id, "/workspace/word", bytes.NewReader(word), client.UploadOptions{}); err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	body, err := p.Download(ctx, id, "/workspace/word")
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, word) {
		return fmt.Errorf("%d bytes came back of %d: %w", len(got), len(word), err)
	}
	process, err := p.Start(ctx, id, client.ExecRequest{Command: "cat word; echo end >&2; exit 7", Workdir: "/workspace"})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	var stdout, stderr bytes.Buffer
	code := -1
	for event, err := range p.Output(ctx, id, process.ID, client.OutputRequest{}) {
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		switch {
		case event.Exit != nil:
			code = event.Exit.Code
		case event.Stream == client.Stderr:
			stderr.Write(event.Data)
		default:
			stdout.Write(event.Data)
		}
	}
	if code != 7 || !bytes.Equal(stdout.Bytes(), word) || stderr.String() != "end\n" {
		return fmt.Errorf("the stream gave %d bytes, %q, exit code %d", stdout.Len(), &stderr, code)
	}
	return nil
}

// startQuiet starts a command that says nothing through all that happens, on the worker that
// nothing happens to, and gives what to call at the end: its last word must arrive.
func (c *cluster) startQuiet(f *fleet) (wait func()) {
	var box client.Sandbox
	for _, s := range f.alive() {
		if s.Provider == "gvisor" && s.WorkerID == c.workers[2].ID {
			box = s
		}
	}
	if box.ID == "" {
		c.Fatalf("no gVisor sandbox is on %s", c.workers[2].ID)
	}
	process, err := c.planes[1].Start(c.Context(), box.ID, client.ExecRequest{Stdin: true, Command: "read word; echo $word"})
	c.must(err)
	said := make(chan string, 1)
	go func() {
		var got strings.Builder
		for event, err := range c.planes[1].Output(c.Context(), box.ID, process.ID, client.OutputRequest{}) {
			if err != nil {
				fmt.Fprint(&got, err)
			}
			got.Write(event.Data)
		}
		said <- got.String()
	}()
	return func() {
		c.check(c.planes[1].Input(box.ID, process.ID, 0).Write(c.Context(), []byte("still here\n")))
		if got := <-said; got != "still here\n" {
			c.Errorf("the quiet command said %q", got)
		}
	}
}

// live is one client that makes, uses and destroys sandboxes until it is told to stop. Refusals
// are part of what happens; a wrong answer is not.
func (c *cluster) live(ctx context.Context, f *fleet, i int) error {
	for n := i; ctx.Err() == nil; n++ {
		p := c.planes[n%2].impatient
		call, cancel := context.WithTimeout(ctx, 20*time.Second)
		s, err := p.Spawn(call, client.SpawnRequest{Provider: "mock", MemoryMB: 64, TTL: "1h"})
		if err == nil {
			f.add(s)
			result, failed := p.Exec(call, s.ID, client.ExecRequest{Command: "echo " + s.ID})
			if failed == nil && (result.ExitCode != 0 || result.Stdout != s.ID+"\n") {
				cancel()
				return fmt.Errorf("%s answers %+v", s.ID, result)
			}
			err = failed
		}
		if err == nil && n%3 != 0 {
			f.mark(f.asked, s.ID)
			if err = p.Destroy(call, s.ID); err == nil {
				f.mark(f.destroyed, s.ID)
			}
		}
		cancel()
		pause := 100 * time.Millisecond
		if err != nil {
			pause = time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause): // the rate of a client
		}
	}
	return nil
}

func (c *cluster) killWorker() {
	w := c.workers[0]
	c.must(w.Kill(syscall.SIGKILL))
	time.Sleep(3 * time.Second) // clients meet a worker that is gone
	c.must(w.Up())
}

func (c *cluster) killPlane() {
	p := c.planes[0]
	c.must(p.Kill(syscall.SIGKILL))
	time.Sleep(3 * time.Second) // clients meet a control plane that is gone
	c.must(p.Up())
}

// answers says what does not answer.
func (c *cluster) answers() string {
	for _, p := range c.planes {
		if _, err := p.impatient.Sandboxes(c.Context()); err != nil {
			return err.Error()
		}
	}
	for _, w := range c.workers {
		if status := c.status(w.ID); status != "online" {
			return w.ID + " is " + status
		}
	}
	return ""
}

// compare says where the workers' disks and the records differ.
func (c *cluster) compare(f *fleet) string {
	rows, err := c.planes[0].Sandboxes(c.Context())
	if err != nil {
		return err.Error()
	}
	var differ []string
	here := map[string]map[string]bool{}
	for _, w := range c.workers {
		here[w.ID] = c.runtimes(w.Dir)
	}
	for _, row := range rows {
		switch has := here[row.WorkerID][row.ID]; {
		case row.State == "running" && !has:
			differ = append(differ, row.ID+" runs nowhere")
		case row.State == "creating":
			differ = append(differ, row.ID+" is still being created")
		case row.State == "unhealthy" && row.Reason != "lost":
			differ = append(differ, row.ID+" is unhealthy: "+row.Reason)
		}
		delete(here[row.WorkerID], row.ID)
	}
	for worker, left := range here {
		for id := range left {
			differ = append(differ, id+" is an orphan on "+worker)
		}
	}
	if len(differ) > 5 {
		differ = append(differ[:5], fmt.Sprintf("and %d more", len(differ)-5))
	}
	return strings.Join(differ, "; ")
}

// wantNothingLost: what a client was promised runs and answers, or its record says what became of
// it. Sandboxes of gVisor outlive everything that happened.
func (c *cluster) wantNothingLost(f *fleet) {
	c.Helper()
	var group errgroup.Group
	group.SetLimit(8)
	var mu sync.Mutex
	lost := 0
	for _, s := range f.alive() {
		group.Go(func() error {
			row, err := c.planes[1].Sandbox(c.Context(), s.ID)
			if err != nil {
				if client.CodeOf(err) == client.CodeNotFound && f.asked[s.ID] {
					return nil // by a client whose destroy was answered with an error
				}
				return fmt.Errorf("%s, which was promised: %w", s.ID, err)
			}
			switch {
			case row.State == "running":
				out, err := c.shell(c.planes[1], s.ID, "echo "+s.ID)
				if err != nil || out != s.ID+"\n" {
					return fmt.Errorf("%s runs and says %q: %w", s.ID, out, err)
				}
			case row.Reason == "":
				return fmt.Errorf("%s is %s for no reason", s.ID, row.State)
			case s.Provider == "gvisor":
				return fmt.Errorf("%s of gVisor is %s: %s", s.ID, row.State, row.Reason)
			default:
				mu.Lock()
				lost++
				mu.Unlock()
			}
			return nil
		})
	}
	c.check(group.Wait())
	c.Logf("%d sandboxes were promised; of those of the killed worker's mock engine %d are reported as lost", len(f.alive()), lost)
}

// wantEndsTold: of every sandbox that is gone subscribers were told so once, also when its client
// stopped in the middle.
func (c *cluster) wantEndsTold(f *fleet) {
	c.Helper()
	rows, err := c.planes[1].Sandboxes(c.Context())
	c.must(err)
	here := map[string]bool{}
	for _, row := range rows {
		here[row.ID] = true
	}
	seen, ends := map[string]bool{}, map[string]int{}
	for n, err := range c.planes[1].Events(c.Context(), client.EventsRequest{After: "0", NoFollow: true}) {
		c.must(err)
		if n.Type == "sandbox.destroyed" && !seen[n.ID] { // one may come twice
			seen[n.ID] = true
			ends[n.SandboxID]++
		}
	}
	gone := 0
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.made {
		if here[id] {
			continue
		}
		if gone++; ends[id] != 1 {
			c.Errorf("the end of %s was told %d times (asked for: %v, answered: %v)", id, ends[id], f.asked[id], f.destroyed[id])
		}
	}
	c.Logf("%d of %d sandboxes are gone", gone, len(f.made))
}

// sentries gives the process of each gVisor sandbox.
func (c *cluster) sentries() map[string]int {
	all := map[string]int{}
	for _, w := range c.workers {
		maps.Copy(all, w.Sentries())
	}
	return all
}

func covers(all, part map[string]int) bool {
	for id, pid := range part {
		if all[id] != pid {
			return false
		}
	}
	return len(part) > 0
}
