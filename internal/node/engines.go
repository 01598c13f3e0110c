package node

import (
	"os"
	"path/filepath"

	"github.com/stacyvm/stacyvm/internal/bundle"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// builtIn is one engine of this build.
type builtIn struct {
	name    string
	enabled func(config.Providers) bool
	open    func(Place) (engine.Engine, error)
}

// builtIns are all of them, in the order in which answers list them.
var builtIns = []builtIn{
	{
		gvisor.Name,
		func(p config.Providers) bool { return p.GVisor.Enabled },
		func(p Place) (engine.Engine, error) { return OpenGVisor(p) },
	},
	{mock.Name, func(p config.Providers) bool { return p.Mock.Enabled }, func(p Place) (engine.Engine, error) {
		return mock.Open(mock.Config{Dir: filepath.Join(p.Engines, mock.Name)})
	}},
}

// openEngines opens the enabled ones. After an error those before it are open.
func openEngines(c config.Config, p Place) (engines []engine.Engine, err error) {
	for _, b := range builtIns {
		if !b.enabled(c.Providers) {
			continue
		}
		e, err := b.open(p)
		if err != nil {
			return engines, err
		}
		engines = append(engines, e)
	}
	return engines, nil
}

// OpenGVisor opens the embedded engine with the programs of this build.
func OpenGVisor(p Place) (*gvisor.Engine, error) {
	if err := os.MkdirAll(p.Programs, 0o755); err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be written")
	}
	launcher, err := bundle.Unpack(p.Programs, bundle.Sentry)
	if err != nil {
		return nil, err
	}
	guest, err := bundle.Unpack(p.Programs, bundle.Guest)
	if err != nil {
		return nil, err
	}
	return gvisor.Open(gvisor.Config{Dir: filepath.Join(p.Engines, gvisor.Name), Launcher: launcher, Guest: guest})
}
