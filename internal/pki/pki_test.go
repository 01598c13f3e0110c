package pki_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// noon is the clock of these tests.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// newDir makes a directory with an authority.
func newDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if err := pki.Init(dir, false, noon); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustIssue(t *testing.T, dir string, r pki.Request) pki.Issued {
	t.Helper()
	made, err := pki.Issue(dir, r, noon)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// certificates are those of a PEM file.
func certificates(t *testing.T, path string) (found []*x509.Certificate) {
	t.Helper()
	for rest := []byte(content(t, path)); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return found
		}
		if block.Type == "CERTIFICATE" {
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, certificate)
		}
	}
}

// names lists what is in a directory, with modes.
func names(t *testing.T, dir string) (found []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, info.Mode().Perm().String()+" "+entry.Name())
	}
	return found
}

func TestDirectory(t *testing.T) {
	dir := newDir(t)
	mustIssue(t, dir, pki.Request{Worker: "a"})
	mustIssue(t, dir, pki.Request{Server: []string{"::1", "localhost"}})
	want := []string{"-rw-r--r-- ca-bundle.pem", "-rw------- ca.pem", "-rw------- server---1.pem", "-rw------- worker-a.pem"}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("holds %q", got)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info.Mode(), err)
	}
	if strings.Contains(content(t, filepath.Join(dir, "ca-bundle.pem")), "PRIVATE") {
		t.Error("the bundle holds a key")
	}
}

func TestCertificates(t *testing.T) {
	dir := newDir(t)
	ca := certificates(t, filepath.Join(dir, "ca.pem"))[0]
	if !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || ca.NotAfter.Before(noon.AddDate(9, 0, 0)) {
		t.Errorf("authority: %+v", ca)
	}
	for _, c := range []struct {
		r        pki.Request
		party    pki.Party
		dns, ips int
		until    time.Time
	}{
		{pki.Request{Worker: "rack1-a.b_c"}, pki.Party{Role: pki.RoleWorker, Name: "rack1-a.b_c"}, 0, 0, noon.Add(pki.LeafLife)},
		{pki.Request{Worker: "short", Life: time.Hour}, pki.Party{Role: pki.RoleWorker, Name: "short"}, 0, 0, noon.Add(time.Hour)},
		{pki.Request{Server: []string{"cp.example.org", "10.0.0.5", "fe80::1", "cp"}, Life: pki.LeafLifeMax}, pki.Party{Role: pki.RoleServer, Name: "cp.example.org"}, 2, 2, noon.Add(pki.LeafLifeMax)},
	} {
		made := mustIssue(t, dir, c.r)
		leaf := certificates(t, made.Path)[0]
		party, err := pki.PartyOf(leaf)
		if err != nil || party != c.party || made.Party != c.party || len(leaf.DNSNames) != c.dns || len(leaf.IPAddresses) != c.ips {
			t.Errorf("%+v: %+v, %v, names %q %v", c.r, party, err, leaf.DNSNames, leaf.IPAddresses)
		}
		if !leaf.NotAfter.Equal(c.until) || !made.NotAfter.Equal(c.until) || leaf.NotBefore.After(noon) || leaf.NotBefore.Before(noon.Add(-time.Hour)) {
			t.Errorf("%+v: from %s to %s", c.r, leaf.NotBefore, leaf.NotAfter)
		}
		if len(leaf.Subject.Names) != 0 || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2 {
			t.Errorf("%+v: %+v", c.r, leaf)
		}
		if len(made.Serial) != 32 || pki.Serial(leaf) != made.Serial || leaf.CheckSignatureFrom(ca) != nil {
			t.Errorf("%+v: serial %s", c.r, made.Serial)
		}
	}
}

// TestNeverLongerThanTheAuthority: a certificate does not outlive who signed it, and nothing is
// signed afterwards.
func TestNeverLongerThanTheAuthority(t *testing.T) {
	dir := newDir(t)
	end := certificates(t, filepath.Join(dir, "ca.pem"))[0].NotAfter
	made, err := pki.Issue(dir, pki.Request{Worker: "a"}, end.Add(-2*time.Hour))
	if err != nil || !made.NotAfter.Equal(end) {
		t.Errorf("%+v, %v", made, err)
	}
	if _, err := pki.Issue(dir, pki.Request{Worker: "b"}, end); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("after its end: %v", err)
	}
}

func TestKeysAreNotReplaced(t *testing.T) {
	dir := newDir(t)
	made := mustIssue(t, dir, pki.Request{Worker: "a"})
	ca := filepath.Join(dir, "ca.pem")
	authority, leaf := content(t, ca), content(t, made.Path)
	if err := pki.Init(dir, false, noon); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("init: %v", err)
	}
	if _, err := pki.Issue(dir, pki.Request{Worker: "a"}, noon); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("issue: %v", err)
	}
	if content(t, ca) != authority || content(t, made.Path) != leaf {
		t.Error("a key was replaced")
	}
	mustIssue(t, dir, pki.Request{Worker: "a", Force: true})
	if err := pki.Init(dir, true, noon); err != nil {
		t.Fatal(err)
	}
	if content(t, ca) == authority || content(t, made.Path) == leaf || len(certificates(t, filepath.Join(dir, "ca-bundle.pem"))) != 1 {
		t.Error("force replaced nothing, or the bundle trusts the old one")
	}
}

// TestTheBundleIsNotReplaced: who trusts an authority whose key is elsewhere, as a worker does,
// goes on trusting it.
func TestTheBundleIsNotReplaced(t *testing.T) {
	dir := newDir(t)
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	bundle := content(t, filepath.Join(dir, "ca-bundle.pem"))
	if err := pki.Init(dir, false, noon); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("init: %v", err)
	}
	if content(t, filepath.Join(dir, "ca-bundle.pem")) != bundle || len(names(t, dir)) != 1 {
		t.Errorf("the bundle was replaced, or something made beside it: %q", names(t, dir))
	}
	if err := pki.Init(dir, true, noon); err != nil || content(t, filepath.Join(dir, "ca-bundle.pem")) == bundle {
		t.Errorf("with force: %v", err)
	}
}

// TestRetireWaitsForAll: the former authority stays while a certificate of it is good.
func TestRetireWaitsForAll(t *testing.T) {
	dir := newDir(t)
	for _, r := range []pki.Request{{Worker: "a"}, {Server: []string{"b"}}, {Worker: "gone", Life: time.Hour}} {
		mustIssue(t, dir, r)
	}
	if _, err := pki.Rotate(dir, noon); err != nil {
		t.Fatal(err)
	}
	later := noon.Add(2 * time.Hour) // the last one has expired
	for _, r := range []pki.Request{{Worker: "a", Force: true}, {Server: []string{"b"}, Force: true}} {
		if n, err := pki.Retire(dir, later); stacyvm.CodeOf(err) != stacyvm.CodeConflict || n != 0 || len(certificates(t, filepath.Join(dir, "ca-bundle.pem"))) != 2 {
			t.Errorf("before %+v: %d, %v", r, n, err)
		}
		mustIssue(t, dir, r)
	}
	if n, err := pki.Retire(dir, later); n != 1 || err != nil {
		t.Errorf("after all: %d, %v", n, err)
	}
}

func TestIssueRefuses(t *testing.T) {
	dir := newDir(t)
	for _, c := range []struct {
		field string
		r     pki.Request
	}{
		{"worker", pki.Request{}}, {"worker", pki.Request{Worker: "a", Server: []string{"b"}}}, {"worker", pki.Request{Worker: "../a"}}, {"worker", pki.Request{Worker: "a b"}}, {"worker", pki.Request{Worker: strings.Repeat("a", 65)}},
		{"server", pki.Request{Server: []string{""}}}, {"server", pki.Request{Server: []string{"http://x"}}}, {"server", pki.Request{Server: []string{"a", "*.example.org"}}}, {"server", pki.Request{Server: []string{"a/../b"}}}, {"server", pki.Request{Server: []string{"a..b"}}}, {"server", pki.Request{Server: []string{"-a"}}}, {"server", pki.Request{Server: []string{strings.Repeat("a.", 130) + "a"}}},
		{"ttl", pki.Request{Worker: "a", Life: time.Minute}}, {"ttl", pki.Request{Worker: "a", Life: -time.Hour}}, {"ttl", pki.Request{Worker: "a", Life: pki.LeafLifeMax + 1}},
	} {
		_, err := pki.Issue(dir, c.r, noon)
		if known, ok := errors.AsType[*stacyvm.Error](err); !ok || known.Code != stacyvm.CodeInvalid || known.Field != c.field {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("left %q", got)
	}
}

// TestBadDirectories: what is missing, damaged or open to others is refused, and nothing is
// written there.
func TestBadDirectories(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	for name, spoil := range map[string]struct {
		code  stacyvm.Code
		spoil func(dir string) error
	}{
		"no authority":              {stacyvm.CodeNotFound, func(dir string) error { return os.Remove(filepath.Join(dir, "ca.pem")) }},
		"others may write":          {stacyvm.CodeUnavailable, func(dir string) error { return os.Chmod(dir, 0o770) }},
		"others may read the key":   {stacyvm.CodeUnavailable, func(dir string) error { return os.Chmod(filepath.Join(dir, "ca.pem"), 0o640) }},
		"an empty authority":        {stacyvm.CodeUnavailable, rewrite("ca.pem", func(string) string { return "" })},
		"a certificate without key": {stacyvm.CodeUnavailable, rewrite("ca.pem", func(s string) string { certificate, _, _ := strings.Cut(s, "-----BEGIN PRIVATE"); return certificate })},
		"two authorities":           {stacyvm.CodeUnavailable, rewrite("ca.pem", func(s string) string { return s + s })},
		"no PEM":                    {stacyvm.CodeUnavailable, rewrite("ca.pem", func(string) string { return "x" })},
		"huge":                      {stacyvm.CodeUnavailable, rewrite("ca.pem", func(s string) string { return s + strings.Repeat("\nx", 1<<20) })},
	} {
		dir := newDir(t)
		if err := spoil.spoil(dir); err != nil {
			t.Fatal(err)
		}
		before := names(t, dir)
		_, issued := pki.Issue(dir, pki.Request{Worker: "a"}, noon)
		_, rotated := pki.Rotate(dir, noon)
		_, retired := pki.Retire(dir, noon)
		for _, err := range []error{issued, rotated, retired} {
			if stacyvm.CodeOf(err) != spoil.code {
				t.Errorf("%s: %v", name, err)
			}
		}
		if after := names(t, dir); !slices.Equal(before, after) {
			t.Errorf("%s: %q became %q", name, before, after)
		}
	}
	if _, err := pki.Issue(absent, pki.Request{Worker: "a"}, noon); stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
		t.Errorf("absent: %v", err)
	}
	if err := pki.Init("/dev/null", false, noon); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("a file: %v", err)
	}
	if _, err := os.Stat(absent); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a missing directory was made by something else than init")
	}
}

// rewrite changes a file's text in place, so that its mode stays.
func rewrite(name string, change func(string) string) func(string) error {
	return func(dir string) error {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(path, []byte(change(string(text))), 0o600))
	}
}

func TestRotate(t *testing.T) {
	dir := newDir(t)
	first := certificates(t, filepath.Join(dir, "ca.pem"))[0]
	for want := 2; want <= 3; want++ {
		if trusted, err := pki.Rotate(dir, noon); err != nil || trusted != want {
			t.Fatalf("%d, %v", trusted, err)
		}
	}
	bundle := certificates(t, filepath.Join(dir, "ca-bundle.pem"))
	active := certificates(t, filepath.Join(dir, "ca.pem"))[0]
	if len(bundle) != 3 || !bundle[0].Equal(active) || !slices.ContainsFunc(bundle, first.Equal) || len(names(t, dir)) != 4 {
		t.Errorf("the bundle holds %d, the directory %q", len(bundle), names(t, dir))
	}
	if err := os.Remove(filepath.Join(dir, "ca-bundle.pem")); err != nil {
		t.Fatal(err)
	}
	mustIssue(t, dir, pki.Request{Worker: "a"})
	if healed := certificates(t, filepath.Join(dir, "ca-bundle.pem")); len(healed) != 3 {
		t.Errorf("a lost bundle came back with %d", len(healed))
	}
	for _, want := range []int{2, 0} {
		deleted, err := pki.Retire(dir, noon)
		if bundle := certificates(t, filepath.Join(dir, "ca-bundle.pem")); err != nil || deleted != want || len(bundle) != 1 || !bundle[0].Equal(active) {
			t.Errorf("retired %d, %v; the bundle holds %d", deleted, err, len(bundle))
		}
	}
	if expired, err := pki.Rotate(dir, noon.AddDate(20, 0, 0)); err != nil || expired != 1 {
		t.Errorf("an expired authority stays in the bundle: %d, %v", expired, err)
	}
}

// TestManyAtOnce: of many that make the same thing one succeeds, and what is there is whole.
func TestManyAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	var made, issued atomic.Int32
	var racing sync.WaitGroup
	for range 8 {
		racing.Go(func() {
			if err := pki.Init(dir, false, noon); err == nil {
				made.Add(1)
			} else if stacyvm.CodeOf(err) != stacyvm.CodeConflict {
				t.Error(err)
			}
			if _, err := pki.Issue(dir, pki.Request{Worker: "a"}, noon); err == nil {
				issued.Add(1)
			} else if stacyvm.CodeOf(err) != stacyvm.CodeConflict {
				t.Error(err)
			}
			if _, err := pki.Rotate(dir, noon); err != nil {
				t.Error(err)
			}
		})
	}
	racing.Wait()
	if made.Load() != 1 || issued.Load() != 1 {
		t.Errorf("%d made, %d issued", made.Load(), issued.Load())
	}
	if bundle := certificates(t, filepath.Join(dir, "ca-bundle.pem")); len(bundle) != 9 || len(names(t, dir)) != 11 {
		t.Errorf("the bundle holds %d, the directory %q", len(bundle), names(t, dir))
	}
}
