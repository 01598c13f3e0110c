package gvisor_test

import (
	"testing"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/enginetest"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestSuite runs the port's promises with the guest program of this build.
func TestSuite(t *testing.T) {
	testneed.GVisor(t)
	dirs := map[engine.Engine]string{}
	openIn := func(t *testing.T, dir string) engine.Engine {
		t.Helper()
		e, err := gvisor.Open(gvisor.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		dirs[e] = dir
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		return e
	}
	open := func(t *testing.T) engine.Engine {
		dir := t.TempDir()
		t.Cleanup(func() { audit(t, dir) }) // the last thing, after every engine on it was closed
		return openIn(t, dir)
	}
	reopen := func(t *testing.T, closed engine.Engine) engine.Engine { return openIn(t, dirs[closed]) }
	enginetest.Run(t, open, spec, reopen)
}
