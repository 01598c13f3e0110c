package local

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// traced makes steps that tell when they are done and undone; failing names those that fail, as
// "do a" or "undo a".
func traced(trace *[]string, failing ...string) steps {
	list := steps{{name: "a"}, {name: "b"}, {name: "c"}}
	for n := range list {
		tell := func(what string) func(context.Context) error {
			return func(ctx context.Context) error {
				*trace = append(*trace, what)
				if slices.Contains(failing, what) {
					return errors.New(what)
				}
				return ctx.Err()
			}
		}
		list[n].do, list[n].undo = tell("do "+list[n].name), tell("undo "+list[n].name)
	}
	list[1].undo = nil
	return list
}

func TestStepsAreTakenBackFromTheOneThatFailed(t *testing.T) {
	for _, c := range []struct {
		failing []string
		want    string
	}{
		{nil, "do a, do b, do c"},
		{[]string{"do c"}, "do a, do b, do c, undo c, undo a"},
		{[]string{"do b"}, "do a, do b, undo a"},
		{[]string{"do a"}, "do a, undo a"},
		{[]string{"do c", "undo c"}, "do a, do b, do c, undo c"},
	} {
		ctx, end := context.WithCancel(t.Context())
		var trace []string
		done, err := traced(&trace, c.failing...).run(ctx)
		end() // what failed is taken back all the same
		if err != nil {
			_ = done.undo(ctx, time.Minute)
		}
		if got := strings.Join(trace, ", "); got != c.want || (err != nil) != (c.failing != nil) {
			t.Errorf("failing %v: %s, want %s (%v)", c.failing, got, c.want, err)
		}
	}
}

// TestStepHasItsOwnDeadline: it ends a step that hangs, by name, and not the steps before and
// behind it.
func TestStepHasItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		slow := func(ctx context.Context) error { time.Sleep(50 * time.Second); return ctx.Err() }
		began := time.Now()
		done, err := steps{
			{name: "image", within: time.Minute, do: slow}, {name: "start", within: time.Minute, do: slow}, {name: "end", within: time.Second, do: hang},
		}.run(t.Context())
		if len(done) != 3 || stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || time.Since(began) != 101*time.Second {
			t.Errorf("%d steps in %s: %v", len(done), time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := (steps{{name: "start", within: time.Minute, do: hang}}).run(ctx); !errors.Is(err, context.DeadlineExceeded) || stacyvm.CodeOf(err) == stacyvm.CodeUnavailable {
			t.Errorf("the whole's deadline: %v", err)
		}
		full := func(context.Context) error {
			time.Sleep(2 * time.Second)
			return stacyvm.Errorf(stacyvm.CodeStorageFull, "no space")
		}
		if _, err := (steps{{name: "image", within: time.Second, do: full}}).run(t.Context()); stacyvm.CodeOf(err) != stacyvm.CodeStorageFull {
			t.Errorf("what failed late for another reason: %v", err)
		}
	})
}
