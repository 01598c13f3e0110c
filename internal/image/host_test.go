package image

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const canary = "CANARY-of-this-machine"

// put writes a file of a made-up machine.
func put(t testing.TB, base, name, content string) {
	t.Helper()
	path := filepath.Join(base, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func putLink(t testing.TB, base, name, to string) {
	t.Helper()
	path := filepath.Join(base, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func certificate(t testing.TB, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// machine makes up a Debian system that has a canary in everything that is its own.
func machine(t testing.TB) (base, key string) {
	t.Helper()
	base = t.TempDir()
	for _, name := range []string{"bin", "lib", "lib64", "sbin"} {
		putLink(t, base, name, "usr/"+name)
	}
	for _, name := range []string{"bin/bash", "bin/python3", "lib/os-release", "lib64/ld.so", "sbin/ldconfig", "share/ca-certificates/mozilla/A.crt", "share/zoneinfo/Etc/UTC"} {
		put(t, base, "usr/"+name, "packaged")
	}
	packagedCA, _ := certificate(t, "packaged")
	localCA, key := certificate(t, "local")
	own, _ := certificate(t, canary)
	for name, content := range map[string]string{
		"etc/shadow": canary, "etc/passwd": canary, "etc/group": canary, "etc/gshadow": canary, "etc/machine-id": canary, "etc/hostname": canary,
		"etc/hosts": canary, "etc/resolv.conf": canary, "etc/sudoers": canary, "etc/sudoers.d/x": canary, "etc/ssh/ssh_host_key": canary, "etc/fstab": canary,
		"etc/environment": canary, "etc/profile": canary, "etc/profile.d/x.sh": canary, "etc/nsswitch.conf": canary, "etc/gitconfig": canary, "etc/pip.conf": canary,
		"etc/npmrc": canary, "etc/crontab": canary, "etc/ld.so.conf": canary, "etc/ld.so.conf.d/own.conf": canary, "etc/python3/own": canary,
		"etc/timezone": canary, "etc/ssl/private/key.pem": canary, "etc/ssl/own.pem": canary, "etc/ssl/certs/notes": canary, "etc/alternatives/README": canary,
		"root/.ssh/id": canary, "home/user/x": canary, "home/me/x": canary, "srv/x": canary, "opt/x": canary, "var/lib/x": canary, "tmp/x": canary, "workspace/x": canary,
		"usr/local/bin/x": canary, "usr/local/share/ca-certificates/l.crt": localCA + key + canary, "usr/src/x": canary, "usr/custom/x": canary, "usr/x": canary, "x": canary,
		"etc/ssl/certs/ca-certificates.crt": canary + "\n" + packagedCA + localCA + key, "etc/ssl/certs/java/cacerts": "java", "etc/ssl/certs/snakeoil.pem": own,
		"etc/ld.so.cache": "cache", "etc/bash.bashrc": "as installed", "etc/login.defs": "as installed, then " + canary, "etc/ssl/openssl.cnf": "as installed",
		"etc/python3/debian_config": "as installed",
	} {
		put(t, base, name, content)
	}
	var status strings.Builder
	status.WriteString("Package: x\nConffiles:\n")
	for name, content := range map[string]string{
		"/etc/bash.bashrc": "as installed", "/etc/login.defs": "as installed", "/etc/ssl/openssl.cnf": "as installed", "/etc/python3/debian_config": "as installed",
		"/etc/shadow": canary, "/etc/sudoers": canary, "/etc/fonts/../shadow": canary, "/etc/fonts/link": canary, "/etc/magic": "not there",
	} {
		sum := md5.Sum([]byte(content))
		fmt.Fprintf(&status, " %s %s\n", name, hex.EncodeToString(sum[:]))
	}
	put(t, base, "var/lib/dpkg/status", status.String()+"Description: x\n")
	for name, to := range map[string]string{
		"etc/fonts/link": "../shadow", "etc/alternatives/vi": "/usr/bin/vim", "etc/alternatives/own": "/usr/local/bin/own", "etc/alternatives/opt": "/opt/own", "etc/alternatives/up": "/usr/bin/../../etc/shadow",
		"etc/ssl/certs/A.pem": "/usr/share/ca-certificates/mozilla/A.crt", "etc/ssl/certs/11111111.0": "A.pem", "etc/ssl/certs/l.pem": "/usr/local/share/ca-certificates/l.crt",
		"etc/ssl/certs/22222222.0": "l.pem", "etc/ssl/certs/33333333.0": "snakeoil.pem", "etc/ssl/certs/up.pem": "/usr/share/ca-certificates/../../../etc/shadow",
	} {
		putLink(t, base, name, to)
	}
	return base, key
}

func openMachine(t testing.TB, dir, base string) *Store {
	t.Helper()
	store := open(t, dir)
	store.host.base = base
	return store
}

// TestHostShowsNothingOfItsOwn looks at everything that a sandbox with the built-in image can see.
func TestHostShowsNothingOfItsOwn(t *testing.T) {
	base, key := machine(t)
	root := resolve(t, openMachine(t, t.TempDir(), base), Host)
	places := []string{root.Dir}
	var targets []string
	for _, mount := range root.Mounts {
		places, targets = append(places, mount.Source), append(targets, mount.Target)
	}
	if want := []string{"/usr/bin", "/usr/lib", "/usr/lib64", "/usr/sbin", "/usr/share"}; !slices.Equal(targets, want) {
		t.Errorf("views of %v, not %v", targets, want)
	}
	secret, _ := pem.Decode([]byte(key))
	seen := 0
	for _, place := range places {
		err := filepath.WalkDir(place, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			seen++
			content, err := os.ReadFile(path)
			for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
				content = append(content, block.Bytes...)
			}
			if strings.Contains(string(content), canary) || strings.Contains(string(content), string(secret.Bytes)) {
				t.Errorf("%s holds something of the machine's own", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 20 {
		t.Errorf("only %d files were looked at", seen)
	}
}

func TestHostHasWhatProgramsNeed(t *testing.T) {
	base, _ := machine(t)
	root := resolve(t, openMachine(t, t.TempDir(), base), Host)
	for name, want := range map[string]string{
		"etc/bash.bashrc": "as installed", "etc/ssl/openssl.cnf": "as installed", "etc/python3/debian_config": "as installed", "etc/ld.so.cache": "cache",
		"etc/ssl/certs/java/cacerts": "java", "etc/resolv.conf": "", "etc/shells": "/bin/bash\n",
	} {
		if got := read(t, root, name); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	for name, want := range map[string]string{
		"bin": "usr/bin", "lib64": "usr/lib64", "etc/alternatives/vi": "/usr/bin/vim", "etc/ssl/certs/A.pem": "/usr/share/ca-certificates/mozilla/A.crt",
		"etc/ssl/certs/11111111.0": "A.pem", "etc/ssl/certs/22222222.0": "l.pem", "etc/localtime": "/usr/share/zoneinfo/Etc/UTC", "etc/os-release": "../usr/lib/os-release",
	} {
		if got, err := os.Readlink(filepath.Join(root.Dir, name)); err != nil || got != want {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	for _, name := range []string{"etc/login.defs", "etc/magic", "etc/fonts", "etc/machine-id", "etc/sudoers", "etc/ssh", "etc/ssl/private", "etc/ssl/certs/33333333.0", "etc/ssl/certs/up.pem",
		"etc/alternatives/own", "etc/alternatives/opt", "etc/alternatives/up", "usr/custom", "x"} {
		if _, err := os.Lstat(filepath.Join(root.Dir, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	if bundle := read(t, root, "etc/ssl/certs/ca-certificates.crt"); strings.Count(bundle, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("bundle: %s", bundle)
	}
	if passwd := read(t, root, "etc/passwd"); !strings.Contains(passwd, "user:x:1000:1000:user:/home/user:/bin/bash\n") {
		t.Errorf("passwd: %s", passwd)
	}
	groups, users := read(t, root, "etc/group"), read(t, root, "etc/passwd")
	for _, line := range []string{"adm:x:4:", "tty:x:5:", "disk:x:6:", "sudo:x:27:", "www-data:x:33:", "shadow:x:42:", "staff:x:50:", "users:x:100:", "nogroup:x:65534:", "user:x:1000:"} {
		if !strings.Contains("\n"+groups, "\n"+line+"\n") {
			t.Errorf("no group %s in %s", line, groups)
		}
	}
	for _, line := range []string{"daemon:x:1:1:", "www-data:x:33:33:", "_apt:x:42:65534:", "nobody:x:65534:65534:"} {
		if !strings.Contains("\n"+users, "\n"+line) {
			t.Errorf("no user %s in %s", line, users)
		}
	}
	for table, of := range map[string]string{"etc/shadow": users, "etc/gshadow": groups} {
		if got := read(t, root, table); strings.Count(got, "\n") != strings.Count(of, "\n") || strings.Count(got, ":*:") != strings.Count(got, "\n") {
			t.Errorf("%s: %s", table, got)
		}
	}
	for name, want := range map[string]fs.FileMode{
		"root": 0o700, "tmp": 0o777 | fs.ModeSticky, "var/tmp": 0o777 | fs.ModeSticky, "home/user": 0o755, "workspace": 0o755, "usr/local/bin": 0o755,
		"proc": 0o755, "sys": 0o755, "dev": 0o755, "run": 0o755, "mnt": 0o755, "opt": 0o755, "srv": 0o755, "etc": 0o755,
	} {
		info, err := os.Lstat(filepath.Join(root.Dir, name))
		if err != nil || info.Mode() != want|fs.ModeDir {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
}

// TestHostOfAnotherLayout: /bin and /lib are directories, sbin is a link within /usr, and there is
// no dpkg.
func TestHostOfAnotherLayout(t *testing.T) {
	base, _ := certificateHost(t)
	root := resolve(t, openMachine(t, t.TempDir(), base), Host)
	var targets []string
	for _, mount := range root.Mounts {
		targets = append(targets, mount.Target)
	}
	if want := []string{"/bin", "/lib", "/usr/bin", "/usr/lib"}; !slices.Equal(targets, want) {
		t.Errorf("views of %v, not %v", targets, want)
	}
	if to, err := os.Readlink(filepath.Join(root.Dir, "usr/sbin")); err != nil || to != "bin" {
		t.Errorf("usr/sbin: %q %v", to, err)
	}
	if to, err := os.Readlink(filepath.Join(root.Dir, "usr/lib64/ld.so")); err != nil || to != "../lib/ld.so" {
		t.Errorf("the loader: %q %v", to, err)
	}
	if _, err := os.Lstat(filepath.Join(root.Dir, "lib64")); err == nil {
		t.Error("a link to what is not shown is there")
	}
	for _, name := range []string{"etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt"} {
		if !strings.Contains(read(t, root, name), "BEGIN CERTIFICATE") {
			t.Errorf("%s is empty", name)
		}
	}
	if got := read(t, root, "etc/os-release"); got != "ID=other\n" {
		t.Errorf("os-release: %q", got)
	}
}

func certificateHost(t testing.TB) (base, bundle string) {
	t.Helper()
	base = t.TempDir()
	bundle, _ = certificate(t, "authority")
	for name, content := range map[string]string{
		"bin/sh": "x", "lib/libc.so": "x", "usr/bin/python3": "x", "usr/lib/x": "x", "etc/pki/tls/certs/ca-bundle.crt": bundle, "etc/os-release": "ID=other\n",
	} {
		put(t, base, name, content)
	}
	putLink(t, base, "usr/sbin", "bin")
	putLink(t, base, "usr/lib64/ld.so", "../lib/ld.so")
	putLink(t, base, "lib64", "/usr/local/lib64")
	return base, bundle
}

// TestHostFollowsPackages: a change of the machine makes a new root; the old one stays as long as
// somebody uses it.
func TestHostFollowsPackages(t *testing.T) {
	base, _ := machine(t)
	store := openMachine(t, t.TempDir(), base)
	first := resolve(t, store, Host)
	if again := resolve(t, store, Host); again.Dir != first.Dir {
		t.Errorf("made anew without need: %s", again.Dir)
	}
	before := listing(t, first.Dir)
	put(t, base, "etc/ld.so.cache", "a longer cache")
	second, err := store.Resolve(t.Context(), Host, "second")
	if err != nil || second.Dir == first.Dir || read(t, second, "etc/ld.so.cache") != "a longer cache" {
		t.Fatalf("%+v %v", second, err)
	}
	if listing(t, first.Dir) != before {
		t.Error("a used root changed")
	}
	images, err := store.List(t.Context())
	if err != nil || images[0].InUse != 2 || time.Since(images[0].CreatedAt) > time.Hour {
		t.Errorf("list: %+v %v", images, err)
	}
	if err := store.Release("tester"); err != nil {
		t.Fatal(err)
	}
	put(t, base, "etc/ld.so.cache", "a cache that is longer still")
	if third := resolve(t, store, Host); third.Dir == second.Dir {
		t.Error("not made anew")
	}
	if _, err := os.Stat(first.Dir); err == nil {
		t.Error("the unused root is still there")
	}
	if _, err := os.Stat(second.Dir); err != nil {
		t.Errorf("the used root: %v", err)
	}
	wantClean(t, store)
}

func TestHostByManyAtOnce(t *testing.T) {
	base, _ := machine(t)
	path := t.TempDir()
	var all sync.WaitGroup
	for worker := range 8 {
		store := openMachine(t, path, base)
		all.Go(func() {
			root, err := store.Resolve(t.Context(), Host, fmt.Sprint("holder", worker))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := os.Stat(filepath.Join(root.Dir, "etc/passwd")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made, err := filepath.Glob(filepath.Join(path, hostPrefix+"*")); err != nil || len(made) != 1 {
		t.Errorf("made %v %v", made, err)
	}
	wantClean(t, open(t, path))
}

func TestHostWithoutTime(t *testing.T) {
	base, _ := machine(t)
	store := openMachine(t, t.TempDir(), base)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.Resolve(ctx, Host, "tester"); err == nil || stacyvm.CodeOf(err) == stacyvm.CodeNotFound {
		t.Errorf("error: %v", err)
	}
	if held, err := store.Holders(); err != nil || len(held) > 0 {
		t.Errorf("holders: %v %v", held, err)
	}
}

// BenchmarkResolveHost is on the way of every create.
func BenchmarkResolveHost(b *testing.B) {
	store := open(b, b.TempDir())
	for b.Loop() {
		if _, err := store.Resolve(b.Context(), Host, "a"); err != nil {
			b.Fatal(err)
		}
	}
}
