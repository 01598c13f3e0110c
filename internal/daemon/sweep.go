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
)

// sweepEvery is how often a server looks for private servers that were killed.
const sweepEvery = 30 * time.Second

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
	top := filepath.Join(c.DataDir, privateDir)
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

// abandoned takes over a private server's directory if its process is gone; nil when it lives.
func abandoned(dataDir, dir string) (*lock, error) {
	claiming, err := waitLock(filepath.Join(dataDir, claimLock))
	if err != nil {
		return nil, err
	}
	defer claiming.release()
	held, err := lockFile(filepath.Join(dir, privateLock))
	if errors.Is(err, errLocked) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it lives, or somebody has just removed it
	}
	return held, err
}

func sweepOne(c config.Config, dir string, log *slog.Logger) error {
	held, err := abandoned(c.DataDir, dir)
	if err != nil || held == nil {
		return err
	}
	defer held.release()
	log.Info("removing what a killed `stacyvm run` left", "directory", filepath.Base(dir))
	var left parts
	err = left.openWorker(c, privatePlace(c.DataDir, dir), log)
	if err == nil {
		err = clearAway(left.worker, left.engines)
	}
	if err = errors.Join(err, left.close()); err != nil {
		return fmt.Errorf("remove %s: %w", filepath.Base(dir), err)
	}
	return os.RemoveAll(dir)
}
