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

const (
	loopback = "127.0.0.1"
	farName  = "far"
)

// remote measures a sandbox on a worker process behind mutual TLS beside one on the server's own
// worker, both through the same server.
func (b *bench) remote(ctx runContext) (err error) {
	b.section("a remote worker over mutual TLS, gVisor")
	near, worker, err := b.withWorker(ctx, "remote")
	defer func() {
		if near != nil {
			err = near.stop(err)
		}
		if worker != nil {
			err = errors.Join(err, worker.Stop())
		}
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
		boxes[sandbox.WorkerID == farName] = &box{system: near, id: sandbox.ID}
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

// withWorker starts a server and a worker process beside it, in a directory of this name. Both get
// env.
func (b *bench) withWorker(ctx runContext, name string, env ...string) (near *system, worker *harness.Worker, err error) {
	top := filepath.Join(b.dir, name)
	authority := filepath.Join(top, "authority")
	for _, args := range [][]string{{"init", authority}, {"issue", authority, "--server", loopback}, {"issue", authority, "--worker", farName}} {
		if output, err := exec.CommandContext(ctx, b.binary, append([]string{"pki"}, args...)...).CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("pki %v: %w: %s", args, err, output)
		}
	}
	bundle, err := os.ReadFile(filepath.Join(authority, "ca-bundle.pem"))
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	hand := func(name string) (string, []string, error) {
		dir := filepath.Join(top, name)
		to := filepath.Join(dir, "pki")
		certificate := map[bool]string{true: "worker-" + farName, false: "server-" + loopback}[name == farName] + ".pem"
		err := os.MkdirAll(to, 0o700)
		for _, file := range []string{"ca-bundle.pem", certificate} {
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
	dir, own, err := hand("near")
	if err != nil {
		return nil, nil, err
	}
	near = &system{name: "near", http: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
	}}}
	if near.Server, err = harness.NewOf(b.binary, dir, own...); err != nil {
		return nil, nil, err
	}
	near.HTTP = near.http
	if near.Client, err = client.New(near.URL(), client.Options{HTTPClient: near.http}); err != nil {
		return nil, nil, err
	}
	if err := near.Up(); err != nil {
		return near, nil, err
	}
	if dir, own, err = hand(farName); err != nil {
		return near, nil, err
	}
	if worker, err = harness.NewWorker(dir, farName, append(own, "STACYVM_WORKER_CONTROL_PLANE_URL="+near.URL())...); err != nil {
		return near, nil, err
	}
	port, err := harness.FreePort()
	if err != nil {
		return near, nil, err
	}
	worker.Listen = net.JoinHostPort(loopback, strconv.Itoa(port))
	worker.Known = func() bool {
		known, err := near.Worker(ctx, farName)
		return err == nil && known.Status == "online"
	}
	return near, worker, worker.Up()
}
