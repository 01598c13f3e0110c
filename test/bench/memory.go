package main

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
)

// settle is how long a sandbox takes to give back what only its start needed.
const settle = 5 * time.Second

// memory measures what idle sandboxes cost: the proportional set size of every process of theirs,
// so that shared pages count once.
func (b *bench) memory(ctx runContext) error {
	b.section("memory")
	idle, err := b.Memory()
	if err != nil {
		return err
	}
	b.figure("server, idle", mib(idle))
	before, err := b.share()
	if err != nil {
		return err
	}
	have := 0
	for _, want := range []int{1, 50, 100} {
		var group errgroup.Group
		group.SetLimit(4)
		for range want - have {
			group.Go(func() error { _, err := b.firstOutput(ctx); return err })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		have = want
		time.Sleep(settle)
		now, err := b.share()
		if err != nil {
			return err
		}
		b.figure(fmt.Sprintf("each of %d idle sandboxes", want), mib((now-before)/int64(want)))
	}
	loaded, err := b.Memory()
	if err != nil {
		return err
	}
	b.figure("server with 100 sandboxes", mib(loaded))
	return b.destroyAll(ctx)
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// share is the proportional set size of launcher, sentries, gofers and the guests' own processes.
func (b *bench) share() (int64, error) {
	total := int64(0)
	for _, pid := range descendants(b.Launcher()) {
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

// files measures a large file in both directions.
func (b *bench) files(ctx runContext) error {
	b.section("files, 256 MiB")
	const size = 256 << 20
	sandbox, err := b.Spawn(ctx, client.SpawnRequest{DiskMB: 1024})
	if err != nil {
		return err
	}
	sent, got := sha256.New(), sha256.New()
	began := time.Now()
	body := io.TeeReader(io.LimitReader(rand.Reader, size), sent)
	if _, err := b.Upload(ctx, sandbox.ID, "/workspace/large", body, client.UploadOptions{}); err != nil {
		return err
	}
	b.figure("up", rate(size, time.Since(began)))
	began = time.Now()
	file, err := b.Download(ctx, sandbox.ID, "/workspace/large")
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.Copy(got, file); err != nil {
		return err
	}
	b.figure("down", rate(size, time.Since(began)))
	if string(sent.Sum(nil)) != string(got.Sum(nil)) {
		return errors.New("the file came back different")
	}
	return b.destroyAll(ctx)
}

func rate(bytes int64, took time.Duration) string {
	return fmt.Sprintf("%.0f MiB/s", float64(bytes)/(1<<20)/took.Seconds())
}
