package cli

import (
	"log/slog"
	"os"

	"golang.org/x/term"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/telemetry"
)

// loadConfig reads the configuration that --config names, or the one that is found.
func (a *app) loadConfig() (config.Config, error) {
	loaded, err := config.Load(a.configFile)
	return loaded.Config, err
}

// dataDir is where this machine's server and `run` keep everything.
func (a *app) dataDir() (string, error) {
	c, err := a.loadConfig()
	return c.DataDir, err
}

// quietLogger shows what goes wrong in a server of our own, and nothing else.
func (a *app) quietLogger() (*slog.Logger, error) {
	return telemetry.NewLogger(a.stderr, "error", "pretty")
}

// onTerminal reports whether a person reads the file.
func onTerminal(file *os.File) bool { return term.IsTerminal(int(file.Fd())) }
