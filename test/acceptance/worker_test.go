package acceptance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

// workers holds each work directory's worker: scripts run in parallel.
var workers sync.Map

// work ID [NAME=VALUE...] starts a worker with a data directory of its own, and waits until the
// script's server knows it and it listens. It is stopped at the script's end.
func work(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: work ID [NAME=VALUE...]")
	}
	dir := ts.MkAbs("worker-" + args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	port, err := harness.FreePort()
	ts.Check(err)
	worker, err := harness.NewWorker(dir, args[0], append([]string{"STACYVM_WORKER_CONTROL_PLANE_URL=" + ts.Getenv("STACYVM_SERVER")}, args[1:]...)...)
	ts.Check(err)
	worker.Listen = fmt.Sprintf("127.0.0.1:%d", port)
	c := clientOf(ts)
	worker.Known = func() bool {
		known, err := c.Worker(context.Background(), args[0])
		return err == nil && !known.Stale && known.Status == "online" && strings.HasSuffix(known.Capacity.RPCURL, worker.Listen)
	}
	ts.Defer(func() { ts.Check(worker.Stop()) })
	workers.Store(ts.MkAbs("."), worker)
	ts.Check(worker.Up())
}

// leave ends the last worker of `work` as an operator would; its log becomes the file worker.log.
func leave(ts *testscript.TestScript, _ bool, _ []string) {
	worker, ok := workers.Load(ts.MkAbs("."))
	if !ok {
		ts.Fatalf("no worker was started")
	}
	ts.Check(worker.(*harness.Worker).Stop())
	ts.Check(os.WriteFile(ts.MkAbs("worker.log"), []byte(worker.(*harness.Worker).Log()), 0o600))
}

// clientOf talks to the script's server.
func clientOf(ts *testscript.TestScript) *client.Client {
	c, err := client.New(ts.Getenv("STACYVM_SERVER"), client.Options{APIKey: ts.Getenv("STACYVM_API_KEY"), HTTPClient: trusting(ts)})
	ts.Check(err)
	return c
}

// trusting gives an HTTP client that believes the authorities in STACYVM_CA_FILE; nil when the
// script has none.
func trusting(ts *testscript.TestScript) *http.Client {
	path := ts.Getenv("STACYVM_CA_FILE")
	if path == "" {
		return nil
	}
	web, err := trustingFile(path)
	ts.Check(err)
	return web
}

func trustingFile(path string) (*http.Client, error) {
	bundle, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}}, nil
}
