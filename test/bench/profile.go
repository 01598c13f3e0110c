package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// socketVariable tells a server of the pprof build where to listen for whoever wants a profile.
const socketVariable = "PPROF_SOCKET"

// profiled runs a row's turns while our server's processors are looked at, into a file of the
// row's name. Neighbours take no turns meanwhile: what the server does for them is not the row's.
func (b *bench) profiled(ctx runContext, r row) (err error) {
	b.number++
	name := fmt.Sprintf("%02d-%s.pprof", b.number, strings.Map(func(c rune) rune {
		if c == ' ' || c == ',' {
			return '-'
		}
		return c
	}, r.name))
	path, err := filepath.Abs(filepath.Join(b.profile, name))
	if err != nil {
		return err
	}
	holding, stop := context.WithCancel(ctx)
	defer stop()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", b.socket())
	}}}
	request, err := http.NewRequestWithContext(holding, http.MethodPost, "http://profile/?file="+url.QueryEscape(path), nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("%w (is this a build with -tags pprof?)", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("no profile: %s", response.Status)
	}
	for range r.turns {
		if _, err := r.ours.turn(ctx); err != nil {
			return err
		}
	}
	b.figure(r.name, path)
	return nil
}

// socket is where our server listens for whoever wants a profile.
func (b *bench) socket() string { return filepath.Join(b.dir, "profile.sock") }

// profiling is what our server is told when profiles are wanted.
func (b *bench) profiling() []string {
	if b.profile == "" {
		return nil
	}
	_ = os.Remove(b.socket()) // an earlier server's
	return []string{socketVariable + "=" + b.socket()}
}
