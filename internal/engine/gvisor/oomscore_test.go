package gvisor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestOOMScoreIsInherited: no process of a sandbox ever has another oom_score_adj than the one
// that marks it as the machine's first victim. gVisor reads the value in two pieces right after
// the start, and fails the create when it changes in between.
func TestOOMScoreIsInherited(t *testing.T) {
	testneed.GVisor(t)
	dir := t.TempDir()
	defer audit(t, dir)
	e := reopen(t, dir)
	defer e.Close()
	stop := make(chan struct{})
	seen := map[string]string{}
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				watchOOMScores(dir, seen)
			}
		}
	})
	var creating sync.WaitGroup
	made := make([]engine.Instance, 4)
	for i := range made {
		s := spec(t)
		creating.Go(func() {
			var err error
			if made[i], err = e.Create(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	creating.Wait()
	close(stop)
	watching.Wait()
	watchOOMScores(dir, seen) // all of them run
	for _, i := range made {
		if i == nil {
			continue
		}
		if err := i.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if len(seen) == 0 {
		t.Fatal("no process of a sandbox was seen")
	}
	for process, score := range seen {
		if score != "500" {
			t.Errorf("%s had oom_score_adj %s", process, score)
		}
	}
}

// watchOOMScores adds every pair of a process of an engine directory and a score that is not there
// yet.
func watchOOMScores(dir string, seen map[string]string) {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		line, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(line), "runsc-") || !strings.Contains(string(line), dir) {
			continue
		}
		score, err := os.ReadFile(filepath.Join(filepath.Dir(name), "oom_score_adj"))
		if err != nil {
			continue
		}
		value := strings.TrimSpace(string(score))
		seen[fmt.Sprintf("process %s with %s", filepath.Base(filepath.Dir(name)), value)] = value
	}
}
