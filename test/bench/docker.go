package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// dockerImage is made from this machine's own busybox, so that nothing is downloaded.
const dockerImage = "stacyvm-bench/busybox:1"

// docker measures the same work through a Docker daemon, when one answers.
func (b *bench) docker(ctx runContext, s *system) error {
	b.section("beside Docker (runc, no network)")
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
	name := fmt.Sprintf("stacyvm-bench-%d", os.Getpid())
	kept := name + "-kept"
	if err := dockerRun(ctx, kept); err != nil {
		return err
	}
	defer dockerRemove(ctx, kept)
	ours := box{system: s}
	if ours.id, err = ours.firstOutput(ctx); err != nil {
		return err
	}
	rows := []row{{
		name: "cold create and exec", turns: 10,
		ours: side{"ours", ours.create},
		beside: side{"docker", func(ctx runContext) (sample, error) {
			defer dockerRemove(ctx, name)
			return repeat(nil, 1, 1, func(ctx runContext) error {
				if err := dockerRun(ctx, name); err != nil {
					return err
				}
				return docker(ctx, "exec", name, "echo", "ok")
			})(ctx)
		}},
	}, {
		name: "exec", turns: 10,
		ours:   side{"ours", repeat(s, 1, 5, func(ctx runContext) error { return ours.run(ctx, ours.id, sayOK) })},
		beside: side{"docker exec", repeat(nil, 1, 5, func(ctx runContext) error { return docker(ctx, "exec", kept, "echo", "ok") })},
	}}
	for _, r := range rows {
		if err := b.measure(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func dockerRun(ctx runContext, name string) error {
	return docker(ctx, "run", "-d", "--network", "none", "--name", name, dockerImage, "sleep", "3600")
}

// dockerRemove removes a container, also after an interrupt.
func dockerRemove(ctx runContext, name string) {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_ = docker(clean, "rm", "-f", name)
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
