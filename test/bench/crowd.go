package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/stacyvm/stacyvm/client"
)

const (
	eventReaders = 100
	idleStreams  = 900 // with the readers a little less than one caller may have
	crowdClients = 8
)

// crowded compares the slowest of eight clients at work beside a crowd that waits with those who
// work alone.
func crowded(p *part) row {
	work := repeat(p.system, crowdClients, 200, func(ctx runContext) error { return p.run(ctx, p.ids[0], argvTrue) })
	beside := func(ctx runContext) (sample, error) {
		leave, err := p.crowd(ctx)
		if err != nil {
			return sample{}, err
		}
		defer leave()
		return work(ctx)
	}
	return row{
		name: fmt.Sprintf("exec, %d clients, %d event readers", crowdClients, eventReaders), turns: 4, worst: true,
		ours: side{"with them", beside}, beside: side{"alone", work},
	}
}

// crowd opens the streams, waits until each has given something, and gives what ends them.
func (p *part) crowd(ctx runContext) (leave func(), err error) {
	idle, err := p.Start(ctx, p.ids[0], client.ExecRequest{Command: "echo here; exec sleep 3600"})
	if err != nil {
		return nil, err
	}
	staying, cancel := context.WithCancelCause(ctx)
	var here, gone sync.WaitGroup
	here.Add(eventReaders + idleStreams)
	for i := range eventReaders + idleStreams {
		path := "/events"
		if i >= eventReaders {
			path = "/sandboxes/" + p.ids[0] + "/processes/" + idle.ID + "/output"
		}
		gone.Go(func() {
			first := sync.OnceFunc(here.Done)
			defer first()
			cancel(p.follow(staying, path, first)) // the first cause counts: the crowd leaves, or one cannot stay
		})
	}
	leave = func() {
		cancel(nil)
		gone.Wait()
		_ = p.Signal(ctx, p.ids[0], idle.ID, "KILL")
	}
	all := make(chan struct{})
	go func() { here.Wait(); close(all) }()
	for { // each command is an event
		select {
		case <-all:
			if err := context.Cause(staying); err != nil {
				leave()
				return nil, err
			}
			return leave, nil
		default:
		}
		if err := p.run(ctx, p.ids[0], argvTrue); err != nil {
			leave()
			return nil, err
		}
	}
}

// follow reads a stream, which nobody decodes: what the readers do is not the server's.
func (p *part) follow(ctx runContext, path string, first func()) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL()+"/api/v1"+path, nil)
	if err != nil {
		return err
	}
	response, err := p.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	buffer := make([]byte, 4<<10)
	for {
		if _, err := response.Body.Read(buffer); err != nil {
			return err
		}
		first()
	}
}
