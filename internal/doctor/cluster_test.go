package doctor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
)

// TestDoctorOfACluster tells of certificates that end soon, and of credentials that cannot be
// used.
func TestDoctorOfACluster(t *testing.T) {
	dir := daemontest.PKIDir(t)
	c := config.Config{PKI: config.PKI{Dir: dir}}
	now := time.Now()
	for in, want := range map[time.Duration]config.Level{0: config.Pass, 80 * 24 * time.Hour: config.Warn, 91 * 24 * time.Hour: config.Fail} {
		if got := daemontest.Level(doctorTrust(c, now.Add(in)), "pki.dir"); got != want {
			t.Errorf("in %s: %s", in, got)
		}
	}
	c.Auth.WorkerSigningKey = "short"
	if got := daemontest.Level(doctorTrust(c, now), "cluster.credentials"); got != config.Fail {
		t.Errorf("a short key: %s", got)
	}
	if checks := doctorTrust(config.Config{}, now); len(checks) != 0 {
		t.Errorf("one machine alone: %+v", checks)
	}
	if err := os.Remove(filepath.Join(dir, "server-localhost.pem")); err != nil {
		t.Fatal(err)
	}
	if checks := doctorTrust(config.Config{PKI: config.PKI{Dir: dir}}, now); len(checks) != 0 {
		t.Errorf("a worker's machine: %+v", checks)
	}
	alone := daemontest.PlaneConfig(t)
	if got := daemontest.Level(Run(t.Context(), alone, false), "engines"); got != config.Pass {
		t.Errorf("a control plane alone: %s", got)
	}
}
