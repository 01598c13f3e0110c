// Package workerd is the composition root of a worker process: it joins the machine's part to the
// control planes that it works for, and runs both. It sees no database.
package workerd

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker/member"
)

// tellWithin bounds what a worker tells the cluster at its end.
const tellWithin = 5 * time.Second

// Run runs a worker process until ctx ends, and then hands its sandboxes to the next one. They go
// on without it. CodeConflict: another process uses the data directory, or has become this worker;
// CodeUnsupported: no engine works on this machine; CodeUnauthenticated, CodeForbidden: no control
// plane takes the worker's credential; CodeInvalid: it has none.
func Run(ctx context.Context, options Options) error {
	w, err := openWork(ctx, options)
	if err != nil {
		return err
	}
	return errors.Join(w.run(ctx), w.close())
}

// Once sends one heartbeat of no session, which changes nothing about who owns what, and gives the
// worker as the control plane has it then. It announces no address: nobody listens after it.
func Once(ctx context.Context, options Options) (worker stacyvm.Worker, err error) {
	options.Config.Worker.ListenAddr, options.Config.Worker.RPCURL = "", ""
	w, err := openWork(ctx, options)
	if err != nil {
		return worker, err
	}
	worker, err = w.member.Once(ctx)
	return worker, errors.Join(err, w.close())
}

// openWork opens everything. After an error everything is closed again.
func openWork(ctx context.Context, options Options) (w *work, err error) {
	c := options.Config
	if c.Worker.ID, err = workName(c); err != nil {
		return nil, err
	}
	w = &work{id: stacyvm.WorkerID(c.Worker.ID), config: c, log: options.Logger, ready: options.Ready}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := node.MakeDataDir(c.DataDir); err != nil {
		return w, err
	}
	if w.held, err = flock.Try(filepath.Join(c.DataDir, node.ServeLock)); errors.Is(err, flock.ErrLocked) {
		return w, stacyvm.Errorf(
			stacyvm.CodeConflict,
			"another server or worker uses %s: stop it, or set STACYVM_DATA_DIR to another directory",
			c.DataDir,
		)
	} else if err != nil {
		return w, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be written")
	}
	if w.guard, err = node.OpenGuard(c, w.log); err != nil {
		return w, err
	}
	if w.identity, err = openIdentity(ctx, options, c); err != nil {
		return w, err
	}
	if err := w.node.Open(c, node.SharedPlace(c.DataDir, ""), w.log); err != nil {
		return w, err
	}
	if err := checkAny(ctx, w.node.Worker); err != nil {
		return w, node.FullFirst(w.guard, err)
	}
	if err := w.listen(ctx); err != nil {
		return w, err
	}
	if w.member, err = w.newMember(); err != nil {
		return w, err
	}
	if w.listener != nil {
		w.open()
	}
	return w, nil
}

func (w *work) newMember() (*member.Member, error) {
	planes, err := w.identity.planes()
	if err != nil {
		return nil, err
	}
	return member.New(member.Config{
		Planes: planes, Session: rand.Text(), Offer: w.offer, Confirmed: w.node.Worker.Confirmed,
		HeartbeatEvery: w.config.Worker.HeartbeatInterval, Logger: w.log,
	})
}

// run acts until ctx ends or a part fails. Leases are kept up while calls finish.
func (w *work) run(ctx context.Context) error {
	acting, stop := context.WithCancel(context.Background())
	defer stop()
	group, failed := errgroup.WithContext(acting)
	group.Go(func() error { return w.member.Run(failed) })
	group.Go(func() error { return w.identity.renewLoop(failed) })
	group.Go(func() error { return w.node.Run(failed) })
	group.Go(func() error { return w.guard.Run(failed) })
	group.Go(func() error { return w.tellProblems(failed) })
	if w.listener != nil {
		group.Go(func() error { return w.serve(failed) })
	} else {
		w.log.Warn("worker.listen_addr is not set: no control plane can use this worker")
	}
	group.Go(func() error {
		defer stop()
		select {
		case <-w.member.Ready():
			w.announce()
		case <-ctx.Done():
		case <-failed.Done():
		}
		select {
		case <-ctx.Done():
		case <-failed.Done():
		}
		return w.drain(failed)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return w.leave()
}

// tellProblems tells control planes at once when the disk is full, or has room again, until ctx
// ends. A heartbeat that fails is told of by the next one.
func (w *work) tellProblems(ctx context.Context) error {
	for {
		select {
		case <-w.guard.Changed():
		case <-ctx.Done():
			return nil
		}
		if err := w.member.Tell(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("no control plane heard of a change on this machine", "error", err)
		}
	}
}

func (w *work) announce() {
	ctx, cancel := context.WithTimeout(context.Background(), offerWithin)
	defer cancel()
	offer, err := w.offer(ctx)
	if err == nil && w.ready != nil {
		w.ready(Working{ID: w.id, RPCURL: w.rpcURL, Providers: offer.Providers})
	}
}

// drain takes no new sandboxes, lets short calls finish and ends streams, whose readers come back
// with their offset. A worker that never was one, or is none any more, only stops.
func (w *work) drain(acting context.Context) error {
	if acting.Err() == nil {
		w.log.Info("stopping; sandboxes go on")
		ctx, cancel := context.WithTimeout(acting, tellWithin)
		defer cancel()
		if err := w.member.Drain(ctx); err != nil {
			w.log.Warn("no control plane heard that this worker ends", "error", err)
		}
	}
	if w.listener == nil {
		return nil
	}
	defer w.streams()
	ctx, cancel := context.WithTimeout(context.Background(), max(w.config.Worker.ShutdownTimeout, streamsEnd))
	defer cancel()
	end := time.AfterFunc(streamsEnd, w.streams)
	defer end.Stop()
	if err := w.http.Shutdown(ctx); err != nil {
		w.log.Warn("calls were cut off", "after", w.config.Worker.ShutdownTimeout)
		return w.http.Close()
	}
	return nil
}

// leave keeps the sandboxes for the next process.
func (w *work) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), tellWithin)
	defer cancel()
	if err := w.member.Leave(ctx); err != nil {
		w.log.Warn("the leases could not be kept for the next start: they last half a minute", "error", err)
	}
	return nil
}

// close lets go of everything; sandboxes stay when their engine survives.
func (w *work) close() error {
	var failures []error
	if w.listener != nil {
		if err := w.listener.Close(); !errors.Is(err, net.ErrClosed) {
			failures = append(failures, err)
		}
	}
	failures = append(failures, w.node.Close())
	if w.identity != nil {
		w.identity.close()
	}
	if w.held != nil {
		w.held.Release()
	}
	return errors.Join(failures...)
}
