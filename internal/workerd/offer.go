package workerd

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/member"
)

// offerWithin bounds a look at the engines before a heartbeat; the last look counts when they take
// longer.
const offerWithin = 2 * time.Second

// workCapabilities is what a worker process can do.
var workCapabilities = []string{"spawn", "exec", "files"}

// workName gives the worker process's id: the machine's host name unless it is configured.
func workName(c config.Config) (string, error) {
	if c.Worker.ID != "" && !stacyvm.WorkerID(c.Worker.ID).Valid() {
		return "", stacyvm.Invalid("worker.id", "%.80q must be 1 to 64 letters, digits, '.', '_' or '-'", c.Worker.ID)
	}
	if c.Worker.ID != "" {
		return c.Worker.ID, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", stacyvm.Wrap(stacyvm.CodeInvalid, err, "worker.id: the machine has no host name to take instead")
	}
	id := stacyvm.WorkerIDOf(host)
	if !id.Valid() {
		return "", stacyvm.Invalid("worker.id", "the host name %.80q cannot serve for it: set one", host)
	}
	return string(id), nil
}

// checkAny refuses a machine on which no engine works.
func checkAny(ctx context.Context, w worker.Worker) error {
	ctx, cancel := context.WithTimeout(ctx, node.ProbeWithin)
	defer cancel()
	providers, err := w.Providers(ctx)
	if err != nil {
		return err
	}
	if len(working(providers)) > 0 {
		return nil
	}
	var why []string
	for _, p := range providers {
		reason := p.Error
		if len(p.Capabilities.Problems) > 0 {
			reason = cmp.Or(reason, p.Capabilities.Problems[0].What)
		}
		why = append(why, p.Name+": "+reason)
	}
	return stacyvm.Errorf(
		stacyvm.CodeUnsupported,
		"no engine works here: %s (see `stacyvm doctor`)",
		strings.Join(why, "; "),
	)
}

// working lists the engines that can make sandboxes.
func working(providers []worker.Provider) []string {
	names := []string{}
	for _, p := range providers {
		if p.Error == "" && p.Capabilities.Usable {
			names = append(names, p.Name)
		}
	}
	return names
}

// offer looks at the machine for a heartbeat.
func (w *work) offer(ctx context.Context) (member.Offer, error) {
	ctx, cancel := context.WithTimeout(ctx, offerWithin)
	defer cancel()
	providers, err := w.node.Worker.Providers(ctx)
	if err != nil {
		return member.Offer{}, err
	}
	host, err := os.Hostname()
	if err != nil {
		return member.Offer{}, err
	}
	c := w.config.Worker
	memory, err := machineMemoryMB()
	if err != nil {
		return member.Offer{}, err
	}
	return member.Offer{
		Hostname: host, Providers: working(providers), Capabilities: workCapabilities, Problems: w.guard.Problems(),
		Capacity: stacyvm.Capacity{
			MaxSandboxes:    c.MaxSandboxes,
			MemoryMB:        cmp.Or(c.MemoryMB, memory),
			VCPUs:           cmp.Or(c.VCPUs, runtime.NumCPU()),
			ParallelCreates: node.ParallelCreates(w.config),
			RPCURL:          w.rpcURL,
			PreviewDomain:   cmp.Or(c.PreviewDomain, w.config.Server.PreviewDomain),
			Labels:          c.Labels,
		},
	}, nil
}

// machineMemoryMB is the machine's memory in MiB, or what the control group of this process may
// use of it.
func machineMemoryMB() (int, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, err
	}
	bytes := uint64(info.Totalram) * uint64(info.Unit)
	// versions 2 and 1
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil { // "max" is none
			bytes = min(bytes, limit)
		}
	}
	return int(min(bytes>>20, math.MaxInt32)), nil
}
