package gvisor

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Probe implements engine.Engine. Until it has once worked it makes and destroys a small sandbox:
// what stops gVisor on a machine (a kernel option, a container's system call filter) cannot be
// told from outside.
func (e *Engine) Probe(ctx context.Context) (engine.Capabilities, error) {
	found := engine.Capabilities{
		Isolates: true,
		Survives: true,
		Features: []stacyvm.Feature{},
		Version:  filepath.Base(filepath.Dir(e.config.Launcher)),
	}
	if runtime.GOOS != "linux" {
		found.Problems = []engine.Problem{{What: "gVisor runs on Linux only", Fix: "run stacyvm on a Linux machine"}}
		return found, nil
	}
	if os.Geteuid() != 0 {
		found.Problems = []engine.Problem{
			{What: "the gVisor engine needs root and this process runs as another user", Fix: "start stacyvm as root"},
		}
		return found, nil
	}
	if err := e.try(ctx); err != nil {
		if ctx.Err() != nil {
			return found, wrap(ctx.Err(), "the probe was interrupted")
		}
		found.Problems = []engine.Problem{
			{
				What: fmt.Sprintf("gVisor does not run a sandbox here: %v", err),
				Fix:  "see launcher.log in the engine's directory; inside a container, allow new namespaces and ptrace (Docker: --privileged)",
			},
		}
		return found, nil
	}
	found.Usable = true
	e.mu.Lock()
	found.Enforces = stacyvm.Retype[stacyvm.Limit](e.greeting.Enforces)
	e.mu.Unlock()
	if weaker := missing(found.Enforces); len(weaker) > 0 {
		found.Problems = append(found.Problems, engine.Problem{
			What: fmt.Sprintf("these limits cannot be held: %v", weaker),
			Fix:  "let the control group that stacyvm is started in be writable, with the controllers memory, cpu and pids",
		})
	}
	return found, nil
}

func missing(enforced []stacyvm.Limit) []stacyvm.Limit {
	return slices.DeleteFunc(stacyvm.AllLimits(), func(l stacyvm.Limit) bool { return slices.Contains(enforced, l) })
}

// trialPrefix begins the names of trial sandboxes; no other has it.
const trialPrefix = "trial_"

// removeTrials removes what a process that was killed while it tried has left.
func (e *Engine) removeTrials(ctx context.Context) error {
	runtimes, err := e.List(ctx)
	if err != nil {
		return err
	}
	for _, r := range runtimes {
		if !strings.HasPrefix(string(r.ID), trialPrefix) {
			continue
		}
		if err := e.Remove(ctx, r.ID); err != nil {
			return err
		}
	}
	return nil
}

// try makes a launcher run and, the first time, a sandbox with nothing in it but the guest
// program.
func (e *Engine) try(ctx context.Context) error {
	e.mu.Lock()
	connected, tried := e.hold != nil, e.tried
	e.mu.Unlock()
	if !connected {
		if err := e.ensure(ctx); err != nil {
			return err
		}
	}
	if tried {
		_, err := e.List(ctx)
		return err
	}
	if err := e.removeTrials(ctx); err != nil {
		return err
	}
	root := filepath.Join(e.config.Dir, "empty")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	trial, err := e.Create(ctx, engine.Spec{
		ID:   stacyvm.SandboxID(trialPrefix + rand.Text()),
		Root: engine.Root{Dir: root},
		Boot: guest.Boot{Secret: guest.NewSecret()},
	})
	if err != nil {
		return err
	}
	if err := trial.Destroy(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	e.mu.Lock()
	e.tried = true
	e.mu.Unlock()
	return nil
}
