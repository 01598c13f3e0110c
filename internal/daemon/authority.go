package daemon

import (
	"os"
	"path/filepath"
	"time"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// authority signs workers' certificates with the key in a pki directory.
type authority struct{ dir string }

// authorityOf gives the authority of this machine; nil: its key is elsewhere.
func authorityOf(c config.Config) cluster.Authority {
	if c.PKI.Dir == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(c.PKI.Dir, "ca.pem")); err != nil {
		return nil
	}
	return authority{c.PKI.Dir}
}

// Check implements cluster.Authority.
func (a authority) Check(request string) error {
	_, err := pki.CheckRequest([]byte(request))
	return err
}

// Sign implements cluster.Authority. What is wrong with the directory is for the log.
func (a authority) Sign(worker stacyvm.WorkerID, request string) (cluster.Certificate, error) {
	certificate, authorities, until, err := pki.Sign(a.dir, string(worker), []byte(request), time.Now())
	if err != nil && stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		err = stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the authority cannot sign now")
	}
	return cluster.Certificate{
		Worker:      worker,
		PEM:         string(certificate),
		Authorities: string(authorities),
		ExpiresAt:   until,
	}, err
}

// Fingerprint implements cluster.Authority.
func (a authority) Fingerprint() (string, error) { return pki.AuthorityFingerprint(a.dir) }
