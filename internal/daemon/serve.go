// Package daemon is the composition root: it joins store, worker, service, loops and API to a
// server, and runs it. It is the only package that knows all the others. It makes no decisions
// about sandboxes.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Bounds of the HTTP server. There is no limit on a request's whole time: a command may run for
// hours.
const (
	headerBytes    = 32 << 10
	headerTime     = 30 * time.Second // a client may get no processor while sandboxes take all
	idleTime       = 60 * time.Second
	maxConnections = 4096
	// startWithin is how long clients wait for the first pass over the rows.
	startWithin = 10 * time.Second
	// streamsEnd is how long after the order to stop streams go on, so that short requests end by
	// themselves.
	streamsEnd = time.Second
	// noticeTime is how long a server that has others beside it says that it is not ready before
	// it refuses requests: whoever balances between them sends new ones elsewhere meanwhile.
	noticeTime = 5 * time.Second
)

// Options say what to serve.
type Options struct {
	Config  config.Config
	Version string
	Logger  *slog.Logger
	// Ready is called once, when requests are answered, with the server's address such as
	// http://127.0.0.1:7423.
	Ready func(address string)
}

// Serve runs a server until ctx ends and then lets requests finish. Sandboxes go on without it.
// CodeConflict: another server uses the data directory; CodeUnsupported: the default engine does
// not work on this machine.
func Serve(ctx context.Context, options Options) error {
	c := options.Config
	if auth.SameKeys(c.Auth.APIKey, c.Auth.AdminAPIKey) {
		return stacyvm.Invalid(
			"auth.admin_api_key",
			"is the client key, which makes every client an administrator: set another one",
		)
	}
	if err := node.MakeDataDir(c.DataDir); err != nil {
		return err
	}
	held, err := flock.Try(filepath.Join(c.DataDir, node.ServeLock))
	if errors.Is(err, flock.ErrLocked) {
		return stacyvm.Errorf(
			stacyvm.CodeConflict,
			"another server uses %s: stop it, or set STACYVM_DATA_DIR to another directory",
			c.DataDir,
		)
	}
	if err != nil {
		return stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be written")
	}
	defer held.Release()
	guard, err := node.OpenGuard(c, options.Logger)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(
		ctx,
		"tcp",
		net.JoinHostPort(c.Server.Host, strconv.Itoa(c.Server.Port)),
	)
	if err != nil {
		return stacyvm.Wrap(
			stacyvm.CodeConflict,
			err,
			fmt.Sprintf("cannot listen at %s port %d", c.Server.Host, c.Server.Port),
		)
	}
	defer listener.Close()
	t, err := newTrust(c, options.Logger)
	if err != nil {
		return err
	}
	made, err := assemble(ctx, c, node.SharedPlace(c.DataDir, c.DatabasePath()), t, guard, options.Logger)
	if err != nil {
		return err
	}
	s := newServer(options, made, keysOf(c), t)
	if c.Postgres() {
		s.notice = noticeTime
		if c.Server.Worker {
			options.Logger.Warn(OwnWorkerAlone + "; " + OwnWorkerFix)
		}
	}
	loops := []func(context.Context) error{
		made.fleet.run,
		guard.Run,
		func(ctx context.Context) error { return sweepLoop(ctx, c, options.Logger) },
	}
	return errors.Join(s.run(ctx, s.bounded(listener), loops...), made.close())
}

func keysOf(c config.Config) auth.Keys {
	return auth.NewKeys(c.Auth.APIKey, c.Auth.AdminAPIKey, c.Auth.AdminFallbackEnabled)
}

// server is parts with an API in front.
type server struct {
	parts    *parts
	http     *http.Server
	notice   time.Duration
	shutdown time.Duration
	leaving  atomic.Bool // not ready any more
	draining atomic.Bool // takes nothing new
	ready    func(string)
	log      *slog.Logger
	streams  func() // ends long requests
}

func newServer(options Options, made *parts, keys auth.Keys, t *trust) *server {
	c := options.Config
	s := &server{parts: made, shutdown: c.Server.ShutdownTimeout, ready: options.Ready, log: options.Logger}
	handler := api.New(api.Config{
		Service:        made.service,
		Authenticators: auth.Authenticators{keys, t.workers},
		Version:        options.Version,
		Started:        time.Now(),
		AllowedOrigins: c.Server.CORSAllowedOrigins,
		AllowedHosts:   slices.Concat([]string{c.Server.Host, hostOf(c.Server.URL)}, t.hosts, c.Server.AllowedHosts),
		PreviewDomain:  c.Server.PreviewDomain,
		Leaving:        s.leaving.Load,
		Draining:       s.draining.Load,
		RateLimit: api.RateLimit{
			Enabled:   c.RateLimit.Enabled,
			PerMinute: c.RateLimit.RequestsPerMinute,
			Burst:     c.RateLimit.Burst,
		},
		Memory:  budget.New(int64(c.Server.RequestMemoryMB) << 20),
		Streams: api.StreamLimits{All: c.Server.MaxStreams, Caller: c.Server.MaxStreamsPerCaller},
		Logger:  options.Logger,
	})
	base, cancel := context.WithCancelCause(context.Background())
	s.streams = func() { cancel(stacyvm.Errorf(stacyvm.CodeUnavailable, "the server is stopping")) }
	s.http = &http.Server{
		Handler:           handler,
		TLSConfig:         t.listener,
		HTTP2:             http2Bounds(),
		MaxHeaderBytes:    headerBytes,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		ErrorLog:          slog.NewLogLogger(options.Logger.Handler(), slog.LevelDebug), // clients that break off
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	return s
}

// http2Bounds are those of one connection that carries many requests, as clients make it over TLS.
// It has room for every request's window, so that an upload that nobody takes does not hold up the
// others.
func http2Bounds() *http.HTTP2Config {
	const streams, window = 128, 256 << 10
	return &http.HTTP2Config{
		MaxConcurrentStreams:          streams,
		MaxReceiveBufferPerStream:     window,
		MaxReceiveBufferPerConnection: streams * window,
		SendPingTimeout:               idleTime,
		PingTimeout:                   idleTime / 2, // a client that is gone without a word
	}
}

// bounded bounds the connections that are open at once. Who has one too many is told so where that
// can be read.
func (s *server) bounded(listener net.Listener) net.Listener {
	var refusal []byte
	if s.http.TLSConfig == nil {
		refusal = middleware.Refusal(
			"1",
			`{"code":"UNAVAILABLE","message":"too many connections to the server are open: close some and try again"}`,
		)
	}
	return middleware.Connections(listener, maxConnections, refusal)
}

// run serves until ctx ends or a part fails. Leases and duties are kept up until the last request
// has ended; the audit writer ends after that.
func (s *server) run(ctx context.Context, listener net.Listener, loops ...func(context.Context) error) error {
	defer s.streams()
	writing, stopWriting := context.WithCancel(context.Background())
	writer := make(chan error, 1)
	go func() { writer <- s.parts.service.Background(writing) }()

	acting, rest := context.WithCancel(context.Background())
	asking := make(chan error, 1)
	go func() { asking <- s.parts.node.Run(acting) }()
	reconciling := make(chan error, 1)
	go func() { reconciling <- s.parts.reconciler.Run(acting) }()

	group, ctx := errgroup.WithContext(ctx)
	for _, loop := range loops {
		group.Go(func() error { return loop(ctx) })
	}
	group.Go(func() error { return s.serve(ctx, listener) })
	group.Go(func() error {
		<-ctx.Done()
		return s.drain()
	})
	err := group.Wait()
	rest()
	err = errors.Join(err, <-reconciling, <-asking)
	stopWriting()
	return errors.Join(err, <-writer)
}

// serve answers requests, from the end of the first pass over the rows on: before it this process
// owns no sandbox. Clients that come earlier wait in the listener's queue. A store that does not
// answer in time is told by the API.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	select {
	case <-s.parts.reconciler.Started():
	case <-time.After(startWithin):
	case <-ctx.Done():
		return nil
	}
	scheme, serve := "http://", s.http.Serve
	if s.http.TLSConfig == nil {
		listener, s.http.ConnContext = middleware.Framing(listener), middleware.FramingContext
	} else {
		scheme, serve = "https://", func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
	}
	if s.ready != nil {
		s.ready(scheme + listener.Addr().String())
	}
	if err := serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// drain says for a while that the server is not ready, refuses new requests then, lets short ones
// finish and ends streams, whose readers come back with their offset.
func (s *server) drain() error {
	s.log.Info("stopping")
	s.leaving.Store(true)
	time.Sleep(s.notice)
	s.draining.Store(true)
	s.parts.service.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), max(s.shutdown, streamsEnd))
	defer cancel()
	end := time.AfterFunc(streamsEnd, s.streams)
	defer end.Stop()
	if err := s.http.Shutdown(ctx); err != nil {
		s.log.Warn("requests were cut off", "after", s.shutdown)
		return s.http.Close()
	}
	return nil
}
