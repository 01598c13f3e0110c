package pki_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// answer signs a request as an authority elsewhere would, for a party.
func answer(t *testing.T, dir string, request []byte, uri string) []byte {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(request)
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || asked.CheckSignature() != nil {
		t.Fatal("the request is not signed: ", err)
	}
	name, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: noon, NotAfter: noon.Add(time.Hour), URIs: []*url.URL{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, pair.Leaf, asked.PublicKey, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

// TestEnrolment: a key is made here, signed there, and then good for both sides; answers for
// anything else are not kept.
func TestEnrolment(t *testing.T) {
	there, stranger := newDir(t), newDir(t)
	bundle := func(dir string) []byte { return []byte(content(t, filepath.Join(dir, "ca-bundle.pem"))) }
	enrolment, err := pki.Enrol("a")
	if err != nil {
		t.Fatal(err)
	}
	request, err := enrolment.Request()
	if err != nil || strings.Contains(string(request), "PRIVATE") {
		t.Fatalf("%v: %s", err, request)
	}
	other, err := pki.Enrol("a")
	if err != nil {
		t.Fatal(err)
	}
	another, err := other.Request()
	if err != nil {
		t.Fatal(err)
	}
	here := filepath.Join(t.TempDir(), "data", "pki")
	const a = "spiffe://stacyvm/worker/a"
	for name, c := range map[string]struct {
		certificate, authorities []byte
		now                      time.Time
	}{
		"nothing":              {nil, bundle(there), noon},
		"no authorities":       {answer(t, there, request, a), nil, noon},
		"two certificates":     {append(answer(t, there, request, a), answer(t, there, request, a)...), bundle(there), noon},
		"another worker":       {answer(t, there, request, "spiffe://stacyvm/worker/b"), bundle(there), noon},
		"a control plane":      {answer(t, there, request, "spiffe://stacyvm/server/a"), bundle(there), noon},
		"another key":          {answer(t, there, another, a), bundle(there), noon},
		"another authority":    {answer(t, there, request, a), bundle(stranger), noon},
		"an expired one":       {answer(t, there, request, a), bundle(there), noon.Add(2 * time.Hour)},
		"a key as authorities": {answer(t, there, request, a), []byte(content(t, filepath.Join(there, "ca.pem"))), noon},
	} {
		if _, err := enrolment.Keep(here, c.certificate, c.authorities, c.now); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(here); err == nil {
		t.Error("a refused answer left something")
	}
	for range 2 { // the second one renews
		kept, err := enrolment.Keep(here, answer(t, there, request, a), bundle(there), noon)
		files := pki.WorkerFiles(here, "a")
		if err != nil || kept.Path != files.Certificate || kept.Bundle != files.Authorities {
			t.Fatalf("%+v, %v", kept, err)
		}
		if info, err := os.Stat(kept.Path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	at := func() time.Time { return noon }
	worker, err := pki.Load(pki.WorkerFiles(here, "a"), pki.Options{Now: at})
	if err != nil {
		t.Fatal(err)
	}
	control := load(t, mustIssue(t, there, pki.Request{Server: []string{"control.test"}}), there, at)
	if _, err := connect(t, control.Server(false), worker.OfServer("control.test")); err != nil {
		t.Error(err)
	}
	if _, err := connect(t, worker.Server(false), control.OfWorker("a")); err != nil {
		t.Error(err)
	}
	if _, err := pki.Enrol("a/b"); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		t.Error(err)
	}
}

// TestPinned: a control plane is believed by the fingerprint of its authority alone.
func TestPinned(t *testing.T) {
	ours, theirs := filepath.Join(t.TempDir(), "ours"), filepath.Join(t.TempDir(), "theirs")
	var servers, workers []*tls.Config
	var prints []string
	for _, dir := range []string{ours, theirs} {
		if err := pki.Init(dir, false, time.Now()); err != nil {
			t.Fatal(err)
		}
		for _, r := range []pki.Request{{Server: []string{"control.test", "127.0.0.1"}}, {Worker: "a"}} {
			made, err := pki.Issue(dir, r, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			config := load(t, made, dir, time.Now).Server(true)
			if r.Worker == "" {
				servers = append(servers, config)
			} else {
				workers = append(workers, config)
			}
		}
		prints = append(prints, pki.Fingerprint(certificates(t, filepath.Join(dir, "ca-bundle.pem"))[0]))
	}
	for _, c := range []struct {
		name        string
		server      *tls.Config
		print, host string
		ok          bool
	}{
		{"the right one", servers[0], prints[0], "control.test", true},
		{"by address", servers[0], prints[0], "127.0.0.1", true},
		{"in upper case", servers[0], strings.ToUpper(prints[0]), "control.test", true},
		{"another host", servers[0], prints[0], "other.test", false},
		{"another authority", servers[1], prints[0], "control.test", false},
		{"no fingerprint", servers[0], "", "control.test", false},
		{"a worker", workers[0], prints[0], "", false},
	} {
		if _, err := connect(t, c.server, pki.Pinned(c.print, c.host)); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
