// Command bench times the built product on this machine and prints each figure with what it was
// measured on. It starts a server of its own and leaves nothing behind. Times are medians with the
// 99th percentile; the machine's load is printed beside them, because a busy machine makes any
// figure meaningless.
//
//	go run ./test/bench [-rounds N] [-docker=false] [-plane]
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

func main() {
	rounds := flag.Int("rounds", 30, "samples of each time")
	docker := flag.Bool("docker", true, "compare with Docker when a daemon answers")
	only := flag.Bool("plane", false, "measure the control plane alone, without gVisor")
	flag.Parse()
	if err := run(os.Stdout, *rounds, *docker, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run: a server, a client, and where figures go.
type bench struct {
	*harness.Server
	*client.Client
	out    io.Writer
	rounds int
}

func run(out io.Writer, rounds int, docker, only bool) (err error) {
	if rounds < 1 {
		return fmt.Errorf("-rounds: %d is less than 1", rounds)
	}
	dir, err := os.MkdirTemp("", "stacyvm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{out: out, rounds: rounds}
	b.machine()
	if err := plane(ctx, out, dir); err != nil || only {
		return err
	}
	fmt.Fprint(out, "tier: cold creates on the gVisor engine, image host; every call over HTTP on loopback\n\n")
	if b.Server, err = harness.New(dir); err != nil {
		return err
	}
	if b.Client, err = client.New(b.URL(), client.Options{}); err != nil {
		return err
	}
	if err := b.Up(); err != nil {
		return err
	}
	defer func() {
		if ended := b.end(); err == nil {
			err = ended
		}
	}()
	for _, part := range []func(*bench, runContext) error{
		(*bench).latencies, (*bench).throughput, (*bench).memory, (*bench).files,
	} {
		if err := part(b, ctx); err != nil {
			return fmt.Errorf("%w\nthe server's log ends with:\n%s", err, b.Log())
		}
	}
	if docker {
		return b.docker(ctx)
	}
	return nil
}

// machine names what the figures were measured on.
func (b *bench) machine() {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if _, after, ok := strings.Cut(line, "model name	: "); ok {
				model = strings.TrimSpace(after)
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // for show
	fmt.Fprintf(b.out, "machine: %d × %s, Linux %s, %s\n\n", runtime.NumCPU(), model, strings.TrimSpace(string(kernel)), runtime.GOARCH)
}

// load is the machine's load average over the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}

// section begins a group of figures.
func (b *bench) section(name string) { fmt.Fprintf(b.out, "%s (load %s)\n", name, load()) }

// figure prints one line.
func (b *bench) figure(name, value string) { fmt.Fprintf(b.out, "  %-44s %s\n", name, value) }
