package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// eventually bounds what a watcher waits for.
const eventually = 30 * time.Second

// say appends one event for each name, in one transaction on s.
func say(r *rig, s store.Store, tenant string, names ...string) {
	r.Helper()
	events := make([]stacyvm.Event, len(names))
	for i, name := range names {
		events[i] = stacyvm.Event{Kind: stacyvm.KindExecStarted, TenantID: tenant, Data: map[string]any{"name": name}}
	}
	r.want("", s.Update(r.Context(), func(tx store.Tx) error { return tx.Events().Append(r.Context(), events) }))
}

func nameOf(n stacyvm.Event) string { return fmt.Sprint(n.Data["name"]) }

// hear reads events on s after a number until there are n, woken by its watch alone.
func hear(r *rig, s store.Store, filter store.EventFilter, n int) (heard []stacyvm.Event) {
	ctx, cancel := context.WithTimeout(r.Context(), eventually)
	defer cancel()
	woken := s.Watch(ctx)
	for {
		page := listEvents(r, s, filter)
		heard = append(heard, page...)
		if len(heard) >= n {
			return heard
		}
		if len(page) > 0 {
			filter.After = page[len(page)-1].Number
			continue
		}
		select {
		case <-woken:
		case <-ctx.Done():
			r.Errorf("heard %d of %d", len(heard), n)
			return heard
		}
	}
}

func listEvents(r *rig, s store.Store, filter store.EventFilter) (page []stacyvm.Event) {
	err := s.View(r.Context(), func(tx store.Tx) (err error) {
		page, err = tx.Events().List(r.Context(), filter)
		return err
	})
	if err != nil {
		r.Error(err)
	}
	return page
}

func eventLife(r *rig) {
	full := stacyvm.Event{
		Kind: stacyvm.KindSandboxError, SandboxID: stacyvm.NewSandboxID(), TenantID: "acme", CreatedAt: time.UnixMicro(1e15).UTC(),
		Data: map[string]any{"text": "ü\n'\"", "number": 1.5, "list": []any{"a", true}},
	}
	r.update(func(ctx context.Context, tx store.Tx) error {
		return errors.Join(tx.Events().Append(ctx, []stacyvm.Event{full, {Kind: stacyvm.KindExecStarted}}), tx.Events().Append(ctx, nil))
	})
	kept := hear(r, r.Store, store.EventFilter{}, 2)
	full.Number = kept[0].Number
	same(r, full, kept[0])
	if kept[1].CreatedAt.IsZero() || kept[1].Data != nil || kept[0].Number < 1 {
		r.Errorf("kept %+v", kept)
	}
	// What is not committed is not told.
	_ = r.try(func(ctx context.Context, tx store.Tx) error {
		r.must(tx.Events().Append(ctx, []stacyvm.Event{{Kind: stacyvm.KindExecFailed}}))
		return errMine
	})
	say(r, r.Store, "acme", "1", "2", "3")
	say(r, r.Store, "other", "4")
	say(r, r.Store, "acme", "5")
	rest := hear(r, r.Store, store.EventFilter{After: kept[1].Number}, 5)
	for i, event := range rest {
		if nameOf(event) != fmt.Sprint(i+1) || event.Number != kept[1].Number+int64(i)+1 {
			r.Errorf("event %d is %+v", i, event)
		}
	}
	var acme []string
	for _, event := range listEvents(r, r.Store, store.EventFilter{Tenant: "acme", After: rest[0].Number}) {
		acme = append(acme, nameOf(event))
	}
	if !slices.Equal(acme, []string{"2", "3", "5"}) {
		r.Errorf("a tenant sees %v", acme)
	}
	if page := listEvents(r, r.Store, store.EventFilter{Limit: 2}); len(page) != 2 || page[1].Number != kept[1].Number {
		r.Errorf("a page of %+v", page)
	}
}

// eventSpan purges by age, and then by number.
func eventSpan(r *rig) {
	want := func(first, last int64) {
		r.Helper()
		span := done(r, func(ctx context.Context, tx store.Tx) (store.EventSpan, error) { return tx.Events().Span(ctx) })
		if span != (store.EventSpan{First: first, Last: last}) {
			r.Errorf("the span is %+v, want %d to %d", span, first, last)
		}
	}
	purge := func(count, want int) {
		r.Helper()
		n := done(r, func(ctx context.Context, tx store.Tx) (int, error) { return tx.Events().Purge(ctx, time.Hour, count) })
		if n != want {
			r.Errorf("%d purged, want %d", n, want)
		}
	}
	want(1, 0)
	say(r, r.Store, "", "old", "old")
	hear(r, r.Store, store.EventFilter{}, 2)
	r.clock.advance(time.Hour / 2)
	say(r, r.Store, "", "young", "young", "young")
	hear(r, r.Store, store.EventFilter{}, 5)
	want(1, 5)
	purge(5, 0)
	r.clock.advance(time.Hour/2 + time.Second)
	purge(5, 2)
	want(3, 5)
	purge(2, 1)
	want(4, 5)
	r.clock.advance(time.Hour)
	purge(2, 2)
	want(6, 5)
	say(r, r.Store, "", "new") // numbers do not come again
	if heard := hear(r, r.Store, store.EventFilter{}, 1); heard[0].Number != 6 {
		r.Errorf("numbered %d", heard[0].Number)
	}
}

// eventOrder has writers on several connections at once, some of whom change their minds, and
// readers on others. Every reader must see every committed event once, in one order, that keeps
// each writer's own.
func eventOrder(r *rig) {
	const writers, each, atOnce = 10, 50, 5 // transactions of each; events in one
	const total = writers * each * atOnce
	stores := []store.Store{r.Store, r.another(), r.another()}
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			s := stores[w%len(stores)]
			for i := range each {
				var names []string
				for j := range atOnce {
					names = append(names, fmt.Sprintf("%02d-%04d", w, i*atOnce+j))
				}
				if i%10 == 0 {
					_ = s.Update(r.Context(), func(tx store.Tx) error {
						return errors.Join(tx.Events().Append(r.Context(), []stacyvm.Event{{Kind: stacyvm.KindExecFailed}}), errMine)
					})
				}
				say(r, s, "", names...)
			}
		})
	}
	heard := make([][]stacyvm.Event, 4)
	for i := range heard {
		wait.Go(func() { heard[i] = hear(r, stores[i%len(stores)], store.EventFilter{Limit: 10 + 90*i}, total) })
	}
	wait.Wait()
	next := map[string]int{}
	for i, event := range heard[0] {
		writer, place := nameOf(event)[:2], nameOf(event)[3:]
		if place != fmt.Sprintf("%04d", next[writer]) {
			r.Fatalf("event %d is %s-%s where %d belongs", i, writer, place, next[writer])
		}
		next[writer]++
		if i > 0 && event.Number <= heard[0][i-1].Number {
			r.Fatalf("number %d follows %d", event.Number, heard[0][i-1].Number)
		}
	}
	for i, other := range heard[1:] {
		if len(other) != total || len(heard[0]) != total {
			r.Fatalf("reader %d heard %d, reader 0 %d of %d", i+1, len(other), len(heard[0]), total)
		}
		for j := range other {
			if other[j].Number != heard[0][j].Number || nameOf(other[j]) != nameOf(heard[0][j]) {
				r.Fatalf("readers disagree about event %d", j)
			}
		}
	}
}

// present reads what was committed until now, without waiting for numbers to come by themselves.
func present(r *rig, s store.Store, after int64) []stacyvm.Event {
	r.Helper()
	for more := true; more; {
		r.want("", s.Update(r.Context(), func(tx store.Tx) (err error) {
			more, err = tx.Events().Number(r.Context())
			return err
		}))
	}
	span := done(r, func(ctx context.Context, tx store.Tx) (store.EventSpan, error) { return tx.Events().Span(ctx) })
	if span.Waiting {
		r.Errorf("after all was numbered: %+v", span)
	}
	return listEvents(r, s, store.EventFilter{After: after})
}

// eventLate: nobody watches. What was committed can be read at once; and a transaction that told
// of something first and commits last, where that can be, is not skipped by a reader that has
// passed the others. What is rolled back leaves no gap to wait for.
func eventLate(r *rig) {
	other := r.another()
	appended, release, late, early := make(chan struct{}), make(chan struct{}), make(chan error, 1), make(chan struct{})
	var once sync.Once // the store may run it again
	go func() {
		late <- r.try(func(ctx context.Context, tx store.Tx) error {
			err := tx.Events().Append(ctx, []stacyvm.Event{{Kind: stacyvm.KindExecStarted, Data: map[string]any{"name": "late"}}})
			if _, failed := tx.Events().Span(ctx); failed != nil { // whatever was put off is done by now
				return failed
			}
			once.Do(func() { close(appended) })
			<-release
			return err
		})
	}()
	<-appended
	go func() {
		defer close(early)
		_ = other.Update(r.Context(), func(tx store.Tx) error {
			return errors.Join(tx.Events().Append(r.Context(), []stacyvm.Event{{Kind: stacyvm.KindExecFailed}}), errMine)
		})
		say(r, other, "", "early")
	}()
	var first []stacyvm.Event
	select {
	case <-early: // writers do not take turns
		if first = present(r, other, 0); len(first) != 1 || nameOf(first[0]) != "early" {
			r.Errorf("before the late one: %+v", first)
		}
	case <-time.After(time.Second / 4): // they do, here
	}
	close(release)
	r.want("", <-late)
	<-early
	after := int64(0)
	if len(first) > 0 {
		after = first[0].Number
	}
	rest := slices.Concat(first, present(r, r.Store, after))
	if len(rest) != 2 || nameOf(rest[0]) == nameOf(rest[1]) || rest[1].Number != rest[0].Number+1 {
		r.Errorf("heard %+v", rest)
	}
}

// eventAcross hears on one connection what another says, and again after it was opened anew.
func eventAcross(r *rig) {
	here, there := r.another(), r.another()
	say(r, here, "", "1")
	first := hear(r, there, store.EventFilter{}, 1)
	r.must(there.Close())
	say(r, here, "", "2", "3")
	heard := hear(r, r.another(), store.EventFilter{After: first[0].Number}, 2)
	if nameOf(first[0]) != "1" || len(heard) != 2 || nameOf(heard[0]) != "2" || nameOf(heard[1]) != "3" {
		r.Errorf("heard %v, then %v", first, heard)
	}
}

// eventRestored loses an event with a restore: its number does not come again.
func eventRestored(r *rig) {
	say(r, r.Store, "", "1", "2")
	before := hear(r, r.Store, store.EventFilter{}, 2)
	_, err := store.Raise(r.Context(), r.Store, 0)
	r.must(err)
	say(r, r.Store, "", "3")
	after := hear(r, r.Store, store.EventFilter{After: before[0].Number}, 2)
	if len(after) != 2 || nameOf(after[1]) != "3" || after[1].Number < before[1].Number+1000 {
		r.Errorf("after a restore: %+v", after)
	}
}

// eventsRecent: the newest come first, also before they have numbers, of one tenant, some kinds or
// one reason.
func eventsRecent(r *rig) {
	at := func(kind stacyvm.Kind, tenant, reason, name string) stacyvm.Event {
		data := map[string]any{"name": name}
		if reason != "" {
			data["reason"] = reason
		}
		return stacyvm.Event{Kind: kind, TenantID: tenant, Data: data}
	}
	for _, n := range []stacyvm.Event{
		at(stacyvm.KindExecCompleted, "", "", "a"), at(stacyvm.KindExecCompleted, "acme", "oom", "b"), at(stacyvm.KindSandboxError, "", "oom", "c"),
		at(stacyvm.KindExecCompleted, "", "oom", "d"), at(stacyvm.KindWorkerProblem, "", "", "e"),
	} {
		r.update(func(ctx context.Context, tx store.Tx) error { return tx.Events().Append(ctx, []stacyvm.Event{n}) })
		r.clock.advance(time.Second)
	}
	for want, filter := range map[string]store.RecentFilter{
		"edcba": {}, "ed": {Limit: 2}, "b": {Tenant: "acme"}, "dba": {Kinds: []stacyvm.Kind{stacyvm.KindExecCompleted}},
		"ec": {Kinds: []stacyvm.Kind{stacyvm.KindWorkerProblem, stacyvm.KindSandboxError}}, "dcb": {Reason: "oom"},
		"db": {Reason: "oom", Kinds: []stacyvm.Kind{stacyvm.KindExecCompleted}},
	} {
		r.view(func(ctx context.Context, tx store.Tx) error {
			var names []string
			recent, err := tx.Events().Recent(ctx, filter)
			for _, n := range recent {
				names = append(names, nameOf(n))
			}
			if got := strings.Join(names, ""); got != want {
				r.Errorf("%+v gave %q, want %q", filter, got, want)
			}
			return err
		})
	}
}
