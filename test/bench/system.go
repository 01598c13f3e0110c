package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

// system is one build of the product at work: a server and a client of it.
type system struct {
	*harness.Server
	*client.Client
	name string
	http *http.Client
}

// start starts a server of a build in a directory of its own.
func start(name, binary, dir string, env ...string) (*system, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	s := &system{name: name, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	var err error
	if s.Server, err = harness.NewOf(binary, dir, env...); err != nil {
		return nil, err
	}
	if s.Client, err = client.New(s.URL(), client.Options{HTTPClient: s.http}); err != nil {
		return nil, err
	}
	return s, s.Up()
}

// stop destroys what is there, ends the server, and adds the end of its log to an error.
func (s *system) stop(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return s.logged(errors.Join(err, s.destroyAll(ctx), s.Stop()))
}

// logged adds the end of the server's log to an error.
func (s *system) logged(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w\nthe server's log ends with:\n%s", err, s.Log())
}

func (s *system) destroyAll(ctx runContext) error {
	sandboxes, err := s.Sandboxes(ctx)
	if err != nil {
		return err
	}
	return each(8, len(sandboxes), func(i int) error { return s.Destroy(ctx, sandboxes[i].ID) })
}

// spawnMany makes n sandboxes and gives their ids.
func (s *system) spawnMany(ctx runContext, n int) ([]string, error) {
	ids := make([]string, n)
	err := each(8, n, func(i int) error {
		sandbox, err := s.Spawn(ctx, client.SpawnRequest{TTL: "1h"})
		ids[i] = sandbox.ID
		return err
	})
	return ids, err
}

// cpu is what the server's threads have run, which the kernel counts in nanoseconds.
func (s *system) cpu() (time.Duration, error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.PID()))
	if err != nil {
		return 0, err
	}
	total := time.Duration(0)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		ran, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(ran)
	}
	return total, nil
}

// run is one command that must succeed.
func (s *system) run(ctx runContext, id string, request client.ExecRequest) error {
	result, err := s.Exec(ctx, id, request)
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("%s: exit code %d: %s", request.Command, result.ExitCode, result.Stderr)
	}
	return err
}

// get asks for a path below /api/v1 and reads the answer, which nobody decodes.
func (s *system) get(ctx runContext, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/api/v1"+path, nil)
	if err != nil {
		return err
	}
	return s.ask(request)
}

// post sends a body as JSON to a path below /api/v1.
func (s *system) post(ctx runContext, path, body string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	return s.ask(request)
}

func (s *system) ask(request *http.Request) error {
	response, err := s.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", request.Method, request.URL.Path, response.Status)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// each has some workers go through 0 to n-1.
func each(workers, n int, do func(i int) error) error {
	var next atomic.Int64
	var group errgroup.Group
	for range workers {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := do(int(i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
