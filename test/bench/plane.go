package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// Databases that may be filled; scripts/bench.sh starts a server for each.
const (
	dsnVariable       = "STACYVM_BENCH_POSTGRES_DSN"
	dsnBeforeVariable = "STACYVM_BENCH_POSTGRES_DSN_BEFORE"
)

// planeRows is how many sandboxes there are when they are read.
const planeRows = 600

// plane measures the control plane on the mock engine, whose sandboxes cost next to nothing, on
// each database.
func (b *bench) plane(ctx runContext) error {
	if err := b.planeOn(ctx, "sqlite", nil, nil); err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	ours, before := os.Getenv(dsnVariable), os.Getenv(dsnBeforeVariable)
	if ours == "" || b.before != "" && before == "" {
		b.figure("control plane on postgres", "not measured: "+dsnVariable+" (with -before also "+dsnBeforeVariable+") is not set")
		return nil
	}
	on := func(dsn string) []string {
		return []string{"STACYVM_DATABASE_DRIVER=postgres", "STACYVM_DATABASE_DSN=" + dsn}
	}
	if err := b.planeOn(ctx, "postgres", on(ours), on(before)); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// mock is the environment of a server or worker with the mock engine alone.
func mock() []string {
	return []string{"STACYVM_PROVIDERS_MOCK_ENABLED=true", "STACYVM_PROVIDERS_GVISOR_ENABLED=false", "STACYVM_PROVIDERS_DEFAULT=mock"}
}

// part is a sandbox of a system, with all those that the system has.
type part struct {
	*system
	ids  []string
	next atomic.Int64
}

// any gives the ids in turns.
func (p *part) any() string { return p.ids[int(p.next.Add(1))%len(p.ids)] }

func (b *bench) planeOn(ctx runContext, name string, env, envBefore []string) (err error) {
	var parts []*part
	defer func() {
		for _, p := range parts {
			err = p.stop(err)
		}
	}()
	for _, build := range b.builds() {
		if build.name == "before" {
			env = envBefore
		}
		s, err := start(build.name, build.binary, filepath.Join(b.dir, name+"-"+build.name), slices.Concat(env, mock(), b.profiling())...)
		if s != nil && s.Server != nil {
			parts = append(parts, &part{system: s})
		}
		if err != nil {
			return err
		}
	}
	for _, p := range parts {
		if p.ids, err = p.spawnMany(ctx, planeRows); err != nil {
			return err
		}
	}
	b.section("control plane on " + name + ", mock engine, over HTTP")
	sync, err := syncTime(ctx, b.dir)
	if err != nil {
		return err
	}
	b.figure("sync of 4 KiB to this disk", "p50 "+short(sync))
	rows := b.planeRows(parts)
	if !b.smoke {
		rows = append(rows, crowded(parts[0]))
	}
	for _, r := range rows {
		if err := b.measure(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// planeRows are the rows of one database. Parts are ours and, with -before, the earlier build's.
func (b *bench) planeRows(parts []*part) []row {
	both := func(name string, turns int, turn func(*part) func(runContext) (sample, error)) row {
		r := row{name: name, turns: turns, ours: side{"ours", turn(parts[0])}}
		if len(parts) > 1 {
			r.before = side{"before", turn(parts[1])}
		}
		return r
	}
	var rows []row
	for _, clients := range []int{1, 8} {
		get := both(fmt.Sprintf("get, %d clients", clients), 20, func(p *part) func(runContext) (sample, error) {
			return repeat(p.system, clients, 100, func(ctx runContext) error { return p.get(ctx, "/sandboxes/"+p.any()) })
		})
		get.beside = side{"health", repeat(nil, clients, 100, func(ctx runContext) error { return parts[0].get(ctx, "/health") })}
		rows = append(rows, get)
	}
	rows = append(rows, both("list of 600", 20, func(p *part) func(runContext) (sample, error) {
		return repeat(p.system, 1, 3, func(ctx runContext) error { return p.get(ctx, "/sandboxes") })
	}))
	for _, clients := range []int{1, 32} {
		create := both(fmt.Sprintf("create, %d clients", clients), 4, func(p *part) func(runContext) (sample, error) { return p.creates(clients) })
		create.rate = clients > 1
		rows = append(rows, create)
	}
	rows = append(rows, both("destroy", 8, func(p *part) func(runContext) (sample, error) { return p.destroys }))
	run := both("exec true", 10, func(p *part) func(runContext) (sample, error) {
		return repeat(p.system, 1, 10, func(ctx runContext) error { return p.run(ctx, p.ids[0], argvTrue) })
	})
	run.beside = side{"process start", repeat(nil, 1, 10, func(ctx runContext) error { return exec.CommandContext(ctx, "true").Run() })}
	small := both("write of 1 KiB", 10, func(p *part) func(runContext) (sample, error) {
		return repeat(p.system, 1, 20, func(ctx runContext) error { return p.write(ctx, 1<<10) })
	})
	large := both("write of 10 MiB as JSON", 4, func(p *part) func(runContext) (sample, error) {
		return repeat(p.system, 1, 1, func(ctx runContext) error { return p.write(ctx, 10<<20) })
	})
	return append(rows, run, small, large)
}

var argvTrue = client.ExecRequest{Mode: client.ModeArgv, Command: "true"}

// write puts a file of so many bytes, as the REST API's JSON.
func (p *part) write(ctx runContext, size int) error {
	return p.post(ctx, "/sandboxes/"+p.ids[0]+"/files", `{"path":"/workspace/file","content":"`+strings.Repeat("x", size)+`"}`)
}

// creates has clients make sandboxes as fast as they can, and removes them. One client's times are
// those of each create; of several it is the whole time by the number of creates.
func (p *part) creates(clients int) func(runContext) (sample, error) {
	return func(ctx runContext) (sample, error) {
		const n = 160
		ids := make([]string, n)
		began := time.Now()
		one, err := timed(p.system, func() (times, error) {
			took := make(times, n)
			return took, each(clients, n, func(i int) error {
				began := time.Now()
				sandbox, err := p.Spawn(ctx, client.SpawnRequest{TTL: "1h"})
				ids[i], took[i] = sandbox.ID, time.Since(began)
				return err
			})
		})
		if err != nil {
			return one, err
		}
		if clients > 1 {
			one.cpu /= n
			one.times = times{time.Since(began) / n}
		}
		return one, each(8, n, func(i int) error { return p.Destroy(ctx, ids[i]) })
	}
}

// destroys removes sandboxes one after another that it made for that.
func (p *part) destroys(ctx runContext) (sample, error) {
	const n = 20
	ids, err := p.spawnMany(ctx, n)
	if err != nil {
		return sample{}, err
	}
	next := 0
	return repeat(p.system, 1, n, func(ctx runContext) error { next++; return p.Destroy(ctx, ids[next-1]) })(ctx)
}

// syncTime is the middle of what small writes take to reach the disk.
func syncTime(ctx runContext, dir string) (_ time.Duration, err error) {
	file, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	took, err := repeat(nil, 1, 101, func(runContext) error {
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			return err
		}
		return file.Sync()
	})(ctx)
	if err != nil {
		return 0, err
	}
	return took.percentile(50), nil
}
