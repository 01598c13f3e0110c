package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stacyvm/stacyvm/client"
)

// asksServer makes a command below `worker` use the flags that name a server, which the worker
// process itself has no use for.
func asksServer(cmd *cobra.Command) *cobra.Command {
	explain := (&cobra.Command{}).HelpFunc()
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		cmd.InheritedFlags().VisitAll(func(flag *pflag.Flag) { flag.Hidden = flag.Name == "config" })
		explain(cmd, args)
	})
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.InheritedFlags().Changed("config") {
			return fmt.Errorf("--config: `%s` does not use it", cmd.CommandPath())
		}
		return nil
	}
	return cmd
}

// adminError says which key is needed.
func adminError(err error) error {
	if client.CodeOf(err) == client.CodeForbidden {
		return fmt.Errorf("%w: set STACYVM_API_KEY to the administrator's key", err)
	}
	return err
}

func (a *app) workerListCommand() *cobra.Command {
	return asksServer(a.withOutput(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the workers",
		Example: "  stacyvm worker list --output json",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := a.client()
			if err != nil {
				return err
			}
			workers, err := server.Workers(cmd.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSONList(a, workers)
			}
			rows := make([][]string, 0, len(workers))
			for _, w := range workers {
				rows = append(rows, workerRow(w))
			}
			return printTable(
				a.stdout,
				[]string{"ID", "STATUS", "ENGINES", "MEMORY", "VCPUS", "ADDRESS", "LABELS", "HEARTBEAT"},
				rows,
			)
		},
	}))
}

func workerRow(w client.Worker) []string {
	status := w.Status
	if w.Stale {
		status += " (stale)"
	}
	limit := func(n int, unit string) string {
		if n == 0 {
			return "any"
		}
		return strconv.Itoa(n) + unit
	}
	var labels []string
	for name, value := range w.Capacity.Labels {
		labels = append(labels, name+"="+value)
	}
	slices.Sort(labels)
	return []string{
		w.ID,
		status,
		cmp.Or(strings.Join(w.Providers, ","), "-"),
		limit(w.Capacity.MemoryMB, " MiB"),
		limit(w.Capacity.VCPUs, ""),
		cmp.Or(w.Capacity.RPCURL, "-"),
		cmp.Or(strings.Join(labels, ","), "-"),
		stamp(w.LastHeartbeat),
	}
}

func (a *app) workerDrainCommand() *cobra.Command {
	return a.workerVerb(
		"drain WORKER",
		"Place nothing new on a worker",
		"Place nothing new on a worker, also after it starts anew. The sandboxes that are there go on until they end.",
		(*client.Client).DrainWorker,
	)
}

func (a *app) workerResumeCommand() *cobra.Command {
	return a.workerVerb(
		"resume WORKER",
		"Place sandboxes on a worker again",
		"Take `stacyvm worker drain` back.",
		(*client.Client).ResumeWorker,
	)
}

func (a *app) workerVerb(
	use, short, long string,
	do func(*client.Client, context.Context, string) (client.Worker, error),
) *cobra.Command {
	return asksServer(&cobra.Command{
		Use: use, Short: short, Long: long,
		Example: "  stacyvm worker " + strings.Fields(use)[0] + " worker-a",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := a.client()
			if err != nil {
				return err
			}
			w, err := do(server, cmd.Context(), args[0])
			if err != nil {
				return adminError(about(args[0], err))
			}
			return a.say("worker %s is %s", printable(w.ID), printable(w.Status))
		},
	})
}

func (a *app) workerForgetCommand() *cobra.Command {
	force := false
	cmd := asksServer(&cobra.Command{
		Use:   "rm WORKER",
		Short: "Forget a worker that is gone for good",
		Long: `Forget a worker. One that is online, or has sandboxes, is forgotten with --force alone: its sandboxes end then, as lost,
and count against no limit any more. A worker that lives all the same registers anew, without them.`,
		Example: "  stacyvm worker rm worker-a\n  stacyvm worker rm worker-a --force",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := a.client()
			if err != nil {
				return err
			}
			if err := server.DeleteWorker(cmd.Context(), args[0], force); err != nil {
				return adminError(about(args[0], err))
			}
			return a.say("worker %s is forgotten", printable(args[0]))
		},
	})
	cmd.Flags().BoolVar(&force, "force", false, "also one that is online or has sandboxes, which end as lost")
	return cmd
}

func (a *app) joinTokenCommand() *cobra.Command {
	var worker string
	var ttl time.Duration
	cmd := asksServer(a.withOutput(&cobra.Command{
		Use:   "join-token",
		Short: "Make a one-time token with which a new worker joins",
		Long: `Make a token for a new worker, which spends it for a certificate at its first start. It is good once. The server
needs the authority's key (ca.pem in its pki.dir). Bring the token to the worker in a file that its owner alone can
read, and the fingerprint, by which the worker knows this server.`,
		Example: `  stacyvm worker join-token --worker worker-a
  stacyvm worker join-token --output json | jq -r .token`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ttl <= 0 {
				return errors.New("--ttl: must be more than zero")
			}
			server, err := a.client()
			if err != nil {
				return err
			}
			made, err := server.IssueJoinToken(
				cmd.Context(),
				client.JoinTokenRequest{Worker: worker, TTL: ttl.String()},
			)
			if err != nil {
				return adminError(err)
			}
			if a.output == "json" {
				return a.printJSON(made)
			}
			text := fmt.Sprintf(
				"token:       %s\ngood until %s, once, for %s",
				made.Token,
				stamp(made.ExpiresAt),
				printable(made.Worker),
			)
			if made.AuthoritySHA256 == "" {
				return a.say(
					"%s\n\nThis server cannot sign certificates: it has no authority's key (ca.pem in its pki.dir). If another control plane\n"+
						"of the cluster has it, a worker joins there; ask that one for the fingerprint.",
					text,
				)
			}
			return a.say("%s\nfingerprint: %s\n\non the worker, with the token in a file:\n"+
				"  stacyvm worker --control-plane %s --authority-sha256 %s --join-token-file FILE --listen ADDRESS:7424",
				text, made.AuthoritySHA256, a.server, made.AuthoritySHA256)
		},
	}))
	cmd.Flags().StringVar(&worker, "worker", "*", "whose `id` may join with it, or a pattern such as 'rack1-*'")
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "`duration` of its life, at most 168h")
	cmd.AddCommand(a.joinTokenListCommand(), destroys(a.joinTokenRemoveCommand()))
	return cmd
}
