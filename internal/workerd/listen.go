package workerd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/netutil"

	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
)

// Bounds of the server that control planes call.
const (
	idleTime       = 60 * time.Second
	maxConnections = 4096
	// startWithin is how long calls wait for the first leases.
	startWithin = 10 * time.Second
	// streamsEnd is how long after the order to stop streams go on, so that short calls end by
	// themselves.
	streamsEnd = time.Second
)

// listen opens the worker's own port, on which control planes call it.
func (w *work) listen(ctx context.Context) error {
	c := w.config.Worker
	if c.ListenAddr == "" {
		return nil
	}
	if !w.identity.verifier.Configured() {
		return stacyvm.Invalid(
			"worker.listen_addr",
			"no control plane could identify itself: join the cluster with a token, or set auth.worker_token_file or auth.worker_signing_key_file",
		)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.ListenAddr)
	if err != nil {
		return stacyvm.Wrap(stacyvm.CodeConflict, err, "worker.listen_addr: cannot listen at "+c.ListenAddr)
	}
	w.listener = listener
	if w.rpcURL, err = w.address(ctx); err != nil {
		return err
	}
	if at, ok := listener.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() && w.identity.listener == nil {
		w.log.Warn(
			"control planes and this worker talk in plain text: whoever is in between can read and change it",
			"worker.listen_addr",
			c.ListenAddr,
		)
	}
	return nil
}

// address is what control planes call: as configured, or made of the listener's. One that listens
// at every address of the machine is called at the one from which it reaches its first control
// plane.
func (w *work) address(ctx context.Context) (string, error) {
	if w.config.Worker.RPCURL != "" {
		return w.config.Worker.RPCURL, nil
	}
	scheme := "http"
	if w.identity.listener != nil {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(w.listener.Addr().String())
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host, err = addressToward(ctx, w.identity.urls[0]); err != nil {
			return "", stacyvm.Invalid(
				"worker.rpc_url",
				"is not set, and the address of this machine that control planes reach cannot be found: %v",
				err,
			)
		}
	}
	return (&url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}).String(), nil
}

// addressToward finds the address of this machine on the way to a server. Nothing is sent.
func addressToward(ctx context.Context, server *url.URL) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(server.Hostname(), portOf(server)))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// open makes the server behind the listener.
func (w *work) open() {
	base, cancel := context.WithCancel(context.Background())
	w.streams = cancel
	w.http = &http.Server{
		Handler: remote.NewHandler(remote.ServerConfig{
			Worker: node.GuardedWorker{Worker: w.node.Worker, Guard: w.guard}, ID: w.id, Verifier: w.identity.verifier,
			Gate: w.member.Gate, Confirm: w.member.Confirm, Draining: w.member.Draining, Logger: w.log,
		}),
		TLSConfig:   w.identity.listener,
		IdleTimeout: idleTime,
		ErrorLog:    slog.NewLogLogger(w.log.Handler(), slog.LevelDebug), // callers that break off
		BaseContext: func(net.Listener) context.Context { return base },
	}
	remote.Tune(w.http)
}

// serve answers control planes until the server is shut down. What an earlier process left in the
// records may bring calls before this one acts: they wait in the listener's queue. A worker that
// does not get that far in time says so to whoever calls.
func (w *work) serve(ctx context.Context) error {
	select {
	case <-w.member.Leased():
	case <-time.After(startWithin):
	case <-ctx.Done(): // the server is shut down, now or soon
	}
	limited := netutil.LimitListener(w.listener, maxConnections)
	var err error
	if w.identity.listener != nil {
		err = w.http.ServeTLS(limited, "", "")
	} else {
		err = w.http.Serve(limited)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
