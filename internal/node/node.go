package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/space"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker/local"
)

// ProbeWithin bounds the first look at the engines, which makes a trial sandbox: seconds, on a
// slow machine that has just been started more than half a minute.
const ProbeWithin = 2 * time.Minute

// Node is the machine's own part of a process; the zero value has none. Close it.
type Node struct {
	Engines []engine.Engine
	Worker  *local.Worker // nil: none
}

// Open opens engines, images and the worker over them. After an error what is open stays so until
// Close.
func (n *Node) Open(c config.Config, p Place, log *slog.Logger) (err error) {
	if n.Engines, err = openEngines(c, p); err != nil {
		return err
	}
	images, err := image.Open(p.Images)
	if err != nil {
		return err
	}
	n.Worker, err = local.Open(local.Config{
		ID: stacyvm.WorkerID(
			cmp.Or(c.Worker.ID, "local"),
		),
		Dir:             p.Worker,
		Engines:         n.Engines,
		Default:         c.Providers.Default,
		Images:          images,
		ParallelCreates: ParallelCreates(c),
		Logger:          log,
	})
	return err
}

// Run has the worker, if there is one, ask its guests for signs of life until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	if n.Worker == nil {
		return nil
	}
	return n.Worker.Run(ctx)
}

// Close lets go of everything; sandboxes stay when their engine survives.
func (n *Node) Close() error {
	var failures []error
	if n.Worker != nil {
		failures = append(failures, n.Worker.Close())
	}
	for _, e := range n.Engines {
		if err := e.Close(); err != nil {
			failures = append(failures, fmt.Errorf("close engine %s: %w", e.Name(), err))
		}
	}
	return errors.Join(failures...)
}

// ParallelCreates is how many sandboxes this machine starts at a time. A start is work for
// somewhat more than one processor: with fewer at a time processors idle, with more none ends
// sooner and all end later.
func ParallelCreates(c config.Config) int {
	return cmp.Or(c.Worker.ParallelCreates, 2*runtime.NumCPU())
}

// FullFirst tells of a full disk rather than of what failed on it.
func FullFirst(guard *space.Guard, err error) error {
	if problems := guard.Problems(); len(problems) > 0 {
		return stacyvm.Wrap(stacyvm.CodeStorageFull, err, strings.Join(problems, "; ")+": make room there")
	}
	return err
}
