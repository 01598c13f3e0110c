package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/telemetry"
	"github.com/stacyvm/stacyvm/internal/workerd"
)

// Variables that hold secrets and are no keys of the configuration. They are taken out of the
// environment, which the processes of sandboxes' engines inherit.
const (
	joinTokenEnv    = "STACYVM_JOIN_TOKEN"
	bootstrapKeyEnv = "STACYVM_WORKER_BOOTSTRAP_ADMIN_KEY"
)

// workerFlags are those of the worker process. What is not given is the configuration's.
type workerFlags struct {
	id, controlPlane, listen, previewDomain string
	token, tokenFile, signingKeyFile        string
	adminKey, adminKeyFile                  string
	adminTTL, heartbeat                     time.Duration
	joinTokenFile, authority                string
	once                                    bool
}

func (f *workerFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(
		&f.id,
		"id",
		"",
		"`id` of this worker, the same at each start (default: worker.id, else the host name)",
	)
	flags.StringVar(
		&f.controlPlane,
		"control-plane",
		"",
		"`address` of the control plane; several separated by commas (default: worker.control_plane_url)",
	)
	flags.StringVar(
		&f.listen,
		"listen",
		"",
		"`address` host:port where control planes call this worker (default: worker.listen_addr)",
	)
	flags.StringVar(
		&f.previewDomain,
		"preview-domain",
		"",
		"`domain` of its sandboxes' ports (default: worker.preview_domain)",
	)
	flags.DurationVar(
		&f.heartbeat,
		"heartbeat-interval",
		0,
		"`duration` between heartbeats (default: worker.heartbeat_interval)",
	)
	flags.StringVar(
		&f.joinTokenFile,
		"join-token-file",
		"",
		"`file` with a join token, which is spent for a certificate at the first start (or STACYVM_JOIN_TOKEN)",
	)
	flags.StringVar(
		&f.authority,
		"authority-sha256",
		"",
		"`fingerprint` of the control plane's authority, as \"worker join-token\" prints it (default: the system's authorities)",
	)
	flags.StringVar(
		&f.token,
		"worker-token",
		"",
		"`token` of this worker; other users of this machine can see it here: better --worker-token-file",
	)
	flags.StringVar(
		&f.tokenFile,
		"worker-token-file",
		"",
		"`file` with the token, which may be replaced while the worker runs",
	)
	flags.StringVar(
		&f.signingKeyFile,
		"worker-signing-key-file",
		"",
		"`file` with the key with which the worker signs its own tokens",
	)
	flags.StringVar(
		&f.adminKey,
		"bootstrap-admin-key",
		"",
		"administrator's `key`, with which tokens are asked for; better --bootstrap-admin-key-file",
	)
	flags.StringVar(
		&f.adminKeyFile,
		"bootstrap-admin-key-file",
		"",
		"`file` with that key (or STACYVM_WORKER_BOOTSTRAP_ADMIN_KEY)",
	)
	flags.DurationVar(
		&f.adminTTL,
		"bootstrap-token-ttl",
		auth.WorkerTokenDefault,
		"`duration` of such a token's life, at most 15m",
	)
	flags.BoolVar(&f.once, "once", false, "send one heartbeat, print the worker, and end")
}

var fingerprint = regexp.MustCompile(`^[0-9a-f]{64}$`)

// workerCommand is the worker process, and the commands around it.
func (a *app) workerCommand() *cobra.Command {
	var f workerFlags
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run sandboxes for the control planes of a cluster",
		Long: `Run this machine's part of a cluster until Ctrl-C or SIGTERM: control planes place sandboxes here and call it. Its
sandboxes go on without it; the next start finds them again. It proves who it is with, in this order, a token, a
control plane that issues tokens for the administrator's key, a signing key, or a certificate. The simplest way to
a certificate is a join token: see docs/cluster.md. The commands below are for workers' credentials.`,
		Example: `  STACYVM_JOIN_TOKEN=... stacyvm worker --control-plane https://stacyvm.example.org:7423 --listen 0.0.0.0:7424 --authority-sha256 ...
  stacyvm worker --id worker-a --control-plane http://127.0.0.1:7423 --listen 127.0.0.1:7424 --worker-token-file token
  stacyvm worker --once`,
		Args: onlySubcommands,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runWorker(cmd, &f) },
	}
	f.add(cmd.Flags())
	cmd.AddCommand(
		a.workerTokenCommand(),
		a.joinTokenCommand(),
		a.workerListCommand(),
		a.workerDrainCommand(),
		a.workerResumeCommand(),
		destroys(a.workerForgetCommand()),
	)
	return cmd
}

// runWorker is `stacyvm worker` itself.
func (a *app) runWorker(cmd *cobra.Command, f *workerFlags) error {
	loaded, err := config.Load(a.configFile)
	if err != nil {
		return err
	}
	options := workerd.Options{Config: loaded.Config, Authority: f.authority, TokenTTL: f.adminTTL}
	if err := f.apply(cmd.Flags(), &options); err != nil {
		return err
	}
	c := options.Config
	if options.Logger, err = telemetry.NewLogger(a.stderr, c.Logging.Level, c.Logging.Format); err != nil {
		return err
	}
	for _, key := range loaded.Unbuilt() {
		options.Logger.Warn(
			"this build does not act on a key of the configuration",
			"key",
			key.Key,
			"from",
			loaded.Sources[key.Key],
		)
	}
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	if f.once {
		return a.heartbeatOnce(ctx, options)
	}
	options.Ready = a.working(options.Logger, c)
	return workError(workerd.Run(ctx, options), options)
}

// working tells people that the worker acts; its log tells programs.
func (a *app) working(log *slog.Logger, c config.Config) func(workerd.Working) {
	return func(w workerd.Working) {
		log.Info(
			"working",
			"worker_id",
			w.ID,
			"rpc_url",
			w.RPCURL,
			"providers",
			w.Providers,
			"control_planes",
			c.Worker.ControlPlaneURL,
			"data_dir",
			c.DataDir,
			"version",
			version(),
		)
		if onTerminal(a.stdout) {
			_, _ = fmt.Fprintf(
				a.stdout,
				"worker %s is a member of %s (called at %s; data in %s); Ctrl-C ends it, its sandboxes go on\n",
				w.ID,
				c.Worker.ControlPlaneURL,
				orDefault(w.RPCURL, "no address"),
				c.DataDir,
			) // also in the log
		}
	}
}

func (a *app) heartbeatOnce(ctx context.Context, options workerd.Options) error {
	w, err := workerd.Once(ctx, options)
	if err != nil {
		return workError(err, options)
	}
	return a.printJSON(shownWorker{
		string(w.ID), w.Hostname, string(w.Status), w.Providers, w.Capabilities, w.Capacity, w.LastHeartbeat,
	})
}

// shownWorker is a worker as JSON.
type shownWorker struct {
	ID            string           `json:"id"`
	Hostname      string           `json:"hostname"`
	Status        string           `json:"status"`
	Providers     []string         `json:"providers"`
	Capabilities  []string         `json:"capabilities"`
	Capacity      stacyvm.Capacity `json:"capacity"`
	LastHeartbeat time.Time        `json:"last_heartbeat"`
}

// workError says what to do about a credential that is not accepted.
func workError(err error, options workerd.Options) error {
	code := stacyvm.CodeOf(err)
	switch {
	case code == stacyvm.CodeUnauthenticated && options.AdminKey != nil:
		return fmt.Errorf(
			"%w: is the bootstrap key the control plane's auth.admin_api_key? A client's key, or a worker's token beside it, will not do",
			err,
		)
	case code == stacyvm.CodeUnauthenticated:
		return fmt.Errorf(
			"%w: does the control plane have this worker's token in auth.worker_tokens (or auth.worker_token), the same auth.worker_signing_key, or the authority that signed its certificate? "+
				"A new certificate comes with a join token (`stacyvm worker join-token` on a control plane)",
			err,
		)
	case code == stacyvm.CodeForbidden:
		return fmt.Errorf(
			"%w: the credential must be this worker's own (--id) and have the scopes worker:heartbeat and worker:lease",
			err,
		)
	}
	return err
}

// apply puts the flags and the secrets of the environment over the configuration.
func (f *workerFlags) apply(flags *pflag.FlagSet, options *workerd.Options) error {
	if f.authority != "" && !fingerprint.MatchString(f.authority) {
		return errors.New(
			"--authority-sha256: must be the 64 digits, 0-9 and a-f, that `stacyvm worker join-token` prints",
		)
	}
	c := &options.Config
	for flag, set := range map[string]struct{ to, from *string }{
		"id": {&c.Worker.ID, &f.id}, "control-plane": {&c.Worker.ControlPlaneURL, &f.controlPlane},
		"listen": {&c.Worker.ListenAddr, &f.listen}, "preview-domain": {&c.Worker.PreviewDomain, &f.previewDomain},
	} {
		if flags.Changed(flag) {
			if *set.from == "" {
				return fmt.Errorf("--%s: is empty", flag)
			}
			*set.to = *set.from
		}
	}
	if flags.Changed("heartbeat-interval") {
		c.Worker.HeartbeatInterval = f.heartbeat
	}
	if flags.Changed("heartbeat-interval") && f.heartbeat <= 0 {
		return errors.New("--heartbeat-interval: must be more than zero")
	}
	if f.adminTTL <= 0 || f.adminTTL > auth.WorkerTokenMax {
		return fmt.Errorf("--bootstrap-token-ttl: must be more than zero and at most %s", auth.WorkerTokenMax)
	}
	if err := f.applyTokens(flags, c); err != nil {
		return err
	}
	adminKey, err := oneSecret("bootstrap-admin-key", bootstrapKeyEnv, f.adminKey, f.adminKeyFile)
	if err != nil {
		return err
	}
	options.AdminKey = auth.FixedSecret(adminKey)
	options.JoinToken, err = oneSecret("join-token", joinTokenEnv, "", f.joinTokenFile)
	return err
}

// applyTokens: a credential that is given here stands before those of the configuration.
func (f *workerFlags) applyTokens(flags *pflag.FlagSet, c *config.Config) error {
	if f.token != "" && f.tokenFile != "" {
		return errors.New("--worker-token and --worker-token-file: only one of them may be given")
	}
	for _, flag := range []string{"worker-token", "worker-token-file", "worker-signing-key-file"} {
		if flags.Changed(flag) && flags.Lookup(flag).Value.String() == "" {
			return fmt.Errorf("--%s: is empty", flag)
		}
	}
	if f.token != "" || f.tokenFile != "" {
		c.Auth.WorkerToken, c.Auth.WorkerTokenFile, c.Auth.WorkerTokens = f.token, f.tokenFile, nil
	}
	if f.signingKeyFile != "" {
		c.Auth.WorkerSigningKey, c.Auth.WorkerSigningKeyFile = "", f.signingKeyFile
		if f.token == "" && f.tokenFile == "" {
			c.Auth.WorkerToken, c.Auth.WorkerTokenFile, c.Auth.WorkerTokens = "", "", nil
		}
	}
	return nil
}

// oneSecret gives the secret of a flag, its file, or the environment, from which it is taken out.
func oneSecret(flag, variable, text, file string) (string, error) {
	inherited := strings.TrimSpace(os.Getenv(variable))
	if err := os.Unsetenv(variable); err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	if text != "" && file != "" {
		return "", fmt.Errorf("--%s and --%s-file: only one of them may be given", flag, flag)
	}
	if file != "" {
		return readKeyFile(flag+"-file", file)
	}
	return cmp.Or(text, inherited), nil
}
