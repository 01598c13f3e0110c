package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

// completeWithin bounds how long a shell waits for a server while a word is completed.
const completeWithin = 2 * time.Second

// sandboxThen completes a sandbox's id as the first argument, and with more every further one;
// next completes the second.
func (a *app) sandboxThen(
	more bool,
	next func(context.Context, *client.Client, string) []cobra.Completion,
) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		server, err := a.client()
		switch {
		case err != nil:
		case len(args) == 0 || more:
			return sandboxWords(ctx, server), cobra.ShellCompDirectiveNoFileComp
		case len(args) == 1 && next != nil:
			return next(ctx, server, args[0]), cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// sandboxWords gives nothing when no server answers: there is no place for a message.
func sandboxWords(ctx context.Context, server *client.Client) (words []cobra.Completion) {
	sandboxes, _ := server.Sandboxes(ctx)
	for _, s := range sandboxes {
		words = append(words, cobra.CompletionWithDesc(s.ID, printable(s.State+" "+s.Image)))
	}
	return words
}

func processWords(ctx context.Context, server *client.Client, sandbox string) (words []cobra.Completion) {
	processes, _ := server.Processes(ctx, sandbox)
	for _, p := range processes {
		words = append(words, cobra.CompletionWithDesc(p.ID, printable(p.State+" "+shorten(p.Command, commandWidth))))
	}
	return words
}

// must is for errors that only a mistake in this program's own text can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
