package workerd

import (
	"context"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// workConfig is a worker process with the mock engine, for the control plane at an address.
func workConfig(t *testing.T, address string) config.Config {
	t.Helper()
	c := daemontest.Config(t)
	c.Providers.Default, c.Providers.Mock.Enabled, c.Providers.GVisor.Enabled = "mock", true, false
	c.Worker.ID, c.Worker.ControlPlaneURL, c.Worker.ListenAddr = "w1", address, "127.0.0.1:0"
	c.Worker.HeartbeatInterval = 50 * time.Millisecond
	return c
}

// process is a worker process of the test.
type process struct {
	t     *testing.T
	ready chan Working
	ended chan error
	stop  context.CancelFunc
}

func startWork(t *testing.T, options Options) *process {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &process{t: t, ready: make(chan Working, 1), ended: make(chan error, 1), stop: stop}
	t.Cleanup(stop)
	options.Ready = func(w Working) { p.ready <- w }
	if options.Logger == nil {
		options.Logger = daemontest.Quiet
	}
	if options.TokenTTL == 0 {
		options.TokenTTL = auth.WorkerTokenDefault
	}
	go func() { p.ended <- Run(ctx, options) }()
	return p
}

// working waits until it acts.
func (p *process) working() Working {
	p.t.Helper()
	select {
	case w := <-p.ready:
		return w
	case err := <-p.ended:
		p.t.Fatal("it ended: ", err)
	case <-time.After(30 * time.Second):
		p.t.Fatal("it does not act")
	}
	return Working{}
}

// end stops it as SIGTERM does.
func (p *process) end() {
	p.t.Helper()
	p.stop()
	if err := <-p.ended; err != nil {
		p.t.Error(err)
	}
}

const workToken = "token-0123456789abcdef0123456789abcdef"

// TestWork: a worker registers, is used, drains, ends, and comes back.
func TestWork(t *testing.T) {
	plane := daemontest.PlaneConfig(t)
	plane.Auth.WorkerToken = workToken
	plane.Worker.ID = "w1" // one configuration for both, as on a machine with a control plane alone and a worker
	address := serving(t, plane)
	c := workConfig(t, "http://127.0.0.1:1,"+address) // the first one is away
	c.Auth.WorkerToken = workToken
	c.Worker.Labels = map[string]string{"zone": "a"}
	caller := daemontest.ClientAt(t, address, nil)
	for range 2 {
		p := startWork(t, Options{Config: c})
		w := p.working()
		if w.ID != "w1" || !strings.HasPrefix(w.RPCURL, "http://127.0.0.1:") || len(w.Providers) != 1 {
			t.Errorf("%+v", w)
		}
		known := must[client.Worker](t)(caller.Worker(t.Context(), "w1"))
		if known.Status != "online" || known.Capacity.MemoryMB == 0 || known.Capacity.VCPUs == 0 || known.Capacity.Labels["zone"] != "a" || known.Capacity.RPCURL != w.RPCURL {
			t.Errorf("%+v", known)
		}
		sandbox := must[client.Sandbox](t)(caller.Spawn(t.Context(), client.SpawnRequest{Provider: "mock"}))
		result := must[client.ExecResult](t)(caller.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: "echo here"}))
		if sandbox.WorkerID != "w1" || result.Stdout != "here\n" {
			t.Errorf("%+v, %+v", sandbox, result)
		}
		if err := caller.Destroy(t.Context(), sandbox.ID); err != nil {
			t.Error(err)
		}
		_, err := Once(t.Context(), Options{Config: c, Logger: daemontest.Quiet})
		daemontest.WantCode(t, err, stacyvm.CodeConflict) // the data directory is in use
		p.end()
		if known := must[client.Worker](t)(caller.Worker(t.Context(), "w1")); known.Status != "draining" {
			t.Errorf("after its end it is %s", known.Status)
		}
	}
}

// TestWorkIsReplaced: a second process of the same worker, elsewhere, ends the first one.
func TestWorkIsReplaced(t *testing.T) {
	plane := daemontest.PlaneConfig(t)
	plane.Auth.WorkerToken = workToken
	address := serving(t, plane)
	first, second := workConfig(t, address), workConfig(t, address)
	first.Auth.WorkerToken, second.Auth.WorkerToken = workToken, workToken
	a := startWork(t, Options{Config: first})
	a.working()
	b := startWork(t, Options{Config: second})
	b.working()
	select {
	case err := <-a.ended:
		daemontest.WantCode(t, err, stacyvm.CodeConflict)
	case <-time.After(30 * time.Second):
		t.Error("the first one goes on")
	}
	b.end()
}

// TestWorkAsAControlPlanesOwn: a worker process is never the worker in a control plane, whose
// sandboxes it would take, also with a credential that is good for every worker.
func TestWorkAsAControlPlanesOwn(t *testing.T) {
	plane := daemontest.PlaneConfig(t)
	plane.Server.Worker, plane.Auth.WorkerToken = true, workToken
	plane.Providers.Default, plane.Providers.Mock.Enabled, plane.Providers.GVisor.Enabled = "mock", true, false
	address := serving(t, plane)
	caller := daemontest.ClientAt(t, address, nil)
	sandbox := must[client.Sandbox](t)(caller.Spawn(t.Context(), client.SpawnRequest{Provider: "mock"}))
	refused := func() {
		t.Helper()
		c := workConfig(t, address)
		c.Auth.WorkerToken, c.Worker.ID = workToken, sandbox.WorkerID
		daemontest.WantCode(t, <-startWork(t, Options{Config: c}).ended, stacyvm.CodeForbidden)
	}
	refused()
	result := must[client.ExecResult](t)(caller.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: "echo still here"}))
	if result.Stdout != "still here\n" {
		t.Errorf("%+v", result)
	}
	if err := caller.DeleteWorker(t.Context(), sandbox.WorkerID, false); client.CodeOf(err) != client.CodeConflict {
		t.Errorf("without force: %v", err)
	}
	if err := caller.Destroy(t.Context(), sandbox.ID); err != nil {
		t.Error(err)
	}
	if err := caller.DeleteWorker(t.Context(), sandbox.WorkerID, true); err != nil {
		t.Error(err)
	}
	refused() // nor while the record is away
}

// TestWorkCredentials: each way to a token, and what is said without one.
func TestWorkCredentials(t *testing.T) {
	private, _ := daemontest.SigningKey(t)
	plane := daemontest.PlaneConfig(t)
	plane.Auth.WorkerTokens, plane.Auth.WorkerSigningKey = map[string]string{"w1": workToken}, private
	plane.Auth.AdminAPIKey, plane.Auth.APIKey = daemontest.SharedToken, daemontest.OwnToken
	address := serving(t, plane)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(workToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Options)
		code   stacyvm.Code
	}{
		{"its own token", func(o *Options) { o.Config.Auth.WorkerTokens = map[string]string{"w1": workToken} }, ""},
		{"the token of all", func(o *Options) { o.Config.Auth.WorkerToken = workToken }, ""},
		{"a token's file", func(o *Options) { o.Config.Auth.WorkerTokenFile = file }, ""},
		{"tokens for the administrator's key", func(o *Options) { o.AdminKey = auth.FixedSecret(daemontest.SharedToken) }, ""},
		{"the signing key", func(o *Options) { o.Config.Auth.WorkerSigningKey = private }, ""},
		{"a wrong token", func(o *Options) { o.Config.Auth.WorkerToken = "x" + workToken }, stacyvm.CodeUnauthenticated},
		{"a wrong token before a right key", func(o *Options) {
			o.Config.Auth.WorkerToken, o.Config.Auth.WorkerSigningKey = "x"+workToken, private
		}, stacyvm.CodeUnauthenticated},
		{"a wrong administrator's key", func(o *Options) { o.AdminKey = auth.FixedSecret("x" + daemontest.SharedToken) }, stacyvm.CodeUnauthenticated},
		{"a client's key", func(o *Options) { o.AdminKey = auth.FixedSecret(daemontest.OwnToken) }, stacyvm.CodeUnauthenticated},
		{"another worker's token", func(o *Options) { o.Config.Worker.ID, o.Config.Auth.WorkerToken = "w2", workToken }, stacyvm.CodeUnauthenticated},
		{"a key that cannot sign", func(o *Options) { o.Config.Auth.WorkerSigningKey = "short" }, stacyvm.CodeInvalid},
		{"none", func(*Options) {}, stacyvm.CodeInvalid},
		{"no file", func(o *Options) { o.Config.Auth.WorkerTokenFile = file + ".absent" }, stacyvm.CodeInvalid},
		{"no address", func(o *Options) { o.Config.Worker.ControlPlaneURL = "" }, stacyvm.CodeInvalid},
		{"no name", func(o *Options) { o.Config.Worker.ID = "a/b" }, stacyvm.CodeInvalid},
		{"TLS without an authority", func(o *Options) { o.Config.Worker.RPCTLS.Enabled = true }, stacyvm.CodeInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := Options{Config: workConfig(t, address), Logger: daemontest.Quiet, TokenTTL: auth.WorkerTokenDefault}
			c.change(&options)
			_, err := Once(t.Context(), options)
			daemontest.WantCode(t, err, c.code)
		})
	}
	listening := workConfig(t, address)
	options := Options{Config: listening, AdminKey: auth.FixedSecret(daemontest.SharedToken)}
	// nobody who calls it could prove anything
	daemontest.WantCode(t, <-startWork(t, options).ended, stacyvm.CodeInvalid)
}

// TestJoin: a worker spends a token for a certificate, is used over mutual TLS, and renews the
// certificate; the next start needs no token.
func TestJoin(t *testing.T) {
	plane := daemontest.PlaneConfig(t)
	plane.PKI.Dir = daemontest.PKIDir(t)
	address := serving(t, plane)
	at := must[*url.URL](t)(url.Parse(address))
	caller := daemontest.ClientAt(t, address, daemontest.Trusting(t, plane.PKI.Dir, "HTTP/1.1"))
	made := must[client.JoinToken](t)(caller.IssueJoinToken(t.Context(), client.JoinTokenRequest{Worker: "w*"}))
	c := workConfig(t, "https://127.0.0.1:"+at.Port())
	join := Options{Config: c, JoinToken: made.Token, Authority: made.AuthoritySHA256}

	for name, change := range map[string]func(*Options){
		"another authority": func(o *Options) { o.Authority = strings.Repeat("0", 64) },
		"another token":     func(o *Options) { o.JoinToken += "x" },
		"plain text":        func(o *Options) { o.Config.Worker.ControlPlaneURL = "http://127.0.0.1:" + at.Port() },
	} {
		options := join
		change(&options)
		if err := <-startWork(t, options).ended; err == nil {
			t.Errorf("%s: joined", name)
		}
	}
	for _, options := range []Options{join, {Config: c}} {
		p := startWork(t, options)
		if w := p.working(); !strings.HasPrefix(w.RPCURL, "https://") {
			t.Errorf("%+v", w)
		}
		sandbox := must[client.Sandbox](t)(caller.Spawn(t.Context(), client.SpawnRequest{Provider: "mock"}))
		if sandbox.WorkerID != "w1" {
			t.Errorf("%+v", sandbox)
		}
		if err := caller.Destroy(t.Context(), sandbox.ID); err != nil {
			t.Error(err)
		}
		p.end()
	}
	join.Config.DataDir = filepath.Join(t.TempDir(), "again")
	daemontest.WantCode(t, <-startWork(t, join).ended, stacyvm.CodeInvalid) // it was spent

	i := must[*identity](t)(openIdentity(t.Context(), Options{Logger: slog.New(slog.DiscardHandler)}, c))
	defer i.close()
	if left := i.renewIn(time.Now()); left < 50*24*time.Hour || left > 61*24*time.Hour {
		t.Errorf("to be renewed in %v", left)
	}
	before := must[[]byte](t)(os.ReadFile(pki.WorkerFiles(i.dir, "w1").Certificate))
	if pause := i.renew(t.Context()); pause != renewRetry {
		t.Errorf("not renewed: %v", pause)
	}
	if after := must[[]byte](t)(os.ReadFile(pki.WorkerFiles(i.dir, "w1").Certificate)); string(after) == string(before) {
		t.Error("the certificate is the same")
	}
	i.urls = []*url.URL{must[*url.URL](t)(url.Parse("https://127.0.0.1:1"))}
	if pause := i.renew(t.Context()); pause < renewRetry*2 {
		t.Errorf("a failed renewal is tried again after %v", pause)
	}
}

// TestJoinAgain: a token for anybody does not make its bearer a worker that exists; one that names
// it does.
func TestJoinAgain(t *testing.T) {
	plane := daemontest.PlaneConfig(t)
	plane.PKI.Dir = daemontest.PKIDir(t)
	address := serving(t, plane)
	at := must[*url.URL](t)(url.Parse(address))
	caller := daemontest.ClientAt(t, address, daemontest.Trusting(t, plane.PKI.Dir, "HTTP/1.1"))
	for _, c := range []struct {
		worker string
		code   stacyvm.Code
	}{{"*", ""}, {"*", stacyvm.CodeInvalid}, {"w1", ""}} {
		made := must[client.JoinToken](t)(caller.IssueJoinToken(t.Context(), client.JoinTokenRequest{Worker: c.worker}))
		options := Options{Config: workConfig(t, "https://127.0.0.1:"+at.Port()), JoinToken: made.Token, Authority: made.AuthoritySHA256}
		p := startWork(t, options)
		if c.code != "" {
			daemontest.WantCode(t, <-p.ended, c.code)
			continue
		}
		p.working()
		p.end()
	}
}
