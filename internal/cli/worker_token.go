package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// workerTokenCommand issues by itself, too: `worker token ID` is `worker token issue ID`.
func (a *app) workerTokenCommand() *cobra.Command {
	cmd := a.issueCommand("token WORKER", "Sign, read and check tokens of workers")
	cmd.AddCommand(
		a.issueCommand("issue WORKER", "Sign a token for a worker"),
		a.tokenInspectCommand(),
		a.tokenVerifyCommand(),
		a.rotationPlanCommand(),
	)
	return cmd
}

// signingKey is the key that --signing-key or --signing-key-file gives.
type signingKey struct{ text, file string }

func (k *signingKey) add(flags *pflag.FlagSet) {
	flags.StringVar(
		&k.text,
		"signing-key",
		"",
		"signing `key`; other users of this machine can see it here: better --signing-key-file",
	)
	flags.StringVar(
		&k.file,
		"signing-key-file",
		"",
		"`file` with the signing key, which its owner alone may read (default: the configuration's key)",
	)
}

// read gives the key, or "" when neither flag is used.
func (k *signingKey) read() (string, error) {
	if k.text != "" && k.file != "" {
		return "", errors.New("--signing-key and --signing-key-file: only one of them may be given")
	}
	if k.file == "" {
		return k.text, nil
	}
	return readKeyFile("signing-key-file", k.file)
}

func readKeyFile(flag, path string) (string, error) {
	text, err := auth.ReadSecretFile(path)
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	return text, nil
}

func (a *app) issueCommand(use, short string) *cobra.Command {
	var key signingKey
	var audience, format string
	var r auth.WorkerTokenRequest
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long: short + `. An issued token lets one worker act, toward one audience, for at most 15 minutes. With an
Ed25519 key it is a JWT, which others can verify with the public half of the key; with any other key it is a
stacyvm-worker-v1 token, which whoever can verify it could also have signed.`,
		Example: `  openssl genpkey -algorithm ed25519 -out worker.key && chmod 600 worker.key
  stacyvm worker token worker-a --signing-key-file worker.key --scope worker:heartbeat`,
		Args: arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "token" && format != "json" {
				return fmt.Errorf("--format: %q is neither token nor json", format)
			}
			r.WorkerID, r.Audience = stacyvm.WorkerID(args[0]), auth.WorkerAudience(audience)
			if r.TTL == 0 {
				return errors.New("--ttl: must be more than zero")
			}
			secret, err := key.read()
			if err != nil {
				return err
			}
			return a.issueToken(secret, r, format)
		},
	}
	key.add(cmd.Flags())
	cmd.Flags().DurationVar(&r.TTL, "ttl", auth.WorkerTokenDefault, "`duration` of the token's life, at most 15m")
	cmd.Flags().
		StringVar(&audience, "audience", string(auth.AudienceControlPlane), "`who` is shown it: worker:control-plane (by the worker) or worker:rpc (the worker)")
	cmd.Flags().StringVar(&r.TokenID, "token-id", "", "`id` by which it can be revoked (default: a random one)")
	cmd.Flags().DurationVar(&r.NotBefore, "not-before", 0, "`duration` after which it becomes valid, within its life")
	cmd.Flags().
		StringArrayVar(&r.Scopes, "scope", nil, "grant this `scope`, such as worker:lease (repeat; default: all eight)")
	cmd.Flags().StringVar(&format, "format", "token", "`format`: token or json")
	must(cmd.RegisterFlagCompletionFunc("format", words("token", "json")))
	must(
		cmd.RegisterFlagCompletionFunc("audience", words(string(auth.AudienceControlPlane), string(auth.AudienceRPC))),
	)
	must(cmd.RegisterFlagCompletionFunc("scope", words(auth.WorkerScopes()...)))
	return cmd
}

// words completes one of a few words.
func words(known ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(slices.Clone(known), cobra.ShellCompDirectiveNoFileComp)
}

// issuedToken is a new token as JSON.
type issuedToken struct {
	Token     string     `json:"token"`
	TokenID   string     `json:"token_id"`
	WorkerID  string     `json:"worker_id"`
	Audience  string     `json:"audience"`
	Scopes    []string   `json:"scopes,omitempty"`
	IssuedAt  time.Time  `json:"issued_at"`
	NotBefore *time.Time `json:"not_before,omitempty"`
	ExpiresAt time.Time  `json:"expires_at"`
}

func (a *app) issueToken(secret string, r auth.WorkerTokenRequest, format string) error {
	if secret == "" {
		c, err := a.readConfig()
		if err != nil {
			return err
		}
		secret = c.Auth.WorkerSigningKey
	}
	issuer, err := auth.NewWorkerIssuer(auth.FixedSecret(secret), nil)
	if err != nil {
		return tokenError(err)
	}
	token, says, err := issuer.Issue(r)
	if err != nil {
		return tokenError(err)
	}
	if format == "token" {
		return a.say("%s", token)
	}
	return a.printJSON(issuedToken{
		token,
		says.TokenID,
		string(says.WorkerID),
		string(says.Audience),
		says.Scopes,
		says.IssuedAt,
		timeOrNil(says.NotBefore),
		says.ExpiresAt,
	})
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// tokenError names the flag or argument instead of the field.
func tokenError(err error) error {
	names := map[string]string{
		"worker_id":           "WORKER",
		"ttl":                 "--ttl",
		"audience":            "--audience",
		"scopes":              "--scope",
		"token_id":            "--token-id",
		"not_before":          "--not-before",
		"worker_signing_key":  "--signing-key-file",
		"worker_signing_keys": "--verification-key-file",
		"token":               "TOKEN",
	}
	known, ok := errors.AsType[*stacyvm.Error](err)
	if !ok || names[known.Field] == "" {
		return err
	}
	return errors.New(names[known.Field] + strings.TrimPrefix(known.Message, known.Field))
}
