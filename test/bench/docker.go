package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// dockerImage is made from this machine's own busybox, so that nothing is downloaded.
const dockerImage = "stacyvm-bench/busybox:1"

// execsPerRound is how many commands follow the first one in each sandbox and container.
const execsPerRound = 5

// docker measures the same work through a Docker daemon, in the same rounds, when one answers.
func (b *bench) docker(ctx runContext) error {
	b.section("beside Docker, round by round")
	if err := docker(ctx, "version"); err != nil {
		b.figure("not compared", "no Docker daemon answers")
		return nil
	}
	remove, err := importBusybox(ctx)
	if err != nil {
		b.figure("not compared", err.Error())
		return nil
	}
	defer remove()
	var ours, theirs, ourExec, theirExec times
	for i := range b.rounds {
		if err := b.ourRound(ctx, &ours, &ourExec); err != nil {
			return err
		}
		if err := dockerRound(ctx, fmt.Sprintf("stacyvm-bench-%d-%d", os.Getpid(), i), &theirs, &theirExec); err != nil {
			return err
		}
	}
	b.figure("create and exec, ours", ours.String())
	b.figure("create and exec, Docker (runc, no network)", theirs.String())
	b.figure("  ratio of medians", ratio(ours, theirs))
	b.figure("exec, ours", ourExec.String())
	b.figure("exec, Docker", theirExec.String())
	b.figure("  ratio of medians", ratio(ourExec, theirExec))
	return nil
}

func ratio(a, b times) string {
	return fmt.Sprintf("%.2f", float64(a.percentile(50))/float64(b.percentile(50)))
}

func (b *bench) ourRound(ctx runContext, create, exec *times) error {
	var sandbox client.Sandbox
	if err := create.add(func() (err error) { sandbox, err = b.firstOutput(ctx); return err }); err != nil {
		return err
	}
	for range execsPerRound {
		if err := exec.add(func() error { return b.exec(ctx, sandbox.ID, sayOK) }); err != nil {
			return err
		}
	}
	return b.Destroy(ctx, sandbox.ID)
}

func dockerRound(ctx runContext, name string, create, execute *times) error {
	defer func() { // also after an interrupt
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_ = docker(clean, "rm", "-f", name)
	}()
	err := create.add(func() error {
		if err := docker(ctx, "run", "-d", "--network", "none", "--name", name, dockerImage, "sleep", "3600"); err != nil {
			return err
		}
		return docker(ctx, "exec", name, "echo", "ok")
	})
	if err != nil {
		return err
	}
	for range execsPerRound {
		if err := execute.add(func() error { return docker(ctx, "exec", name, "echo", "ok") }); err != nil {
			return err
		}
	}
	return nil
}

func docker(ctx runContext, args ...string) error {
	output, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(string(output)))
	}
	return nil
}

// importBusybox makes an image of the machine's static busybox.
func importBusybox(ctx runContext) (remove func(), err error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("the package busybox-static is not installed")
	}
	dir, err := os.MkdirTemp("", "stacyvm-bench-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "busybox"), program, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"echo", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return nil, err
		}
	}
	pack := exec.CommandContext(ctx, "tar", "-C", dir, "-cf", filepath.Join(dir, "image.tar"), "bin")
	if output, err := pack.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("tar: %w: %s", err, output)
	}
	if err := docker(ctx, "import", "--change", "ENV PATH=/bin", filepath.Join(dir, "image.tar"), dockerImage); err != nil {
		return nil, err
	}
	return func() { _ = docker(context.WithoutCancel(ctx), "rmi", "-f", dockerImage) }, nil
}
