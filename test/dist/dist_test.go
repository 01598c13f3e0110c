// Package dist_test holds the release files to what they promise; nothing is installed.
package dist_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

const top = "../.."

// run runs a program in the top directory and gives what it wrote to standard output.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Dir = top
	command.Env = append(os.Environ(), env...)
	var problems bytes.Buffer
	command.Stderr = &problems
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, output, &problems)
	}
	return string(output)
}

// build makes the release files of version 1.2.3.
func build(t *testing.T) (dir string) {
	t.Helper()
	for _, part := range []string{"stacyvm", "parts/stacyvm-sentry", "parts/stacyvm-guest"} {
		if _, err := os.Stat(filepath.Join(top, "bin", part)); err != nil {
			testneed.Missing(t, "build", "run `make build` first: "+err.Error())
		}
	}
	testneed.Program(t, "dpkg-deb")
	dir = t.TempDir()
	run(t, []string{"VERSION=1.2.3", "GOARCH=amd64", "STACYVM_BIN=bin/stacyvm"}, "scripts/dist.sh", dir)
	return dir
}

func TestDist(t *testing.T) {
	dir := build(t)
	sums := filepath.Join(dir, "SHA256SUMS")
	check := exec.CommandContext(t.Context(), "sha256sum", "--strict", "-c", sums)
	check.Dir = dir
	if output, err := check.CombinedOutput(); err != nil {
		t.Errorf("checksums: %v\n%s", err, output)
	}
	t.Run("reproducible", func(t *testing.T) {
		first, err := os.ReadFile(sums)
		if err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(filepath.Join(build(t), "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(first), string(again)); diff != "" {
			t.Errorf("the same commit gave other files: %s", diff)
		}
	})
	deb := filepath.Join(dir, "stacyvm_1.2.3_amd64.deb")
	t.Run("contents", func(t *testing.T) { checkContents(t, deb) })
	t.Run("control", func(t *testing.T) { checkControl(t, deb) })
	t.Run("units", func(t *testing.T) { checkUnits(t, deb) })
	t.Run("materials", func(t *testing.T) {
		for name, module := range map[string]string{"stacyvm": "modernc.org/sqlite", "stacyvm-sentry": "gvisor.dev/gvisor", "stacyvm-guest": "connectrpc.com/connect"} {
			text, err := os.ReadFile(filepath.Join(dir, "sbom", name+".cdx.json"))
			if err != nil || !bytes.Contains(text, []byte(module)) {
				t.Errorf("the bill of materials of %s does not name %s: %v", name, module, err)
			}
		}
	})
	t.Run("tarball", func(t *testing.T) {
		list := run(t, nil, "tar", "-tzvf", filepath.Join(dir, "stacyvm-1.2.3-linux-amd64.tar.gz"))
		for _, want := range []string{`-rwxr-xr-x 0/0 .* stacyvm-1.2.3-linux-amd64/stacyvm\n`, `-rw-r--r-- 0/0 .*/systemd/stacyvm.service\n`, `/LICENSE\n`, `/sbom/stacyvm-sentry.cdx.json\n`} {
			if !regexp.MustCompile(want).MatchString(list) {
				t.Errorf("nothing in the tarball matches %s:\n%s", want, list)
			}
		}
	})
}

func checkContents(t *testing.T, deb string) {
	have := map[string]string{}
	for line := range strings.Lines(run(t, nil, "dpkg-deb", "-c", deb)) {
		if fields := strings.Fields(line); len(fields) >= 6 {
			have[fields[5]] = fields[0] + " " + fields[1]
		}
	}
	for path, want := range map[string]string{
		"./usr/bin/stacyvm":                                "-rwxr-xr-x root/root",
		"./usr/lib/systemd/system/stacyvm.service":         "-rw-r--r-- root/root",
		"./usr/lib/systemd/system/stacyvm-worker.service":  "-rw-r--r-- root/root",
		"./usr/lib/systemd/system/stacyvm-control.service": "-rw-r--r-- root/root",
		"./etc/stacyvm/":                                   "drwxr-xr-x root/root",
		"./etc/stacyvm/stacyvm.yaml":                       "-rw-r--r-- root/root",
		"./usr/share/doc/stacyvm/copyright":                "-rw-r--r-- root/root",
		"./usr/share/doc/stacyvm/operations.md":            "-rw-r--r-- root/root",
		"./usr/share/doc/stacyvm/sbom/stacyvm.cdx.json":    "-rw-r--r-- root/root",
	} {
		if have[path] != want {
			t.Errorf("%s is %q, want %q", path, have[path], want)
		}
	}
	for path, mode := range have {
		if !strings.HasSuffix(mode, " root/root") || mode[5] == 'w' || mode[8] == 'w' || strings.ContainsAny(mode[:10], "sStT") {
			t.Errorf("%s has mode %s", path, mode)
		}
		if !strings.HasPrefix(path, "./usr/") && !strings.HasPrefix(path, "./etc/") && path != "./" {
			t.Errorf("%s is none of the package's places", path)
		}
	}
}

func checkControl(t *testing.T, deb string) {
	dir := t.TempDir()
	run(t, nil, "dpkg-deb", "-e", deb, dir)
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		path := filepath.Join(dir, script)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", script, info, err)
		}
		run(t, nil, "sh", "-n", path)
	}
	conffiles, err := os.ReadFile(filepath.Join(dir, "conffiles"))
	if err != nil || strings.TrimSpace(string(conffiles)) != "/etc/stacyvm/stacyvm.yaml" {
		t.Errorf("files that belong to the administrator: %q, %v", conffiles, err)
	}
	for field, want := range map[string]string{"Package": "stacyvm", "Version": "1.2.3", "Architecture": "amd64"} {
		if got := strings.TrimSpace(run(t, nil, "dpkg-deb", "-f", deb, field)); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
}

// checkUnits lets systemd read the units, and holds them to what makes sandboxes outlive the
// service.
func checkUnits(t *testing.T, deb string) {
	dir := t.TempDir()
	run(t, nil, "dpkg-deb", "-x", deb, dir)
	names, err := filepath.Glob(filepath.Join(dir, "usr/lib/systemd/system/*.service"))
	if err != nil || len(names) != 3 {
		t.Fatalf("units: %q, %v", names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		for _, want := range []string{"NoNewPrivileges=yes", "StateDirectoryMode=0700", "UMask=0077", "Environment=STACYVM_CONFIG=/etc/stacyvm/stacyvm.yaml"} {
			if !slices.Contains(lines, want) {
				t.Errorf("%s lacks %s", filepath.Base(name), want)
			}
		}
		// What holds for the service holds for the launcher and its sandboxes, which outlive it.
		if root := !slices.Contains(lines, "User=stacyvm"); root && regexp.MustCompile(`(?m)^(SystemCall|Restrict|PrivateTmp|DynamicUser)`).Match(text) {
			t.Errorf("%s has an option that sandboxes suffer from", filepath.Base(name))
		}
		// systemd looks for the program, which is not installed here.
		moved := strings.ReplaceAll(string(text), "/usr/bin/stacyvm", filepath.Join(dir, "usr/bin/stacyvm"))
		if err := os.WriteFile(name, []byte(moved), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	analyze := testneed.Program(t, "systemd-analyze")
	output, err := exec.CommandContext(t.Context(), analyze, append([]string{"verify", "--man=no"}, names...)...).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(output)) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, output)
	}
}
