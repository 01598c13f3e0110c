package doctor

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
	"github.com/stacyvm/stacyvm/internal/pki"
)

// renewBefore is how long before its end a certificate should be renewed.
const renewBefore = 14 * 24 * time.Hour

// checkOwnWorker warns of sandboxes that one of several servers alone can reach.
func checkOwnWorker(c config.Config) []config.Check {
	if !c.Postgres() || !c.Server.Worker {
		return nil
	}
	return []config.Check{config.Warned("server.worker", daemon.OwnWorkerAlone, daemon.OwnWorkerFix)}
}

// doctorTrust looks at what this machine proves itself with in a cluster. A worker's own
// certificate is left to the worker.
func doctorTrust(c config.Config, now time.Time) []config.Check {
	if workers, err := filepath.Glob(
		filepath.Join(c.PKI.Dir, "worker-*.pem"),
	); c.PKI.Dir != "" && err == nil &&
		len(workers) > 0 {
		if _, err := pki.ServerFiles(c.PKI.Dir); err != nil {
			return nil
		}
	}
	expires, err := daemon.CheckTrust(c)
	switch {
	case err != nil:
		return []config.Check{config.Failed("cluster.credentials", plain(err), "see docs/cluster.md")}
	case expires.IsZero():
		return nil
	}
	const name = "pki.dir"
	left := expires.Sub(now)
	message := fmt.Sprintf("this control plane's certificate is good until %s", expires.Format(time.DateOnly))
	fix := fmt.Sprintf("stacyvm pki issue %s --server HOST --force", c.PKI.Dir)
	switch {
	case left <= 0:
		return []config.Check{config.Failed(name, "this control plane's certificate has expired", fix)}
	case left < renewBefore:
		return []config.Check{config.Warned(name, message, fix)}
	}
	return []config.Check{config.Passed(name, message)}
}
