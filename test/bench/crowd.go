package main

import (
	"context"
	"fmt"
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
	staying, cancel := context.WithCancel(ctx)
	var here, gone sync.WaitGroup
	here.Add(eventReaders + idleStreams)
	for range eventReaders {
		gone.Go(func() {
			first := sync.OnceFunc(here.Done)
			defer first()
			for range p.Events(staying, client.EventsRequest{}) { //nolint:errcheck // its end is ours
				first()
			}
		})
	}
	for range idleStreams {
		gone.Go(func() {
			first := sync.OnceFunc(here.Done)
			defer first()
			for range p.Output(staying, p.ids[0], idle.ID, client.OutputRequest{}) { //nolint:errcheck // its end is ours
				first()
			}
		})
	}
	leave = func() {
		cancel()
		gone.Wait()
		_ = p.Signal(ctx, p.ids[0], idle.ID, "KILL")
	}
	all := make(chan struct{})
	go func() { here.Wait(); close(all) }()
	for { // each command is an event
		select {
		case <-all:
			return leave, nil
		default:
		}
		if err := p.run(ctx, p.ids[0], argvTrue); err != nil {
			leave()
			return nil, err
		}
	}
}
