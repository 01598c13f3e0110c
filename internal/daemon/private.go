package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/space"
)

// socketName is the API of a private server, in its directory.
const socketName = "api.sock"

// Private is a server for one program alone: its API is a socket that nobody else may enter, and
// nothing of it is left after Close. One whose process was killed is removed by the next server of
// the same data directory.
type Private struct {
	// Client talks to the server.
	Client *client.Client

	dir    string
	held   *flock.Lock
	parts  *parts
	cancel context.CancelFunc
	ended  chan error
	http   *http.Client
}

// StartPrivate starts one; call Close. Its sandboxes use the data directory's images; its store is
// a file of its own, whatever database servers use.
func StartPrivate(ctx context.Context, options Options) (p *Private, err error) {
	c := options.Config
	c.Database.Driver = "sqlite"
	c.Server.Worker = true // whatever a server with the same configuration is
	if err := node.MakeDataDir(c.DataDir); err != nil {
		return nil, err
	}
	if err := sweep(ctx, c, options.Logger); err != nil {
		options.Logger.Warn("an earlier private server could not be removed", "error", err)
	}
	p = &Private{ended: make(chan error, 1)}
	if p.dir, p.held, err = node.ClaimDir(c.DataDir); err != nil {
		return nil, err
	}
	watched := node.SpaceOf(c)
	watched.Reserve = 0 // it is the server's
	guard, err := space.New(watched)
	if err != nil {
		p.held.Release()
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	if p.parts, err = assemble(
		ctx,
		c,
		node.PrivatePlace(c.DataDir, p.dir),
		&trust{},
		guard,
		options.Logger,
	); err != nil {
		p.held.Release()
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	if err := p.serve(options); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// serve opens the socket and runs the server beside the caller.
func (p *Private) serve(options Options) error {
	directory, err := os.Open(p.dir)
	if err != nil {
		return err
	}
	defer directory.Close()
	// Through the open directory, because a socket's address is short and a data directory's path
	// may be long.
	var config net.ListenConfig
	listener, err := config.Listen(
		context.Background(),
		"unix",
		filepath.Join("/proc/self/fd", strconv.Itoa(int(directory.Fd())), socketName),
	)
	if err != nil {
		return fmt.Errorf("open a private socket: %w", err)
	}
	p.http = &http.Client{Transport: &http.Transport{DialContext: p.dial}}
	if p.Client, err = client.New("http://localhost", client.Options{HTTPClient: p.http}); err != nil {
		_ = listener.Close()
		return err
	}
	ready := make(chan struct{})
	options.Ready = func(string) { close(ready) }
	s := newServer(options, p.parts, auth.Keys{}, &trust{})
	ctx, cancel := context.WithCancel(context.Background()) // the caller ends it with Close
	p.cancel = cancel
	go func() { p.ended <- s.run(ctx, listener) }()
	select {
	case <-ready:
		return nil
	case err := <-p.ended:
		p.ended <- nil // for Close
		return errors.Join(err, errors.New("the private server ended at its start"))
	}
}

func (p *Private) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	directory, err := os.Open(p.dir)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	return (&net.Dialer{}).DialContext(
		ctx,
		"unix",
		filepath.Join("/proc/self/fd", strconv.Itoa(int(directory.Fd())), socketName),
	)
}

// Close stops the server, destroys its sandboxes and removes everything that it kept.
func (p *Private) Close() error {
	var failures []error
	if p.cancel != nil {
		p.http.CloseIdleConnections()
		p.cancel()
		failures = append(failures, <-p.ended)
	}
	failures = append(failures, clearAway(p.parts.node.Worker, p.parts.node.Engines), p.parts.close())
	return errors.Join(append(failures, p.remove(errors.Join(failures...)))...)
}

// remove deletes the directory, unless something in it is still needed to find what could not be
// removed.
func (p *Private) remove(failed error) error {
	defer p.held.Release()
	if failed != nil {
		return nil
	}
	return os.RemoveAll(p.dir)
}
