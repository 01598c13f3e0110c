// Command vm tries the Debian package in a virtual machine with systemd and cgroup v2: QEMU
// without KVM, so that it runs anywhere, and slowly. It runs the scripts of steps/ in the machine,
// in order, and writes a report. `make vm-test` starts it.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

type options struct {
	image   string // what image.sh made
	work    string // the machine's disk and logs
	old     string // packages
	new     string
	report  string
	only    *regexp.Regexp
	keep    bool
	version string
}

func main() {
	var o options
	only := ""
	flag.StringVar(&o.image, "image", "", "directory that image.sh made")
	flag.StringVar(&o.work, "work", "", "directory for the machine's disk and logs")
	flag.StringVar(&o.old, "old", "", "the Debian package that is installed first")
	flag.StringVar(&o.new, "new", "", "the Debian package that it is upgraded to")
	flag.StringVar(&o.report, "report", "", "file that the report is written to; empty: standard output alone")
	flag.StringVar(&o.version, "version", "", "what is tried, for the report")
	flag.StringVar(&only, "only", "", "regular expression: the steps to run")
	flag.BoolVar(&o.keep, "keep", false, "go on with the disk that an earlier run left")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var err error
	if o.only, err = regexp.Compile(only); err == nil {
		err = run(ctx, o)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm-test:", err)
		os.Exit(1)
	}
}

// run makes the machine, runs the steps and writes the report. A step that fails does not end the
// run.
func run(ctx context.Context, o options) error {
	names, err := filepath.Glob("test/vm/steps/[0-9]*.sh")
	if err != nil || len(names) == 0 {
		return cmp.Or(err, fmt.Errorf("no steps: start it in the top directory"))
	}
	for i, name := range names {
		names[i] = strings.TrimSuffix(filepath.Base(name), ".sh")
	}
	m, err := newMachine(ctx, o)
	if err != nil {
		return err
	}
	defer m.powerOff()
	if err := m.boot(ctx); err != nil {
		return err
	}
	r, err := openReport(o, names)
	if err != nil {
		return err
	}
	for _, step := range names {
		if !o.only.MatchString(step) {
			continue
		}
		fmt.Printf("== %s\n", step)
		outcome := m.step(ctx, step)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Printf("-- %s: %s after %s\n", step, outcome.verdict(), outcome.Took.Round(time.Second))
		if err := r.add(step, outcome, o.report); err != nil {
			return err
		}
	}
	fmt.Print("\n", r.text())
	return r.failed()
}

// about gives the versions that the image was made of.
func about(image string) (string, error) {
	text, err := os.ReadFile(filepath.Join(image, "about"))
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ", "), err
}

// copySparse copies a file without writing its holes.
func copySparse(ctx context.Context, from, to string) error {
	output, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}
