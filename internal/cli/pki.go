package cli

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func (a *app) pkiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "Make the cluster's own certificates",
		Long: `Make the cluster's own certificates, with which control planes and workers prove to each other who they are.
They stand in a directory on one safe machine, each with its key in one file. Copy to a machine its own file and
ca-bundle.pem, and nothing else. Files that are replaced take effect without a restart.`,
		Example: `  stacyvm pki init /etc/stacyvm/pki
  stacyvm pki issue /etc/stacyvm/pki --server stacyvm.example.org
  stacyvm pki issue /etc/stacyvm/pki --worker worker-a`,
		Args: onlySubcommands,
		RunE: showHelp,
	}
	cmd.AddCommand(a.pkiInitCommand(), a.pkiIssueCommand(), destroys(a.pkiRotateCommand()))
	return cmd
}

func (a *app) pkiInitCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "init DIR",
		Short:   "Make a new authority",
		Long:    "Make a new authority in DIR, which is made if it is missing. The key is in DIR/ca.pem: who has it can be anybody.",
		Example: "  stacyvm pki init /etc/stacyvm/pki",
		Args:    arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := pki.Init(args[0], force, time.Now()); err != nil {
				return plainError(err)
			}
			return a.say("authority made in %s; its key never has to leave this machine", args[0])
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace an authority: nothing that it signed is trusted any more")
	return cmd
}

func (a *app) pkiIssueCommand() *cobra.Command {
	var r pki.Request
	cmd := &cobra.Command{
		Use:   "issue DIR",
		Short: "Make a certificate for a worker or a control plane",
		Long: `Make a certificate and key for a worker, which is known by its id wherever it runs, or for a control plane,
which is known by the host names and addresses that workers call.`,
		Example: `  stacyvm pki issue /etc/stacyvm/pki --worker worker-a
  stacyvm pki issue /etc/stacyvm/pki --server stacyvm.example.org --server 10.0.0.5`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("ttl") && r.Life <= 0 {
				return errors.New("--ttl: must be more than zero")
			}
			made, err := pki.Issue(args[0], r, time.Now())
			if err != nil {
				return pkiError(err)
			}
			return a.say(
				"%s: %s, until %s, serial %s\ntrusts: %s",
				made.Path,
				made.Party.URI(),
				made.NotAfter.Format(time.RFC3339),
				made.Serial,
				made.Bundle,
			)
		},
	}
	cmd.Flags().StringVar(&r.Worker, "worker", "", "`id` of the worker")
	cmd.Flags().StringArrayVar(&r.Server, "server", nil, "host `name` or address of the control plane (repeat)")
	cmd.Flags().DurationVar(&r.Life, "ttl", pki.LeafLife, "`duration` of its life, at most 8760h")
	cmd.Flags().BoolVar(&r.Force, "force", false, "replace the certificate and key that the party has")
	return cmd
}

func (a *app) pkiRotateCommand() *cobra.Command {
	var finish bool
	cmd := &cobra.Command{
		Use:   "rotate DIR",
		Short: "Replace the authority, in two steps",
		Long: `Replace the authority. First, "rotate" puts a new one in its place and both into ca-bundle.pem: copy that file to
every machine, then issue every certificate anew with --force and copy those. At last "rotate --finish" deletes
the old authority: copy ca-bundle.pem once more. It refuses while a certificate in DIR is of the old one.`,
		Example: `  stacyvm pki rotate /etc/stacyvm/pki
  stacyvm pki rotate /etc/stacyvm/pki --finish`,
		Args: arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if finish {
				deleted, err := pki.Retire(args[0], time.Now())
				switch {
				case err != nil:
					return plainError(err)
				case deleted == 0:
					return a.say("there is no former authority; ca-bundle.pem holds one")
				}
				return a.say("%d former authorities deleted; copy ca-bundle.pem to every machine", deleted)
			}
			trusted, err := pki.Rotate(args[0], time.Now())
			if err != nil {
				return plainError(err)
			}
			return a.say(
				"new authority made; ca-bundle.pem holds %d: copy it to every machine, then issue certificates anew, then --finish",
				trusted,
			)
		},
	}
	cmd.Flags().BoolVar(&finish, "finish", false, "delete the former authorities, which nothing trusts any more then")
	return cmd
}

// pkiError names the flag instead of the field.
func pkiError(err error) error {
	known, ok := errors.AsType[*stacyvm.Error](err)
	if ok && known.Code == stacyvm.CodeInvalid {
		return errors.New("--" + known.Message)
	}
	return plainError(err)
}
