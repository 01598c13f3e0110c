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
	"github.com/stacyvm/stacyvm/test/harness"
)

// dsnVariable names a PostgreSQL database that may be filled; scripts/bench.sh starts a server for it.
const dsnVariable = "STACYVM_BENCH_POSTGRES_DSN"

// planeCreates is how many creates each number of clients makes.
const planeCreates = 1500

// plane measures the control plane on the mock engine, whose sandboxes cost next to nothing, on each database.
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
	var ids []string
	for _, clients := range []int{1, 8, 32} {
		made, err := b.creates(ctx, clients, aim)
		if err != nil {
			return err
		}
		ids = append(ids, made...)
	}
	return b.gets(ctx, ids)
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
