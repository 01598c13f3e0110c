package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/test/harness"
)

// dsnVariable names a PostgreSQL database that may be filled; scripts/bench.sh starts a server for
// it.
const dsnVariable = "STACYVM_BENCH_POSTGRES_DSN"

// planeCreates is how many creates each number of clients makes.
const planeCreates = 1500

// planeRows is how many sandboxes there are when pages of them are read.
const planeRows = 10_000

// plane measures the control plane on the mock engine, whose sandboxes cost next to nothing, on
// each database.
func plane(ctx runContext, out io.Writer, dir string) error {
	drivers := []struct {
		name string
		env  []string
		aim  string // creates per second with 32 clients
	}{
		{"sqlite", nil, "1000"},
		{"postgres", []string{"STACYVM_DATABASE_DRIVER=postgres", "STACYVM_DATABASE_DSN=" + os.Getenv(dsnVariable)}, "1500"},
	}
	for _, d := range drivers {
		if d.name == "postgres" && os.Getenv(dsnVariable) == "" {
			fmt.Fprintf(out, "control plane on postgres: not measured, %s is not set\n", dsnVariable)
			continue
		}
		if err := planeOn(ctx, out, filepath.Join(dir, d.name), d.name, d.aim, d.env); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

func planeOn(ctx runContext, out io.Writer, dir, name, aim string, env []string) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	env = append(env, "STACYVM_PROVIDERS_MOCK_ENABLED=true", "STACYVM_PROVIDERS_GVISOR_ENABLED=false", "STACYVM_PROVIDERS_DEFAULT=mock")
	b := &bench{out: out}
	if b.Server, err = harness.New(dir, env...); err != nil {
		return err
	}
	if b.Client, err = client.New(b.URL(), client.Options{HTTPClient: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}); err != nil {
		return err
	}
	if err := b.Up(); err != nil {
		return err
	}
	defer func() {
		err = cmp.Or(err, b.Stop())
		if err != nil {
			err = fmt.Errorf("%w\nthe server's log ends with:\n%s", err, b.Log())
		}
	}()
	b.section("control plane on " + name + ", mock engine, over HTTP")
	sync, err := syncTime(dir)
	if err != nil {
		return err
	}
	b.figure("sync of 4 KiB to this disk", "p50 "+short(sync))
	// The first create on a new data directory also makes the built-in image.
	first, err := b.Spawn(ctx, client.SpawnRequest{TTL: "1h"})
	if err != nil {
		return err
	}
	ids := []string{first.ID}
	for _, clients := range []int{1, 8, 32} {
		made, err := b.creates(ctx, clients, aim)
		if err != nil {
			return err
		}
		ids = append(ids, made...)
	}
	if err := b.gets(ctx, ids); err != nil {
		return err
	}
	return b.pages(ctx, store.Config{Driver: name, Path: filepath.Join(dir, "data", "stacyvm.db"), DSN: os.Getenv(dsnVariable)}, len(ids))
}

// creates has clients make sandboxes as fast as they can, and gives their ids.
func (b *bench) creates(ctx runContext, clients int, aim string) ([]string, error) {
	ids, took := make([]string, planeCreates), make(times, planeCreates)
	var next atomic.Int64
	var group errgroup.Group
	began := time.Now()
	for range clients {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < planeCreates; i = next.Add(1) - 1 {
				one := time.Now()
				sandbox, err := b.Spawn(ctx, client.SpawnRequest{TTL: "1h"})
				if err != nil {
					return err
				}
				ids[i], took[i] = sandbox.ID, time.Since(one)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%5.0f/s   %s", planeCreates/time.Since(began).Seconds(), took)
	if clients == 32 {
		text += "   aim " + aim + "/s"
	}
	b.figure(fmt.Sprintf("creates, %d clients", clients), text)
	return ids, nil
}

func (b *bench) gets(ctx runContext, ids []string) error {
	var took times
	for i := range 2000 {
		if err := took.add(func() error { _, err := b.Sandbox(ctx, ids[i%len(ids)]); return err }); err != nil {
			return err
		}
	}
	b.figure("get", took.String()+"   aim p50 0.50ms")
	return nil
}

// pages reads planeRows sandboxes ten times, page by page.
func (b *bench) pages(ctx runContext, database store.Config, present int) error {
	if err := addRows(ctx, database, planeRows-present); err != nil {
		return err
	}
	var took times
	for range 10 {
		seen := 0
		for cursor, more := "", true; more; more = cursor != "" {
			var page []client.Sandbox
			err := took.add(func() (err error) { page, cursor, err = b.SandboxPage(ctx, cursor, 100); return err })
			if err != nil {
				return err
			}
			seen += len(page)
		}
		if seen != planeRows {
			return fmt.Errorf("the pages have %d sandboxes, not %d", seen, planeRows)
		}
	}
	b.figure("page of 100 out of 10,000", took.String()+"   aim 3.00ms")
	return nil
}

// addRows writes sandboxes past the server, of the one state that asks nothing of it: so many
// runtimes would be more than one process may have files open, and do nothing for a list.
func addRows(ctx runContext, database store.Config, n int) error {
	s, err := store.Open(ctx, database)
	if err != nil {
		return err
	}
	err = s.Update(ctx, func(tx store.Tx) error {
		for range n {
			_, err := tx.Sandboxes().Insert(ctx, stacyvm.Sandbox{
				ID: stacyvm.NewSandboxID(), State: stacyvm.StateError, Cause: stacyvm.Cause{Reason: stacyvm.ReasonRuntimeDied}, Desired: stacyvm.DesiredRunning,
				Provider: "mock", Image: "host", WorkerID: "local", Fence: stacyvm.Fence{Incarnation: 1, Epoch: 1},
				Spec: stacyvm.Spec{Image: "host", Provider: "mock", MemoryMB: 1024, VCPUs: 1, DiskMB: 1024, TTL: time.Hour},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, s.Close())
}

// syncTime is the middle of what small writes take to reach the disk.
func syncTime(dir string) (_ time.Duration, err error) {
	file, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	var took times
	for range 101 {
		err := took.add(func() error {
			if _, err := file.Write(make([]byte, 4096)); err != nil {
				return err
			}
			return file.Sync()
		})
		if err != nil {
			return 0, err
		}
	}
	return took.percentile(50), nil
}
