package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// settle is how long a sandbox takes to give back what only its start needed.
const settle = 5 * time.Second

// memory measures what idle sandboxes cost: the proportional set size of every process of theirs,
// so that shared pages count once.
func (b *bench) memory(ctx runContext, s *system) error {
	b.section("memory")
	idle, err := s.Memory()
	if err != nil {
		return err
	}
	b.figure("server, idle", mib(idle))
	before, err := share(s.Launcher())
	if err != nil {
		return err
	}
	have := 0
	for _, want := range []int{1, 50, 100} {
		o := box{system: s}
		if err := each(4, want-have, func(int) error { _, err := o.firstOutput(ctx); return err }); err != nil {
			return err
		}
		have = want
		time.Sleep(settle)
		now, err := share(s.Launcher())
		if err != nil {
			return err
		}
		b.figure(fmt.Sprintf("each of %d idle sandboxes", want), mib((now-before)/int64(want)))
	}
	loaded, err := s.Memory()
	if err != nil {
		return err
	}
	b.figure("server with 100 sandboxes", mib(loaded))
	return s.destroyAll(ctx)
}

// far measures a server whose sandboxes are all on workers elsewhere and idle. The mock's sandboxes
// are in their worker's own process, which has three file descriptors for each.
func (b *bench) far(ctx runContext) (err error) {
	const many, workers = 10_000, 4
	if b.smoke || b.profile != "" {
		return nil
	}
	b.section("idle sandboxes of workers elsewhere, mock")
	c, err := b.withWorkers(ctx, "idle", workers, append(mock(),
		"STACYVM_SERVER_WORKER=false", "STACYVM_WORKER_MEMORY_MB=100000000", "STACYVM_WORKER_VCPUS=100000")...)
	defer func() {
		err = errors.Join(err, c.stopWorkers())
		if c.near != nil {
			err = c.near.logged(errors.Join(err, c.near.Stop())) // the sandboxes have ended with their workers
		}
	}()
	if err != nil {
		return err
	}
	if _, err := c.near.spawnMany(ctx, many); err != nil {
		return err
	}
	time.Sleep(settle)
	now, err := c.near.Memory()
	if err != nil {
		return err
	}
	b.figure(fmt.Sprintf("server with %d sandboxes", many), mib(now))
	return nil
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// share is the proportional set size of launcher, sentries, gofers and the guests' own processes.
func share(launcher int) (int64, error) {
	total := int64(0)
	for _, pid := range descendants(launcher) {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
		if errors.Is(err, os.ErrNotExist) {
			continue // it has just ended
		}
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err != nil {
					return 0, err
				}
				total += kib << 10
			}
		}
	}
	return total, nil
}

// descendants lists a process and all below it.
func descendants(root int) []int {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(text), ") ")
		if words := strings.Fields(after); len(words) > 1 {
			parent, _ := strconv.Atoi(words[1])
			children[parent] = append(children[parent], pid)
		}
	}
	found := []int{root}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}
