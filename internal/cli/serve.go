package cli

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
	"github.com/stacyvm/stacyvm/internal/telemetry"
)

func (a *app) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the server until Ctrl-C or SIGTERM. Sandboxes go on without it: the next start finds them again.

It listens on 127.0.0.1:7423 unless server.host and server.port (STACYVM_SERVER_HOST, STACYVM_SERVER_PORT) say
otherwise; an address that other machines reach needs a key (auth.api_key). See docs/configuration.md.`,
		Example: `  stacyvm serve
  STACYVM_SERVER_PORT=8080 STACYVM_DATA_DIR=/srv/stacyvm stacyvm serve`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.Load(a.configFile)
			if err != nil {
				return err
			}
			c := loaded.Config
			log, err := telemetry.NewLogger(a.stderr, c.Logging.Level, c.Logging.Format)
			if err != nil {
				return err
			}
			for _, key := range loaded.Unbuilt() {
				log.Warn(
					"this build does not act on a key of the configuration",
					"key",
					key.Key,
					"from",
					loaded.Sources[key.Key],
				)
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return daemon.Serve(
				ctx,
				daemon.Options{Config: c, Version: version(), Logger: log, Ready: a.serving(log, c.DataDir)},
			)
		},
	}
}

// serving tells people where the server is; its log tells programs.
func (a *app) serving(log *slog.Logger, dataDir string) func(string) {
	return func(address string) {
		log.Info("serving", "address", address, "data_dir", dataDir, "version", version())
		if err := notifyReady(); err != nil {
			log.Warn("the service manager was not told that the server is ready", "error", err)
		}
		if onTerminal(a.stdout) {
			// also in the log
			_, _ = fmt.Fprintf(a.stdout, "stacyvm serves %s (data in %s); Ctrl-C ends it\n", address, dataDir)
		}
	}
}
