package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

const loopback = "127.0.0.1"

// remote measures a sandbox on a worker process behind mutual TLS beside one on the server's own
// worker, both through the same server.
func (b *bench) remote(ctx runContext) (err error) {
	b.section("a remote worker over mutual TLS, gVisor")
	c, err := b.withWorkers(ctx, "remote", 1)
	near := c.near
	defer func() {
		if near != nil {
			err = near.stop(err)
		}
		err = errors.Join(err, c.stopWorkers())
	}()
	if err != nil {
		return err
	}
	boxes := map[bool]*box{} // by whether it is on the remote worker
	for range 8 {            // the one that has fewer comes first
		sandbox, err := near.Spawn(ctx, small)
		if err != nil {
			return err
		}
		boxes[sandbox.WorkerID == c.workers[0].ID] = &box{system: near, id: sandbox.ID}
	}
	local, far := boxes[false], boxes[true]
	if local == nil || far == nil {
		return errors.New("all sandboxes are on one worker")
	}
	on := func(o *box, n int, do func(*box, runContext) error) side {
		name := "local"
		if o == far {
			name = "remote"
		}
		return side{name, repeat(near, 1, n, func(ctx runContext) error { return do(o, ctx) })}
	}
	for _, r := range []row{
		{name: "exec true", turns: 10, ours: on(far, 10, (*box).true), beside: on(local, 10, (*box).true)},
		{name: "stream of 64 MiB", turns: 5, rate: true, ours: on(far, 1, (*box).stream), beside: on(local, 1, (*box).stream)},
	} {
		if err := b.measure(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// withWorkers starts a server and so many worker processes beside it, in a directory of this name.
// All get env. What was started is in c also after an error.
func (b *bench) withWorkers(ctx runContext, name string, n int, env ...string) (c cluster, err error) {
	top := filepath.Join(b.dir, name)
	authority := filepath.Join(top, "authority")
	pki := func(args ...string) error {
		if output, err := exec.CommandContext(ctx, b.binary, append([]string{"pki"}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("pki %v: %w: %s", args, err, output)
		}
		return nil
	}
	if err := pki("init", authority); err != nil {
		return c, err
	}
	bundle, err := os.ReadFile(filepath.Join(authority, "ca-bundle.pem"))
	if err != nil {
		return c, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	// hand gives a process its certificate, and says in which directory and environment it runs.
	hand := func(kind, name string) (string, []string, error) {
		dir := filepath.Join(top, name)
		to := filepath.Join(dir, "pki")
		err := errors.Join(pki("issue", authority, "--"+kind, name), os.MkdirAll(to, 0o700))
		for _, file := range []string{"ca-bundle.pem", kind + "-" + name + ".pem"} {
			var content []byte
			if err == nil {
				content, err = os.ReadFile(filepath.Join(authority, file))
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(to, file), content, 0o600)
			}
		}
		return dir, append(slices.Clone(env), "STACYVM_PKI_DIR="+to), err
	}
	dir, own, err := hand("server", loopback)
	if err != nil {
		return c, err
	}
	near := &system{name: "near", http: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
	}}}
	if near.Server, err = harness.NewOf(b.binary, dir, own...); err != nil {
		return c, err
	}
	near.HTTP = near.http
	if near.Client, err = client.New(near.URL(), client.Options{HTTPClient: near.http}); err != nil {
		return c, err
	}
	c.near = near
	if err := near.Up(); err != nil {
		return c, err
	}
	for i := range n {
		name := fmt.Sprintf("far-%d", i+1)
		if dir, own, err = hand("worker", name); err != nil {
			return c, err
		}
		worker, err := harness.NewWorker(dir, name, append(own, "STACYVM_WORKER_CONTROL_PLANE_URL="+near.URL())...)
		if err != nil {
			return c, err
		}
		port, err := harness.FreePort()
		if err != nil {
			return c, err
		}
		worker.Listen = net.JoinHostPort(loopback, strconv.Itoa(port))
		worker.Known = func() bool {
			known, err := near.Worker(ctx, name)
			return err == nil && known.Status == "online"
		}
		c.workers = append(c.workers, worker)
		if err := worker.Up(); err != nil {
			return c, err
		}
	}
	return c, nil
}

// cluster is a server and worker processes of it.
type cluster struct {
	near    *system // nil: it was not started
	workers []*harness.Worker
}

// stopWorkers ends the worker processes.
func (c cluster) stopWorkers() error {
	var failures []error
	for _, w := range c.workers {
		failures = append(failures, w.Stop())
	}
	return errors.Join(failures...)
}
