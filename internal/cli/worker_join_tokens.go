package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

func (a *app) joinTokenListCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List join tokens and who used them",
		Long:    "List join tokens, up to a week after their end. The tokens themselves are shown once, when they are made.",
		Example: "  stacyvm worker join-token list",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := a.client()
			if err != nil {
				return err
			}
			tokens, err := server.JoinTokens(cmd.Context())
			if err != nil {
				return adminError(err)
			}
			if a.output == "json" {
				return printJSONList(a, tokens)
			}
			rows := make([][]string, 0, len(tokens))
			for _, t := range tokens {
				rows = append(rows, []string{t.ID, t.Worker, joinTokenState(t, time.Now()), stamp(t.ExpiresAt)})
			}
			return printTable(a.stdout, []string{"ID", "FOR", "STATE", "GOOD UNTIL"}, rows)
		},
	})
}

func joinTokenState(t client.JoinToken, now time.Time) string {
	switch {
	case t.UsedAt != nil:
		return "used by " + t.UsedBy + " at " + stamp(*t.UsedAt)
	case !now.Before(t.ExpiresAt):
		return "expired"
	}
	return "unused"
}

func (a *app) joinTokenRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm TOKEN",
		Short:   "Make a join token worthless",
		Long:    "Make a join token worthless. TOKEN is its id, as `stacyvm worker join-token list` shows it.",
		Example: "  stacyvm worker join-token rm 0123456789abcdef0123456789abcdef",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := a.client()
			if err != nil {
				return err
			}
			if err := server.DeleteJoinToken(cmd.Context(), args[0]); err != nil {
				return adminError(about(args[0], err))
			}
			return a.say("join token %s is worthless", printable(args[0]))
		},
	}
}
