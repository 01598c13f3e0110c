package store_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
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
