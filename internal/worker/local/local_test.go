package local_test

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker/local"
	"github.com/stacyvm/stacyvm/internal/worker/workertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSuite(t *testing.T) {
	workertest.Run(t, func(t *testing.T) *workertest.Machine { return open(t).Machine })
}

// machine is a worker on a directory of its own.
type machine struct {
	*workertest.Machine
	dir    string
	images *images
}

// open gives a worker that is closed with the test, when nothing may be left: no runtime, no held
// image.
func open(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{Machine: &workertest.Machine{}, dir: filepath.Join(dir, "worker"), images: &images{held: map[string]string{}}}
	openEngine := func(t *testing.T) {
		e, err := mock.Open(mock.Config{Dir: filepath.Join(dir, "mock")})
		if err != nil {
			t.Fatal(err)
		}
		m.Engine = e
	}
	openWorker := func(t *testing.T) { m.Worker = m.start(t, m.Engine) }
	closeWorker := func(t *testing.T) {
		if err := m.Worker.(*local.Worker).Close(); err != nil {
			t.Error(err)
		}
	}
	closeEngine := func(t *testing.T) {
		if err := m.Engine.Close(); err != nil {
			t.Error(err)
		}
	}
	m.Reopen = func(t *testing.T) { closeWorker(t); openWorker(t) }
	m.Reboot = func(t *testing.T) { closeWorker(t); closeEngine(t); openEngine(t); openWorker(t) }
	m.Ask = func(ctx context.Context) { m.Worker.(*local.Worker).Ask(ctx) }
	openEngine(t)
	openWorker(t)
	t.Cleanup(func() { closeWorker(t); closeEngine(t) })
	return m
}

// start opens a worker on the machine's journal.
func (m *machine) start(t *testing.T, engines ...engine.Engine) *local.Worker {
	t.Helper()
	w, err := local.Open(local.Config{ID: "here", Dir: m.dir, Engines: engines, Images: m.images})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// images is an image store with one image and a fault knob.
type images struct {
	mu      sync.Mutex
	held    map[string]string
	resolve error
	release error
}

func (i *images) Resolve(ctx context.Context, name, holder string) (image.Root, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.resolve != nil {
		return image.Root{}, i.resolve
	}
	if name != workertest.Image {
		return image.Root{}, stacyvm.Errorf(stacyvm.CodeNotFound, "there is no image %q", name)
	}
	i.held[holder] = name
	return image.Root{Dir: "/", Env: map[string]string{"FROM_IMAGE": "yes", "GREETING": "image"}}, ctx.Err()
}

func (i *images) Release(holder string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.release != nil {
		return i.release
	}
	delete(i.held, holder)
	return nil
}

func (i *images) Holders() ([]string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var holders []string
	for holder := range i.held {
		holders = append(holders, holder)
	}
	slices.Sort(holders)
	return holders, nil
}

// fail sets what Resolve and Release give.
func (i *images) fail(resolve, release error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.resolve, i.release = resolve, release
}
