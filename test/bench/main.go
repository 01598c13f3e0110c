// Command bench times the built product on this machine. Each figure is measured in turns with its
// neighbours: the same work without the product, and with -before an earlier build of it. The
// ratios are printed first, because machines differ and change from minute to minute. It starts
// servers of its own and leaves nothing behind.
//
//	go run ./test/bench [-before BINARY] [-smoke] [-profile DIR] [-plane] [-docker=false]
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

	"github.com/stacyvm/stacyvm/test/harness"
)

func main() {
	b := bench{out: os.Stdout}
	flag.StringVar(&b.before, "before", "", "an earlier build's binary, measured in turns with this one")
	flag.BoolVar(&b.smoke, "smoke", false, "a quick run that prints ratios")
	flag.StringVar(&b.profile, "profile", "", "a directory for a profile of our server in each row, instead of figures")
	docker := flag.Bool("docker", true, "compare with Docker when a daemon answers")
	only := flag.Bool("plane", false, "measure the control plane alone, without gVisor")
	flag.Parse()
	b.withDocker = *docker
	if err := b.run(*only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	out        io.Writer
	dir        string // of everything that it makes
	binary     string
	before     string // binary of an earlier build; empty: none
	smoke      bool
	profile    string // directory for a profile of each row; empty: figures are wanted
	number     int    // of profiles so far
	withDocker bool
}

// build is a binary that is measured.
type build struct{ name, binary string }

// builds are ours and, with -before, the earlier one.
func (b *bench) builds() []build {
	builds := []build{{"ours", b.binary}}
	if b.before != "" {
		builds = append(builds, build{"before", b.before})
	}
	return builds
}

func (b *bench) run(only bool) (err error) {
	if b.binary, err = harness.Binary(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "stacyvm-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if b.profile != "" {
		b.before = "" // nobody is compared
		if err := os.MkdirAll(b.profile, 0o755); err != nil {
			return err
		}
	}
	b.machine()
	if err := b.plane(ctx); err != nil {
		return err
	}
	if err := b.far(ctx); err != nil || only {
		return err
	}
	return b.gvisor(ctx)
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
func (b *bench) figure(name, value string) { fmt.Fprintf(b.out, "  %-30s %s\n", name, value) }
