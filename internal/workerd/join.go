package workerd

import (
	"context"
	"crypto/tls"
	"errors"
	"net/url"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// joinWithin bounds the exchange of a join token or a certificate for a new certificate.
	joinWithin = 30 * time.Second
	// renewRetry is the least pause after a certificate could not be renewed.
	renewRetry = time.Minute
	// renewLook is how often a certificate's end is looked up, at least: its file may be replaced
	// by hand.
	renewLook = time.Hour
)

// sign gives a worker's certificate for a request in PEM; one control plane does.
type sign func(ctx context.Context, at *url.URL, request string) (client.WorkerCertificate, error)

// enrol makes a key, spends the join token for its certificate, and keeps both in the directory.
func (i *identity) enrol(ctx context.Context, options Options, dir string) error {
	join := func(ctx context.Context, at *url.URL, request string) (answer client.WorkerCertificate, err error) {
		if at.Scheme != "https" {
			return answer, stacyvm.Invalid(
				"worker.control_plane_url",
				"%s is not https://, and a join token must not be sent in plain text",
				at,
			)
		}
		var trusted *tls.Config // nil: the system's authorities
		if options.Authority != "" {
			trusted = pki.Pinned(options.Authority, at.Hostname())
		}
		web := webClient(trusted)
		defer web.CloseIdleConnections()
		c, err := client.New(at.String(), client.Options{HTTPClient: web})
		if err != nil {
			return answer, err
		}
		return c.Join(ctx, client.JoinRequest{Token: options.JoinToken, WorkerID: string(i.id), CSR: request})
	}
	until, err := i.certify(ctx, dir, join)
	refused, _ := errors.AsType[*stacyvm.Error](err)
	switch {
	case stacyvm.CodeOf(err) == stacyvm.CodeUnauthenticated:
		return stacyvm.Errorf(
			stacyvm.CodeInvalid,
			"the join token is not accepted: it is good once, for a time, and perhaps for other workers than %s; `stacyvm worker join-token` on a control plane makes another",
			i.id,
		)
	case stacyvm.CodeOf(err) == stacyvm.CodeForbidden: // the token is good, but not for a worker that exists
		return stacyvm.Errorf(stacyvm.CodeInvalid, "%s", refused.Message)
	case err == nil:
		i.log.Info("joined the cluster", "directory", dir, "until", until)
	}
	return err
}

// certify makes a key, has it signed by the first control plane that does, and keeps both.
func (i *identity) certify(ctx context.Context, dir string, do sign) (until time.Time, err error) {
	made, err := pki.Enrol(string(i.id))
	if err != nil {
		return until, err
	}
	request, err := made.Request()
	if err != nil {
		return until, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinWithin)
	defer cancel()
	var answer client.WorkerCertificate
	for _, at := range i.urls {
		answer, err = do(ctx, at, string(request))
		code := stacyvm.CodeOf(planeError(err))
		if err = planeError(err); err == nil || code == stacyvm.CodeUnauthenticated || code == stacyvm.CodeForbidden {
			break
		}
	}
	if err != nil {
		return until, err
	}
	kept, err := made.Keep(dir, []byte(answer.Certificate), []byte(answer.Authorities), time.Now())
	return kept.NotAfter, err
}

// renewLoop renews the worker's certificate when two thirds of its life are over, until ctx ends.
// What it cannot do is told, and stops nothing: the certificate is good for a while.
func (i *identity) renewLoop(ctx context.Context) error {
	if i.dir == "" {
		return nil
	}
	for {
		pause := i.renewIn(time.Now())
		if pause <= 0 {
			pause = i.renew(ctx)
		}
		if retry.Sleep(ctx, min(pause, renewLook)) != nil {
			return nil
		}
	}
}

// renewIn says how long the certificate need not be renewed yet.
func (i *identity) renewIn(now time.Time) time.Duration {
	begins, ends := i.pair.Life()
	return begins.Add(ends.Sub(begins) * 2 / 3).Sub(now)
}

// renew gets a certificate for a new key and gives the pause until the next look.
func (i *identity) renew(ctx context.Context) time.Duration {
	until, err := i.certify(ctx, i.dir, i.signAgain)
	if err == nil {
		i.log.Info("the certificate was renewed", "until", until)
		return renewRetry
	}
	_, ends := i.pair.Life()
	if ctx.Err() == nil {
		i.log.Warn("the certificate could not be renewed", "ends", ends, "error", err)
	}
	return max(renewRetry, time.Until(ends)/20)
}

func (i *identity) signAgain(
	ctx context.Context,
	at *url.URL,
	request string,
) (answer client.WorkerCertificate, err error) {
	web := webClient(i.pair.OfServer(at.Hostname()))
	defer web.CloseIdleConnections()
	c, err := client.New(at.String(), client.Options{WorkerID: string(i.id), HTTPClient: web})
	if err != nil {
		return answer, err
	}
	return c.RenewCertificate(ctx, request)
}
