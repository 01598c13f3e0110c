package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// shownToken is what a token says, as JSON.
type shownToken struct {
	SignatureVerified bool       `json:"signature_verified"`
	WorkerID          string     `json:"worker_id"`
	TokenID           string     `json:"token_id"`
	Audience          string     `json:"audience"`
	Scopes            []string   `json:"scopes"` // none: all eight
	IssuedAt          time.Time  `json:"issued_at"`
	NotBefore         *time.Time `json:"not_before"`
	ExpiresAt         time.Time  `json:"expires_at"`
}

func (a *app) showToken(says auth.WorkerClaims, verified bool) error {
	if says.Scopes == nil {
		says.Scopes = []string{}
	}
	return a.printJSON(shownToken{
		verified,
		string(says.WorkerID),
		says.TokenID,
		string(says.Audience),
		says.Scopes,
		says.IssuedAt,
		timeOrNil(says.NotBefore),
		says.ExpiresAt,
	})
}

// token gives the token in an argument; "-" is on standard input, where other users cannot see it.
func (a *app) token(argument string) (string, error) {
	if argument != "-" {
		return argument, nil
	}
	const limit = 64 << 10
	text, err := io.ReadAll(io.LimitReader(a.stdin, limit))
	if err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (a *app) tokenInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect TOKEN",
		Short: "Show what a signed token says, without believing it",
		Long: `Show what a signed token says. Nothing is verified: anybody can write such a text. TOKEN "-" is read from
standard input, where other users of this machine cannot see it.`,
		Example: `  stacyvm worker token inspect - < token`,
		Args:    arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			token, err := a.token(args[0])
			if err != nil {
				return err
			}
			says, err := auth.InspectWorkerToken(token)
			if err != nil {
				return tokenError(err)
			}
			return a.showToken(says, false)
		},
	}
}

// tokenCheck is what `worker token verify` is to verify with.
type tokenCheck struct {
	key      signingKey
	keys     []string
	keyFiles []string
	audience string
	workerID string
	revoked  []string
}

func (a *app) tokenVerifyCommand() *cobra.Command {
	var check tokenCheck
	cmd := &cobra.Command{
		Use:   "verify TOKEN",
		Short: "Say whether a signed token would be accepted",
		Long: `Say whether a signed token would be accepted now, and show what it says. Without any key it is judged with the
configuration's keys and revocations, as the server would. The public half of an Ed25519 key is enough. TOKEN
"-" is read from standard input.`,
		Example: `  stacyvm worker token verify - --signing-key-file worker.pub --audience worker:rpc --worker-id worker-a < token`,
		Args:    arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			token, err := a.token(args[0])
			if err != nil {
				return err
			}
			return a.verifyToken(token, check)
		},
	}
	check.key.add(cmd.Flags())
	cmd.Flags().
		StringArrayVar(&check.keys, "verification-key", nil, "further `key` that is accepted; better --verification-key-file (repeat)")
	cmd.Flags().StringArrayVar(&check.keyFiles, "verification-key-file", nil, "`file` with a further key (repeat)")
	cmd.Flags().
		StringVar(&check.audience, "audience", "", "demand this `audience`: worker:control-plane or worker:rpc (default: either)")
	cmd.Flags().StringVar(&check.workerID, "worker-id", "", "demand this worker's `id` (default: any)")
	cmd.Flags().StringArrayVar(&check.revoked, "revoked-token-id", nil, "refuse the token with this `id` (repeat)")
	must(
		cmd.RegisterFlagCompletionFunc("audience", words(string(auth.AudienceControlPlane), string(auth.AudienceRPC))),
	)
	return cmd
}

func (a *app) verifyToken(token string, check tokenCheck) error {
	says, err := auth.InspectWorkerToken(token)
	if err != nil {
		return tokenError(err)
	}
	config, err := a.verification(check)
	if err != nil {
		return err
	}
	config.Audience = auth.WorkerAudience(orDefault(check.audience, string(says.Audience)))
	verifier, err := auth.NewWorkerVerifier(config)
	if err != nil {
		return tokenError(err)
	}
	worker := stacyvm.WorkerID(orDefault(check.workerID, string(says.WorkerID)))
	if _, err := verifier.Verify(auth.WorkerCredential{WorkerID: worker, Token: token}); err != nil {
		return err
	}
	return a.showToken(says, true)
}

// verification collects the keys of the flags or, without any, those of the configuration.
func (a *app) verification(check tokenCheck) (auth.WorkerVerifierConfig, error) {
	key, err := check.key.read()
	if err != nil {
		return auth.WorkerVerifierConfig{}, err
	}
	keys := check.keys
	for _, path := range check.keyFiles {
		text, err := readKeyFile("verification-key-file", path)
		if err != nil {
			return auth.WorkerVerifierConfig{}, err
		}
		keys = append(keys, text)
	}
	revoked := check.revoked
	if key == "" && len(keys) == 0 {
		c, err := a.readConfig()
		if err != nil {
			return auth.WorkerVerifierConfig{}, err
		}
		key, keys, revoked = c.Auth.WorkerSigningKey, c.Auth.WorkerSigningKeys, append(
			revoked,
			c.Auth.WorkerRevokedTokenIDs...)
	}
	if key == "" && len(keys) == 0 {
		return auth.WorkerVerifierConfig{}, errors.New(
			"--signing-key-file: no key is given, and the configuration has none",
		)
	}
	return auth.WorkerVerifierConfig{
		SigningKey:   auth.FixedSecret(key),
		RotationKeys: auth.FixedSecrets(keys),
		Revoked:      revoked,
	}, nil
}
