package pki_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/pki"
)

// clock is one that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// load gives the credentials of an issued party that trusts the bundle of dir.
func load(t *testing.T, made pki.Issued, dir string, now func() time.Time) *pki.Credentials {
	t.Helper()
	c, err := pki.Load(pki.Files{Certificate: made.Path, Authorities: filepath.Join(dir, "ca-bundle.pem")}, pki.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect makes a connection over loopback, lets each side send a byte, and gives what the
// listener knows and what either of them objects to.
func connect(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, err error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			raw, err := listener.Accept()
			if err != nil {
				return err
			}
			conn := tls.Server(raw, server)
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			if _, err = conn.Read(make([]byte, 1)); err == nil { // shakes hands first
				_, err = conn.Write([]byte{1})
			}
			state = conn.ConnectionState()
			return err
		}()
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, client)
	conn.SetDeadline(time.Now().Add(patience))
	if _, err = conn.Write([]byte{1}); err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	conn.Close()
	err = errors.Join(err, <-served) // before state is read
	return state, err
}

// patience bounds a handshake that hangs.
const patience = 20 * time.Second

// TestHandshakes: every caller × every listener × whom the caller wants.
func TestHandshakes(t *testing.T) {
	at := func() time.Time { return noon }
	ours, theirs := newDir(t), newDir(t)
	control := load(t, mustIssue(t, ours, pki.Request{Server: []string{"control.test", "127.0.0.1"}}), ours, at)
	a := load(t, mustIssue(t, ours, pki.Request{Worker: "a"}), ours, at)
	b := load(t, mustIssue(t, ours, pki.Request{Worker: "b"}), ours, at)
	old := load(t, mustIssue(t, ours, pki.Request{Worker: "old", Life: time.Hour}), ours, at)
	late := func() time.Time { return noon.Add(2 * time.Hour) }
	stranger := load(t, mustIssue(t, theirs, pki.Request{Worker: "a"}), theirs, at)
	impostor := load(t, mustIssue(t, theirs, pki.Request{Server: []string{"control.test"}}), ours, at)

	nobody := func(config *tls.Config) *tls.Config {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
		return config
	}
	older := func(config *tls.Config) *tls.Config {
		config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		return config
	}
	aLate := a.Server(false)
	aLate.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		config, err := a.Server(false).GetConfigForClient(hello)
		config.Time = late
		return config, err
	}
	for _, c := range []struct {
		name           string
		server, client *tls.Config
		ok             bool
	}{
		{"control plane calls worker", a.Server(false), control.OfWorker("a"), true},
		{"worker calls control plane by name", control.Server(true), a.OfServer("control.test"), true},
		{"worker calls control plane by address", control.Server(true), a.OfServer("127.0.0.1"), true},
		{"control plane calls control plane", control.Server(false), control.OfServer("control.test"), true},
		{"the called one is another worker", b.Server(false), control.OfWorker("a"), false},
		{"the called one is a control plane", control.Server(false), control.OfWorker("a"), false},
		{"the called one has another name", control.Server(true), a.OfServer("other.test"), false},
		{"the called one has no name", control.Server(true), a.OfServer(""), true}, // any control plane of the cluster
		{"a worker pretends to be the control plane", b.Server(true), a.OfServer("control.test"), false},
		{"a worker pretends to be a nameless control plane", b.Server(true), a.OfServer(""), false},
		{"a stranger's worker calls", a.Server(false), stranger.OfWorker("a"), false},
		{"a stranger's control plane answers", impostor.Server(true), a.OfServer("control.test"), false},
		{"a stranger's worker answers", stranger.Server(false), control.OfWorker("a"), false},
		{"nobody calls", a.Server(false), nobody(control.OfWorker("a")), false},
		{"nobody calls where certificates are optional", control.Server(true), nobody(a.OfServer("control.test")), true},
		{"a stranger calls where certificates are optional", control.Server(true), withRoots(stranger.OfServer("control.test"), a), false},
		{"an older TLS calls", a.Server(false), older(control.OfWorker("a")), false},
		{"one that has not expired calls", aLate, control.OfWorker("a"), true},
		{"an expired one calls", aLate, old.OfWorker("a"), false},
	} {
		state, err := connect(t, c.server, c.client)
		if c.ok != (err == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.ok && (state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "h2") {
			t.Errorf("%s: TLS %x, %q", c.name, state.Version, state.NegotiatedProtocol)
		}
	}
	expired := load(t, mustIssue(t, ours, pki.Request{Worker: "c", Life: time.Hour}), ours, late)
	if _, err := connect(t, expired.Server(true), load(t, mustIssue(t, ours, pki.Request{Worker: "d"}), ours, late).OfWorker("c")); err == nil {
		t.Error("an expired worker answers and is believed")
	}
}

// withRoots lets a stranger believe our side, so that only our judgement of it decides.
func withRoots(config *tls.Config, ours *pki.Credentials) *tls.Config {
	config.VerifyConnection = ours.OfServer("control.test").VerifyConnection
	return config
}

// TestServerKnowsTheCaller: who called is in the verified chain, which auth reads.
func TestServerKnowsTheCaller(t *testing.T) {
	at := func() time.Time { return noon }
	dir := newDir(t)
	control := load(t, mustIssue(t, dir, pki.Request{Server: []string{"control.test"}}), dir, at)
	a := load(t, mustIssue(t, dir, pki.Request{Worker: "a"}), dir, at)
	state, err := connect(t, control.Server(true), a.OfServer("control.test"))
	if err != nil || len(state.VerifiedChains) == 0 {
		t.Fatalf("%v, %d chains", err, len(state.VerifiedChains))
	}
	if party, err := pki.PartyOf(state.VerifiedChains[0][0]); err != nil || party != (pki.Party{Role: pki.RoleWorker, Name: "a"}) {
		t.Errorf("%+v, %v", party, err)
	}
}

// TestRotationWithoutRestart walks through a rotation with two running sides, as docs/workers.md
// describes it.
func TestRotationWithoutRestart(t *testing.T) {
	clock := &clock{now: noon}
	dir := newDir(t)
	serverFile := mustIssue(t, dir, pki.Request{Server: []string{"control.test"}})
	workerFile := mustIssue(t, dir, pki.Request{Worker: "a"})
	server, worker := load(t, serverFile, dir, clock.read), load(t, workerFile, dir, clock.read)
	listener, caller := server.Server(false), worker.OfServer("control.test") // made once, as by a running program
	stolen := content(t, workerFile.Path)
	works := func(step string) {
		t.Helper()
		clock.advance(pki.ReloadLook)
		if _, err := connect(t, listener, caller); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	works("at first")
	if _, err := pki.Rotate(dir, noon); err != nil {
		t.Fatal(err)
	}
	works("with both in the bundle")
	mustIssue(t, dir, pki.Request{Worker: "a", Force: true})
	works("with a new worker's certificate")
	mustIssue(t, dir, pki.Request{Server: []string{"control.test"}, Force: true})
	works("with a new control plane's certificate")
	if _, err := pki.Retire(dir, noon); err != nil {
		t.Fatal(err)
	}
	works("with the new authority alone")
	thief := filepath.Join(t.TempDir(), "stolen.pem")
	if err := os.WriteFile(thief, []byte(stolen), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, listener, load(t, pki.Issued{Path: thief}, dir, clock.read).OfServer("control.test")); err == nil {
		t.Error("a certificate of the retired authority is accepted")
	}
}

// TestReloadKeepsWhatWorks: files that are half replaced, damaged or gone leave the last good ones
// in use, and it is told once.
func TestReloadKeepsWhatWorks(t *testing.T) {
	clock := &clock{now: noon}
	dir := newDir(t)
	at := clock.read
	control := load(t, mustIssue(t, dir, pki.Request{Server: []string{"control.test"}}), dir, at)
	made := mustIssue(t, dir, pki.Request{Worker: "a"})
	whole := content(t, made.Path)
	split := strings.Index(whole, "-----BEGIN PRIVATE")
	certificate, key := filepath.Join(t.TempDir(), "a.crt"), filepath.Join(t.TempDir(), "a.key")
	write := func(path, text string) func() error {
		return func() error { return errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte(text), 0o600)) }
	}
	other := content(t, mustIssue(t, dir, pki.Request{Worker: "a", Force: true}).Path)
	otherSplit := strings.Index(other, "-----BEGIN PRIVATE")
	bundle := content(t, made.Bundle)
	if err := errors.Join(os.WriteFile(certificate, []byte(whole[:split]), 0o600), os.WriteFile(key, []byte(whole[split:]), 0o600)); err != nil {
		t.Fatal(err)
	}
	failures := 0
	worker, err := pki.Load(pki.Files{Certificate: certificate, Key: key, Authorities: made.Bundle}, pki.Options{Now: at, Failed: func(error) { failures++ }})
	if err != nil {
		t.Fatal(err)
	}
	listener := worker.Server(false)
	for _, step := range []struct {
		name     string
		change   func() error
		failures int
	}{
		{"unchanged", func() error { return nil }, 0},
		{"certificate without its key", write(certificate, other[:otherSplit]), 1},
		{"still", func() error { return nil }, 1},
		{"key follows", write(key, other[otherSplit:]), 1},
		{"key readable by others", func() error { return os.Chmod(key, 0o644) }, 2},
		{"private again", func() error { return os.Chmod(key, 0o600) }, 2},
		{"empty bundle", write(made.Bundle, ""), 3},
		{"half a bundle", write(made.Bundle, bundle[:len(bundle)/2]), 4},
		{"a key in the bundle", write(made.Bundle, bundle+whole[split:]), 4},
		{"bundle back", write(made.Bundle, bundle), 4},
		{"key gone", func() error { return os.Remove(key) }, 5},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		clock.advance(31 * time.Second) // whatever the files' times say
		if _, err := connect(t, listener, control.OfWorker("a")); err != nil || failures != step.failures {
			t.Errorf("%s: %v; %d failures, want %d", step.name, err, failures, step.failures)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := newDir(t)
	made := mustIssue(t, dir, pki.Request{Worker: "a"})
	open := filepath.Join(t.TempDir(), "open.pem")
	if err := errors.Join(os.WriteFile(open, []byte(content(t, made.Path)), 0o644), os.Chmod(open, 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]pki.Files{
		"nothing": {}, "no bundle": {Certificate: made.Path}, "a missing bundle": {Certificate: made.Path, Authorities: dir + "/x"}, "a missing certificate": {Certificate: dir + "/x", Authorities: made.Bundle},
		"a bundle for a certificate": {Certificate: made.Bundle, Authorities: made.Bundle}, "a key that others read": {Certificate: open, Authorities: made.Bundle}, "a directory": {Certificate: dir, Authorities: made.Bundle},
		"another's key": {Certificate: made.Path, Key: filepath.Join(dir, "ca.pem"), Authorities: made.Bundle}, "a device": {Certificate: made.Path, Authorities: "/dev/null"},
	} {
		if c, err := pki.Load(files, pki.Options{}); err == nil || c != nil {
			t.Errorf("%s: is loaded", name)
		}
	}
}
