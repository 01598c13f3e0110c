package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/worker/local"
)

const (
	// sweepEvery is how often a server looks for private servers that were killed.
	sweepEvery = 30 * time.Second
	// removeWithin bounds the end of a private server's sandboxes.
	removeWithin = 30 * time.Second
)

func sweepLoop(ctx context.Context, c config.Config, log *slog.Logger) error {
	ticks := time.NewTicker(sweepEvery)
	defer ticks.Stop()
	for {
		if err := sweep(ctx, c, log); err != nil && ctx.Err() == nil {
			log.Warn("what a killed `stacyvm run` left could not be removed", "error", err)
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep removes the private servers whose process is gone, with their sandboxes.
func sweep(ctx context.Context, c config.Config, log *slog.Logger) error {
	top := filepath.Join(c.DataDir, node.PrivateDir)
	entries, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var failures []error
	for _, entry := range entries {
		if ctx.Err() != nil {
			break
		}
		failures = append(failures, sweepOne(c, filepath.Join(top, entry.Name()), log))
	}
	return errors.Join(failures...)
}

func sweepOne(c config.Config, dir string, log *slog.Logger) error {
	held, err := node.TakeAbandoned(c.DataDir, dir)
	if err != nil || held == nil {
		return err
	}
	defer held.Release()
	log.Info("removing what a killed `stacyvm run` left", "directory", filepath.Base(dir))
	var left node.Node
	err = left.Open(c, node.PrivatePlace(c.DataDir, dir), log)
	if err == nil {
		err = clearAway(left.Worker, left.Engines)
	}
	if err = errors.Join(err, left.Close()); err != nil {
		return fmt.Errorf("remove %s: %w", filepath.Base(dir), err)
	}
	return os.RemoveAll(dir)
}

// clearAway destroys every sandbox of a worker that is given up, and what its engines have beside
// them, such as a trial that was interrupted.
func clearAway(w *local.Worker, engines []engine.Engine) error {
	ctx, cancel := context.WithTimeout(context.Background(), removeWithin)
	defer cancel()
	failures := []error{w.Clear(ctx)}
	for _, e := range engines {
		failures = append(failures, removeAll(ctx, e))
	}
	return errors.Join(failures...)
}

// removeAll destroys every runtime of an engine.
func removeAll(ctx context.Context, e engine.Engine) error {
	runtimes, err := e.List(ctx)
	if err != nil {
		return fmt.Errorf("list the sandboxes of %s: %w", e.Name(), err)
	}
	remover, ok := e.(engine.Remover)
	if !ok && len(runtimes) > 0 {
		return fmt.Errorf("engine %s cannot remove by id", e.Name())
	}
	for _, runtime := range runtimes {
		if err := remover.Remove(ctx, runtime.ID); err != nil {
			return err
		}
	}
	return nil
}
