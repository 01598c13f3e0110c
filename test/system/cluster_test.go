package system

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/test/harness"
)

// The keys of a cluster under test.
const (
	clusterKey      = "the client key of a cluster under test"
	clusterAdminKey = "the administrator key of a cluster under test"
	workerPort      = "7424"
)

// cluster is control planes on this machine, workers each on a machine of its own, PostgreSQL and
// mTLS between them.
type cluster struct {
	*testing.T
	dir      string
	database *postgrestest.Server
	network  *harness.Network
	planes   []*plane
	workers  []*harness.Worker
	http     *http.Client // trusts the cluster's authority
	mounted  string       // a directory that the test itself has mounted; its end is no leftover
}

// plane is a control plane with a client that waits for it, and one that does not.
type plane struct {
	*harness.Server
	*client.Client
	impatient *client.Client
}

// startCluster brings everything up. At the end of the test every sandbox is destroyed, every
// process stopped, and nothing may be left on this machine. prepare runs before any process does.
func startCluster(t *testing.T, planes, workers int, prepare ...func(*cluster)) *cluster {
	t.Helper()
	testneed.GVisor(t)
	testneed.Root(t, "make network namespaces")
	testneed.Program(t, "ip")
	dir, err := os.MkdirTemp("", "stacyvm-system-") //nolint:usetesting // scripts/host-state.sh finds what it leaves by this name
	c := &cluster{T: t, dir: dir}
	c.must(err)
	c.Cleanup(func() { c.must(os.RemoveAll(dir)) })
	c.database = postgrestest.Start(t)
	c.network, err = harness.NewNetwork(workers)
	c.must(err)
	c.Cleanup(func() { c.must(c.network.Close()) })
	c.certify(planes, workers)
	for i := range planes {
		c.addPlane(i)
	}
	for i := range workers {
		c.addWorker(i)
	}
	for _, step := range prepare {
		step(c)
	}
	c.Cleanup(c.end)
	for _, p := range c.planes {
		c.must(p.Up())
	}
	for _, w := range c.workers {
		c.must(w.Up())
	}
	return c
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func planeName(i int) string  { return fmt.Sprintf("p%d", i) }
func workerName(i int) string { return fmt.Sprintf("w%d", i) }

// certify gives each party a certificate in its own directory, as an operator does.
func (c *cluster) certify(planes, workers int) {
	binary, err := harness.Binary()
	c.must(err)
	authority := filepath.Join(c.dir, "pki")
	pki := func(args ...string) {
		if text, err := exec.Command(binary, append([]string{"pki"}, args...)...).CombinedOutput(); err != nil {
			c.Fatalf("pki %v: %v\n%s", args, err, text)
		}
	}
	hand := func(to string, names ...string) {
		to = filepath.Join(c.dir, to, "pki")
		c.must(os.MkdirAll(to, 0o700))
		for _, name := range names {
			content, err := os.ReadFile(filepath.Join(authority, name))
			c.must(err)
			c.must(os.WriteFile(filepath.Join(to, name), content, 0o600))
		}
	}
	pki("init", authority)
	pki("issue", authority, "--server", c.network.Address)
	for i := range planes {
		hand(planeName(i), "ca-bundle.pem", "server-"+c.network.Address+".pem")
	}
	for i := range workers {
		pki("issue", authority, "--worker", workerName(i))
		hand(workerName(i), "ca-bundle.pem", "worker-"+workerName(i)+".pem")
	}
	bundle, err := os.ReadFile(filepath.Join(authority, "ca-bundle.pem"))
	c.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	c.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute,
	}}
	c.Cleanup(c.http.CloseIdleConnections)
}

func (c *cluster) addPlane(i int) {
	dir := filepath.Join(c.dir, planeName(i))
	s, err := harness.New(dir, append(onPostgres(c.database.DSN),
		"STACYVM_SERVER_WORKER=false", "STACYVM_PKI_DIR="+filepath.Join(dir, "pki"),
		"STACYVM_AUTH_API_KEY="+clusterKey, "STACYVM_AUTH_ADMIN_API_KEY="+clusterAdminKey,
		"STACYVM_PROVIDERS_DEFAULT=gvisor", "STACYVM_PROVIDERS_MOCK_ENABLED=true", "STACYVM_DEFAULTS_MAX_EXEC_TIMEOUT=1h")...)
	c.must(err)
	s.Host, s.HTTP = c.network.Address, c.http
	p := &plane{Server: s}
	options := client.Options{APIKey: clusterKey, AdminKey: clusterAdminKey, HTTPClient: c.http, Patience: 2 * time.Minute}
	p.Client, err = client.New(s.URL(), options)
	c.must(err)
	options.Patience = time.Nanosecond
	p.impatient, err = client.New(s.URL(), options)
	c.must(err)
	c.planes = append(c.planes, p)
}

func (c *cluster) addWorker(i int) {
	dir := filepath.Join(c.dir, workerName(i))
	var urls []string
	for _, p := range c.planes {
		urls = append(urls, p.URL())
	}
	w, err := harness.NewWorker(dir, workerName(i),
		"STACYVM_PKI_DIR="+filepath.Join(dir, "pki"), "STACYVM_WORKER_CONTROL_PLANE_URL="+strings.Join(urls, ","),
		"STACYVM_WORKER_HEARTBEAT_INTERVAL=5s", "STACYVM_WORKER_MEMORY_MB=10000000", "STACYVM_WORKER_VCPUS=10000",
		"STACYVM_PROVIDERS_MOCK_ENABLED=true")
	c.must(err)
	w.Machine = c.network.Machines[i]
	w.Listen = w.Machine.Address + ":" + workerPort
	w.Known = func() bool { return c.status(w.ID) == "online" }
	c.workers = append(c.workers, w)
}

// status is what the first control plane that answers says of a worker.
func (c *cluster) status(worker string) string {
	for _, p := range c.planes {
		var known struct{ Status string }
		if code, err := c.ask(p, "GET", "/workers/"+worker, nil, &known); err == nil && code == http.StatusOK {
			return known.Status
		}
	}
	return ""
}

// ask makes one request, which nobody repeats, and decodes the answer into a non-nil into.
func (c *cluster) ask(p *plane, method, path string, body, into any, header ...string) (status int, err error) {
	header = append([]string{"X-API-Key", clusterKey, "X-Admin-API-Key", clusterAdminKey}, header...)
	return once(c.http, method, p.URL()+"/api/v1"+path, body, into, header...)
}

// until polls the outside world, which offers no event to wait on. told says what is still
// missing.
func (c *cluster) until(limit time.Duration, what string, told func() string) {
	c.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		missing := told()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("not within %v: %s: %s", limit, what, missing)
		}
	}
}

// shell runs a shell text through one control plane and demands exit code 0.
func (c *cluster) shell(p *plane, sandbox, text string) (string, error) {
	result, err := p.Exec(c.Context(), sandbox, client.ExecRequest{Command: text})
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("%q: exit code %d: %s", text, result.ExitCode, result.Stderr)
	}
	return result.Stdout, err
}

// end destroys every sandbox and checks that nothing of the cluster is left on the machine.
func (c *cluster) end() {
	for _, m := range c.network.Machines {
		c.check(m.Heal())
	}
	for _, p := range c.planes {
		if !p.Running() {
			c.check(p.Up())
		}
	}
	for _, w := range c.workers {
		if !w.Running() {
			c.check(w.Up())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c.empty(ctx)
	for _, w := range c.workers {
		c.check(w.Stop())
	}
	for _, p := range c.planes {
		c.check(p.Stop())
	}
	var left []string
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left = slices.DeleteFunc(harness.Leftovers(c.dir), func(line string) bool {
			return c.mounted != "" && strings.HasPrefix(line, "mount ") && strings.Contains(line, " "+c.mounted+" ")
		})
		for _, w := range c.workers {
			left = append(left, w.ControlGroups()...)
		}
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(left) > 0 {
		c.Errorf("left on the machine: %s", strings.Join(left, "\n"))
	}
	if c.Failed() {
		c.tell()
	}
}

func (c *cluster) check(err error) {
	if err != nil {
		c.Error(err)
	}
}

// empty destroys what there is until there is nothing; what a worker lost is given up.
func (c *cluster) empty(ctx context.Context) {
	for {
		rows, err := c.planes[0].Sandboxes(ctx)
		if err == nil && len(rows) == 0 {
			return
		}
		for _, row := range rows {
			if failed := c.planes[0].Destroy(ctx, row.ID); failed != nil && client.CodeOf(failed) != client.CodeNotFound {
				err = errors.Join(err, fmt.Errorf("destroy %s (%s %s): %w", row.ID, row.State, row.Reason, failed))
			}
		}
		if ctx.Err() != nil {
			c.Errorf("%d sandboxes are left: %v", len(rows), err)
			return
		}
		if err != nil {
			time.Sleep(time.Second)
		}
	}
}

// tell shows what the processes said.
func (c *cluster) tell() {
	for _, p := range c.planes {
		c.Logf("%s:\n%s", p.Dir, p.Log())
	}
	for _, w := range c.workers {
		c.Log(w.Describe())
	}
}
