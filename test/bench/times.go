package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
)

// runContext ends with an interrupt.
type runContext = context.Context

// times are samples of one duration.
type times []time.Duration

// add measures what do takes.
func (t *times) add(do func() error) error {
	began := time.Now()
	if err := do(); err != nil {
		return err
	}
	*t = append(*t, time.Since(began))
	return nil
}

func (t times) percentile(p int) time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

func (t times) String() string {
	return fmt.Sprintf("p50 %8s   p99 %8s   n %d", short(t.percentile(50)), short(t.percentile(99)), len(t))
}

func short(d time.Duration) string {
	return fmt.Sprintf("%.2fms", float64(d)/float64(time.Millisecond))
}

var spawn = client.SpawnRequest{MemoryMB: 256}

var sayOK = client.ExecRequest{Mode: client.ModeArgv, Command: "echo", Args: []string{"ok"}}

func (b *bench) exec(ctx runContext, id string, request client.ExecRequest) error {
	result, err := b.Exec(ctx, id, request)
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("%s: exit code %d: %s", request.Command, result.ExitCode, result.Stderr)
	}
	return err
}

// firstOutput is a cold create and the first bytes of a command in it.
func (b *bench) firstOutput(ctx runContext) (client.Sandbox, error) {
	sandbox, err := b.Spawn(ctx, spawn)
	if err != nil {
		return sandbox, err
	}
	return sandbox, b.exec(ctx, sandbox.ID, sayOK)
}

// latencies measures one client's calls on a quiet server.
func (b *bench) latencies(ctx runContext) error {
	b.section("one client")
	var create, destroy, exec, first times
	for range b.rounds {
		var sandbox client.Sandbox
		if err := create.add(func() (err error) { sandbox, err = b.firstOutput(ctx); return err }); err != nil {
			return err
		}
		for range 10 {
			if err := exec.add(func() error {
				return b.exec(ctx, sandbox.ID, client.ExecRequest{Mode: client.ModeArgv, Command: "true"})
			}); err != nil {
				return err
			}
			if err := first.add(func() error { return b.firstByte(ctx, sandbox.ID) }); err != nil {
				return err
			}
		}
		if err := destroy.add(func() error { return b.Destroy(ctx, sandbox.ID) }); err != nil {
			return err
		}
	}
	b.figure("cold create to first output", create.String())
	b.figure("exec true, round trip", exec.String())
	b.figure("first byte of a stream", first.String())
	b.figure("destroy", destroy.String())
	return nil
}

// firstByte starts a command that goes on and waits for its first output.
func (b *bench) firstByte(ctx runContext, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	process, err := b.Start(ctx, id, sayOK)
	if err != nil {
		return err
	}
	for event, err := range b.Output(ctx, id, process.ID, client.OutputRequest{}) {
		if err != nil || len(event.Data) > 0 {
			return err
		}
	}
	return fmt.Errorf("process %s printed nothing", process.ID)
}

// throughput measures creates with several clients.
func (b *bench) throughput(ctx runContext) error {
	b.section("creates per second (each with a first command)")
	for _, clients := range []int{1, 4, 8} {
		each := max(2, b.rounds/clients)
		made := make([][]string, clients)
		began := time.Now()
		var group errgroup.Group
		for c := range clients {
			group.Go(func() error {
				for range each {
					sandbox, err := b.firstOutput(ctx)
					if err != nil {
						return err
					}
					made[c] = append(made[c], sandbox.ID)
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		b.figure(fmt.Sprintf("%d clients", clients), fmt.Sprintf("%.1f/s", float64(clients*each)/time.Since(began).Seconds()))
		if err := b.destroyAll(ctx); err != nil {
			return err
		}
	}
	return nil
}

// destroyAll destroys every sandbox, some at a time.
func (b *bench) destroyAll(ctx runContext) error {
	sandboxes, err := b.Sandboxes(ctx)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(8)
	for _, sandbox := range sandboxes {
		group.Go(func() error { return b.Destroy(ctx, sandbox.ID) })
	}
	return group.Wait()
}

// end destroys what is left and stops the server.
func (b *bench) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := b.destroyAll(ctx); err != nil {
		return err
	}
	return b.Stop()
}
