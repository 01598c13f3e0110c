package store_test

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
)

// The tests of this file run this test binary again as other processes.
const (
	childTask   = "STACYVM_STORE_TEST_CHILD"
	childDriver = "STACYVM_STORE_TEST_DRIVER"
	childPlace  = "STACYVM_STORE_TEST_PLACE" // path or DSN
)

// childMain does a child's task instead of running tests.
func childMain() {
	tasks := map[string]func(context.Context, store.Store) error{"write": childWrite, "register": childRegister, "hold": childHold}
	task, ok := tasks[os.Getenv(childTask)]
	if !ok {
		return
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // the parent says when
	if err := childRun(task); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func childRun(task func(context.Context, store.Store) error) error {
	ctx := context.Background()
	place := os.Getenv(childPlace)
	s, err := store.Open(ctx, store.Config{Driver: os.Getenv(childDriver), Path: place, DSN: place})
	if err != nil {
		return err
	}
	return errors.Join(task(ctx, s), s.Close())
}

// childWrite creates until it is killed, and prints each id after it was answered.
func childWrite(ctx context.Context, s store.Store) error {
	var wait sync.WaitGroup
	failures := make([]error, 8)
	for i := range failures {
		wait.Go(func() {
			for failures[i] == nil {
				id := stacyvm.NewSandboxID()
				failures[i] = s.Update(ctx, func(tx store.Tx) error { return insertLeased(ctx, tx, id) })
				if failures[i] == nil {
					_, failures[i] = fmt.Println(id)
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(failures...)
}

func insertLeased(ctx context.Context, tx store.Tx, id stacyvm.SandboxID) error {
	if _, err := tx.Sandboxes().Insert(ctx, stacyvm.Sandbox{ID: id, State: stacyvm.StateCreating, Spec: stacyvm.Spec{TTL: time.Hour}}); err != nil {
		return err
	}
	request := store.LeaseRequest{Resource: string(id), Type: "sandbox", Holder: "w", Session: "s", TTL: time.Hour}
	if _, err := tx.Leases().Acquire(ctx, request); err != nil {
		return err
	}
	return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{{Actor: "child", SandboxID: id}})
}

// childRegister is a process that starts: it goes for a duty and registers a worker.
func childRegister(ctx context.Context, s store.Store) error {
	cluster, err := s.Cluster(ctx)
	if err != nil {
		return err
	}
	me := stacyvm.WorkerID(fmt.Sprintf("w-%d", os.Getpid()))
	won := "lost"
	err = s.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: "duty", Type: "duty", Holder: me, Session: "s", TTL: time.Hour})
		switch {
		case err == nil:
			won = "won"
		case stacyvm.CodeOf(err) != stacyvm.CodeConflict:
			return err
		}
		_, err = tx.Workers().Save(ctx, stacyvm.Worker{ID: me})
		return err
	})
	fmt.Println(cluster.ID, won)
	return err
}

// child is a started process that waits until it is told to go on.
type child struct {
	*exec.Cmd
	input  io.WriteCloser
	output *bufio.Scanner
	errors *strings.Builder
}

// start lets the child's task begin.
func (c *child) start(t *testing.T) {
	t.Helper()
	if _, err := c.input.Write([]byte{'\n'}); err != nil {
		t.Fatal(err)
	}
}

// next reads the child's next line.
func (c *child) next(t *testing.T) string {
	t.Helper()
	if !c.output.Scan() {
		t.Fatalf("the child ended: %v, %s", c.Wait(), c.errors)
	}
	return c.output.Text()
}

func startChild(t *testing.T, task string, config store.Config) *child {
	t.Helper()
	c := &child{Cmd: exec.CommandContext(t.Context(), os.Args[0]), errors: new(strings.Builder)}
	c.Env = append(os.Environ(), childTask+"="+task, childDriver+"="+config.Driver, childPlace+"="+cmp.Or(config.DSN, config.Path))
	c.Stderr = c.errors
	input, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	c.input, c.output = input, bufio.NewScanner(output)
	return c
}

// TestManyProcessesOpenOneNewDatabase starts them at the same moment.
func TestManyProcessesOpenOneNewDatabase(t *testing.T) {
	for _, processes := range []int{2, 8} {
		t.Run(fmt.Sprint(processes), func(t *testing.T) {
			onEachDriver(t, func(t *testing.T, config store.Config) { openTogether(t, config, processes) })
		})
	}
}

func openTogether(t *testing.T, config store.Config, processes int) {
	children := make([]*child, processes)
	for i := range children {
		children[i] = startChild(t, "register", config)
	}
	for _, c := range children {
		c.start(t)
	}
	clusters, winners := map[string]bool{}, 0
	for _, c := range children {
		for c.output.Scan() {
			cluster, won, _ := strings.Cut(c.output.Text(), " ")
			clusters[cluster] = true
			if won == "won" {
				winners++
			}
		}
		if err := c.Wait(); err != nil {
			t.Errorf("%v: %s", err, c.errors)
		}
	}
	if len(clusters) != 1 || winners != 1 {
		t.Errorf("identities %v, %d winners of one lease", clusters, winners)
	}
	err := open(t, config).View(t.Context(), func(tx store.Tx) error {
		workers, err := tx.Workers().List(t.Context(), store.Page{})
		if len(workers) != len(children) {
			t.Errorf("%d workers are registered", len(workers))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAnsweredWritesSurviveKill kills a writing process at any moment, again and again on one database.
func TestAnsweredWritesSurviveKill(t *testing.T) {
	onEachDriver(t, func(t *testing.T, config store.Config) {
		var answered []stacyvm.SandboxID
		for range storetest.Often(20, 100) {
			c := startChild(t, "write", config)
			c.start(t)
			limit := 1 + rand.IntN(150) // answers, then any moment soon after
			for n := 0; c.output.Scan(); n++ {
				answered = append(answered, stacyvm.SandboxID(c.output.Text()))
				if n == limit {
					time.AfterFunc(rand.N(3*time.Millisecond), func() { _ = c.Process.Kill() })
				}
			}
			if err := c.Wait(); err == nil || c.errors.Len() > 0 {
				t.Fatalf("the process was not killed: %v, %s", err, c.errors)
			}
			if id := len(answered) - 1; !answered[id].Valid() { // cut by the kill
				answered = answered[:id]
			}
		}
		if config.Driver == "" {
			checkIntegrity(t, config.Path)
		}
		wantAnswered(t, open(t, config), answered)
	})
}

// wantAnswered checks that every write of insertLeased that was answered is there, whole.
func wantAnswered(t *testing.T, s store.Store, answered []stacyvm.SandboxID) {
	t.Helper()
	err := s.View(t.Context(), func(tx store.Tx) error {
		for _, id := range answered {
			row, err := tx.Sandboxes().Get(t.Context(), id)
			if err != nil || row.Fence.Epoch != 1 {
				return fmt.Errorf("%s was answered: %+v, %w", id, row.Fence, err)
			}
			if lease, err := tx.Leases().Get(t.Context(), string(id)); err != nil || lease.Epoch != 1 {
				return fmt.Errorf("the lease of %s: %+v, %w", id, lease, err)
			}
			if lines, err := tx.Audit().Operations(t.Context(), store.OperationFilter{Sandbox: id}); err != nil || len(lines) != 1 {
				return fmt.Errorf("%d audit lines of %s, %w", len(lines), id, err)
			}
		}
		rows, err := tx.Sandboxes().Count(t.Context(), store.SandboxFilter{})
		t.Logf("%d writes were answered, %d are there", len(answered), rows)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func checkIntegrity(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var verdict string
	if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity: %s, %v", verdict, err)
	}
}
