package daemon

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/pki"
)

// renewBefore is how long before its end a certificate should be renewed.
const renewBefore = 14 * 24 * time.Hour

// What holds for a server on PostgreSQL that runs sandboxes in its own process.
const (
	ownWorkerAlone = "other servers on this database do not reach the sandboxes of this server's own worker (server.worker): they answer 503 for them"
	ownWorkerFix   = "with more than one server set server.worker to false and run `stacyvm worker` on each machine (docs/cluster.md)"
)

// checkOwnWorker warns of sandboxes that one of several servers alone can reach.
func checkOwnWorker(c config.Config) []config.Check {
	if !c.Postgres() || !c.Server.Worker {
		return nil
	}
	return []config.Check{config.Warned("server.worker", ownWorkerAlone, ownWorkerFix)}
}

// doctorTrust looks at what this machine proves itself with in a cluster. A worker's own certificate is left to the worker.
func doctorTrust(c config.Config, now time.Time) []config.Check {
	if workers, err := filepath.Glob(filepath.Join(c.PKI.Dir, "worker-*.pem")); c.PKI.Dir != "" && err == nil && len(workers) > 0 {
		if _, err := pki.ServerFiles(c.PKI.Dir); err != nil {
			return nil
		}
	}
	t, err := newTrust(c, slog.New(slog.DiscardHandler))
	switch {
	case err != nil:
		return []config.Check{config.Failed("cluster.credentials", plain(err), "see docs/cluster.md")}
	case t.expires.IsZero():
		return nil
	}
	const name = "pki.dir"
	left := t.expires.Sub(now)
	message := fmt.Sprintf("this control plane's certificate is good until %s", t.expires.Format(time.DateOnly))
	fix := fmt.Sprintf("stacyvm pki issue %s --server HOST --force", c.PKI.Dir)
	switch {
	case left <= 0:
		return []config.Check{config.Failed(name, "this control plane's certificate has expired", fix)}
	case left < renewBefore:
		return []config.Check{config.Warned(name, message, fix)}
	}
	return []config.Check{config.Passed(name, message)}
}
