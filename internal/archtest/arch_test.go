package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"
)

const module = "github.com/stacyvm/stacyvm/"

// rules says which packages of this module a package may import. A trailing /... covers the
// package and everything below it. The first rule whose key matches the importing package decides,
// so that more special keys stand first. `make generate` writes the linter's rules and the
// document's table from it.
var rules = []struct {
	pkg     string
	imports []string
	never   string // of the rest, what a reader might expect, and why not
}{
	{"cmd/stacyvm", []string{"internal/cli"}, ""},
	{"cmd/stacyvm-guest", []string{"internal/guest", "internal/guest/agent"}, ""},
	{"cmd/stacyvm-sentry", []string{
		"cmd/stacyvm-sentry/launcher", "cmd/stacyvm-sentry/limits", "cmd/stacyvm-sentry/oom", "cmd/stacyvm-sentry/process",
		"cmd/stacyvm-sentry/umount", "internal/engine/gvisor/wire", "internal/flock",
	}, ""},
	{"cmd/stacyvm-sentry/launcher", []string{"cmd/stacyvm-sentry/expiry", "cmd/stacyvm-sentry/process", "internal/engine/gvisor/wire"},
		"gVisor: what it needs of it is passed in"},
	{"cmd/stacyvm-sentry/limits", []string{"cmd/stacyvm-sentry/cgroup", "cmd/stacyvm-sentry/process", "internal/engine/gvisor/wire"}, "gVisor"},
	{"cmd/stacyvm-sentry/cgroup", nil, ""},
	{"cmd/stacyvm-sentry/expiry", nil, ""},
	{"cmd/stacyvm-sentry/oom", nil, "gVisor: what it needs of it is passed in"},
	{"cmd/stacyvm-sentry/process", nil, ""},
	{"cmd/stacyvm-sentry/umount", nil, "what takes time to set up: it has to run before that"},
	{"client/...", nil, "`internal`: it is for other people's programs"},
	{"proto/...", []string{"proto/..."}, ""},
	{"scripts/...", []string{"internal/bundle"}, ""},
	{"internal/archtest", nil, ""},
	{"test/acceptance", nil, ""},
	{"test/system", nil, ""},
	{"test/dist", []string{"internal/testneed"}, ""},
	{"test/vm", nil, ""},
	{"test/harness", nil, ""},
	{"test/bench", []string{"client", "test/harness", "internal/store", "internal/stacyvm"}, ""},

	{"internal/stacyvm", nil, ""},
	{"internal/strictjson", nil, ""},
	{"internal/coalesce", nil, ""},
	{"internal/flock", nil, ""},
	{"internal/reload", nil, ""},
	{"internal/testneed", []string{"internal/bundle"}, ""},
	{"internal/bundle", []string{"internal/stacyvm"}, ""},
	{"internal/pki", []string{
		"internal/flock", "internal/reload", "internal/stacyvm",
	}, "`auth`: certificates name parties, not permissions"},
	{"internal/auth", []string{
		"internal/pki", "internal/reload", "internal/stacyvm", "internal/strictjson",
	}, "transports, `store`: what it keeps it describes as an interface"},
	{"internal/telemetry", nil, ""},
	{"internal/budget", []string{"internal/stacyvm"}, ""},
	{"internal/space", []string{"internal/stacyvm"}, ""},
	{"internal/config", []string{"internal/auth", "internal/pki", "internal/stacyvm"}, ""},
	{"internal/schedule", []string{"internal/stacyvm"}, ""},
	{"internal/lease", []string{"internal/store", "internal/stacyvm"}, ""},
	{"internal/retry", []string{"internal/stacyvm"}, ""},
	{"internal/image", []string{
		"internal/flock", "internal/stacyvm",
	}, "`engine`, `worker`: it hands over directories, not runtimes"},
	{"internal/guest/agent/...", []string{
		"internal/guest", "internal/guest/agent/...", "proto/...",
	}, "everything else: it is the code nearest to the enemy"},
	{"internal/guest", []string{"internal/budget", "internal/stacyvm", "proto/..."}, ""},

	{"internal/store/postgrestest", []string{"internal/testneed"}, ""},
	{"internal/store/storetest", []string{"internal/stacyvm", "internal/store/...", "internal/testneed"}, ""},
	{"internal/store/migrations", nil, ""},
	{"internal/store/internal/dberr", []string{"internal/stacyvm"}, ""},
	{"internal/store/internal/sqldb", []string{
		"internal/stacyvm", "internal/store/internal/dberr", "internal/store/migrations",
	}, "`store`: it knows no table of it; the machinery above it"},
	{"internal/store/internal/...", []string{
		"internal/retry", "internal/stacyvm", "internal/store/internal/dberr", "internal/store/internal/sqldb",
	}, "`store`: they know no table of it; each other"},
	{"internal/store/dbtool", []string{"internal/stacyvm", "internal/store/..."}, ""},
	{"internal/store", []string{
		"internal/stacyvm", "internal/store/internal/...", "internal/store/migrations",
	}, "`control`, `worker`, `engine`"},

	{"internal/engine/mock", []string{
		"internal/engine", "internal/guest/...", "internal/stacyvm",
	}, "other engines, `image`, `store`, `worker`"},
	{"internal/engine/gvisor/wire", []string{"internal/retry", "internal/stacyvm"}, ""},
	{"internal/engine/gvisor", []string{
		"internal/bundle", "internal/engine", "internal/engine/gvisor/wire", "internal/flock", "internal/guest",
		"internal/retry", "internal/stacyvm",
	}, "other engines, `image`, `store`, `worker`"},
	{"internal/engine/enginetest", []string{
		"internal/engine", "internal/guest", "internal/stacyvm",
	}, "the engines that it tests"},
	{"internal/engine", []string{"internal/guest", "internal/stacyvm"}, ""},

	{"internal/worker/local", []string{
		"internal/worker", "internal/engine", "internal/image", "internal/guest", "internal/stacyvm",
	}, "`store`, `control`: a worker never sees the database, even in the same process"},
	{"internal/worker/member", []string{
		"internal/retry", "internal/stacyvm",
	}, "`store`, `client`: it knows control planes by a small interface"},
	{"internal/worker/remote", []string{
		"internal/worker", "internal/guest", "internal/auth", "internal/pki", "internal/stacyvm", "proto/...",
	}, "`worker/local`, `engine`: it leads to a worker and is none"},
	{"internal/worker/workertest", []string{
		"internal/worker", "internal/engine", "internal/engine/mock", "internal/guest", "internal/stacyvm",
	}, "the workers that it tests"},
	{"internal/worker", []string{"internal/engine", "internal/guest", "internal/stacyvm"}, ""},

	{"internal/control/audit", []string{
		"internal/store", "internal/guest", "internal/retry", "internal/stacyvm",
	}, "`control`, `worker`: who calls, and how a guest is reached, is passed in"},
	{"internal/control/cluster", []string{
		"internal/control/audit", "internal/store", "internal/lease", "internal/auth", "internal/stacyvm",
	}, "`control`, `worker`: it answers workers and calls none"},
	{"internal/control/placement", []string{
		"internal/control/audit", "internal/coalesce", "internal/store", "internal/schedule", "internal/retry",
		"internal/stacyvm",
	}, "`control`, `worker`: it finds room and calls no worker"},
	{"internal/control/health", []string{
		"internal/control/audit", "internal/control/cluster", "internal/control/placement", "internal/store",
		"internal/worker", "internal/auth", "internal/retry", "internal/stacyvm",
	}, "`control`: it asks and changes nothing"},
	{"internal/control", []string{
		"internal/control/audit", "internal/control/cluster", "internal/control/health", "internal/control/placement",
		"internal/budget", "internal/coalesce", "internal/store", "internal/lease", "internal/worker", "internal/guest",
		"internal/auth", "internal/retry", "internal/stacyvm",
	}, "transports, `database/sql`, `worker/*`, `engine`"},
	{"internal/control/controltest", []string{
		"internal/control", "internal/control/cluster", "internal/store/...", "internal/testneed", "internal/worker",
		"internal/guest", "internal/auth", "internal/stacyvm",
	}, ""},
	{"internal/reconcile", []string{
		"internal/store", "internal/lease", "internal/worker", "internal/schedule", "internal/guest", "internal/auth",
		"internal/retry", "internal/stacyvm",
	}, "transports, `database/sql`, `worker/*`, `engine`"},
	{"internal/api/...", []string{
		"internal/api/...", "internal/budget", "internal/control", "internal/control/audit",
		"internal/control/cluster", "internal/control/health", "internal/auth", "internal/telemetry",
		"internal/stacyvm", "internal/strictjson",
	}, "`store`, `worker`, `engine`: a transport asks `control`"},
	{"internal/cli", []string{
		"client", "internal/telemetry", "internal/daemon", "internal/workerd", "internal/doctor",
		"internal/store/dbtool", "internal/config", "internal/auth", "internal/pki", "internal/image",
		"internal/stacyvm",
	}, "`control`, `store`, `worker`, `engine`: it is a client like any other"},
	{"internal/node", []string{
		"internal/bundle", "internal/config", "internal/engine/...", "internal/flock", "internal/guest",
		"internal/image", "internal/space", "internal/stacyvm", "internal/worker", "internal/worker/local",
	}, "`store`, `control`"},
	{"internal/workerd", []string{
		"client", "internal/auth", "internal/config", "internal/flock", "internal/node", "internal/pki",
		"internal/space", "internal/retry", "internal/stacyvm", "internal/worker/...",
	}, "`store`, `control`: a worker process sees no database"},
	{"internal/daemon/daemontest", []string{
		"client", "internal/config", "internal/pki", "internal/stacyvm",
	}, ""},
	{"internal/daemon", []string{"internal/...", "client"}, ""},
	{"internal/doctor", []string{
		"internal/config", "internal/daemon", "internal/engine", "internal/flock", "internal/image", "internal/node",
		"internal/pki", "internal/space", "internal/stacyvm", "internal/store", "internal/store/dbtool",
	}, "`control`"},
}

func TestImports(t *testing.T) {
	for _, pkg := range listPackages(t) {
		from := strings.TrimPrefix(pkg.ImportPath, module)
		allowed, known := ruleFor(from)
		if !known {
			if len(pkg.GoFiles) > 0 {
				t.Errorf("%s has no rule: add it to the table and run `go generate ./internal/archtest`", from)
			}
			continue
		}
		for _, imported := range pkg.Imports {
			to, ours := strings.CutPrefix(imported, module)
			if ours && !matchesAny(to, allowed) {
				t.Errorf("%s may not import %s (allowed: %s)", from, to, strings.Join(allowed, ", "))
			}
		}
	}
}

// confined names the modules that only one place may import.
var confined = []struct{ module, home, why string }{
	{"database/sql", "internal/store/...", "SQL lives in the store"},
	{"gvisor.dev/gvisor", "cmd/stacyvm-sentry", "everything else compiles in seconds: docs/adr/0001-launcher-process.md"},
	{"github.com/danielgtaylor/huma", "internal/api/...", "the transport's library"},
	{"github.com/spf13/cobra", "internal/cli", "the command line's library"},
	{"github.com/golang-jwt/jwt", "internal/auth", "one place decides which tokens are good"},
	{"github.com/google/go-containerregistry", "internal/image", "one place reads images"},
}

// TestConfinedModules keeps SQL in one place, gVisor out of everything but the launcher, and each
// big library in one package.
func TestConfinedModules(t *testing.T) {
	for _, pkg := range listPackages(t) {
		from := strings.TrimPrefix(pkg.ImportPath, module)
		for _, imported := range pkg.Imports {
			for _, c := range confined {
				if strings.HasPrefix(imported, c.module) && !matches(from, c.home) {
					t.Errorf("%s imports %s, which belongs to %s alone", from, imported, c.home)
				}
			}
		}
	}
}

func ruleFor(pkg string) ([]string, bool) {
	for _, rule := range rules {
		if matches(pkg, rule.pkg) {
			return rule.imports, true
		}
	}
	return nil, false
}

func matchesAny(pkg string, patterns []string) bool {
	for _, pattern := range patterns {
		if matches(pkg, pattern) {
			return true
		}
	}
	return false
}

func matches(pkg, pattern string) bool {
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == below || strings.HasPrefix(pkg, below+"/")
	}
	return path.Clean(pattern) == pkg
}

type listedPackage struct {
	ImportPath string
	GoFiles    []string
	Imports    []string
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	output, err := exec.Command("go", "list", "-json=ImportPath,GoFiles,Imports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listedPackage
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var pkg listedPackage
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, pkg)
	}
}
