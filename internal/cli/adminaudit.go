package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

func (a *app) adminAuditCommand() *cobra.Command {
	var wanted client.AdminAuditRequest
	cmd := &cobra.Command{
		Use:   "admin-audit",
		Short: "Print who called administrative routes",
		Long: `Print who called administrative routes, newest first, refused calls too. It needs the administrator's key. The server
gives at most 500 lines at once; --before goes on behind the last one that was printed. Lines are kept for
auth.admin_audit_retention.`,
		Example: `  stacyvm admin-audit --path join-tokens
  stacyvm admin-audit --status 403 --output json
  stacyvm admin-audit --limit 500 --output csv > audit.csv`,
		Args: arguments(0, 0),
	}
	flags := cmd.Flags()
	flags.StringVar(&wanted.Actor, "actor", "", "calls of this `user` alone")
	flags.StringVar(&wanted.Method, "method", "", "calls with this `method` alone, such as POST")
	flags.StringVar(&wanted.Path, "path", "", "calls whose path holds this `text` alone")
	flags.IntVar(&wanted.Status, "status", 0, "calls that were answered with this `number` alone, such as 403")
	flags.Int64Var(&wanted.Before, "before", 0, "calls older than the one with this `id` alone")
	flags.IntVar(&wanted.Limit, "limit", 100, "at most this `number` of lines, 500 at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range []string{"status", "before", "limit"} {
			if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "0" {
				return fmt.Errorf("--%s: must be more than zero", name)
			}
		}
		server, err := a.client()
		if err != nil {
			return err
		}
		if a.output == "csv" {
			return a.copyAudit(server.AdminAuditCSV(cmd.Context(), wanted))
		}
		calls, err := server.AdminAudit(cmd.Context(), wanted)
		if err != nil {
			return adminError(err)
		}
		return a.printAudit(calls)
	}
	return a.withOutput(cmd, "csv")
}

func (a *app) copyAudit(table io.ReadCloser, err error) error {
	if err != nil {
		return adminError(err)
	}
	_, err = io.Copy(a.stdout, table)
	return errors.Join(err, table.Close())
}

func (a *app) printAudit(calls []client.AdminCall) error {
	if a.output == "json" {
		return printJSONList(a, calls)
	}
	rows := make([][]string, 0, len(calls))
	for _, c := range calls {
		rows = append(rows, []string{
			strconv.FormatInt(
				c.ID,
				10,
			),
			stamp(c.CreatedAt),
			cmp.Or(c.Actor, "-"),
			c.RemoteAddr,
			strconv.Itoa(c.Status),
			c.Method,
			c.Path,
		})
	}
	return printTable(a.stdout, []string{"ID", "TIME", "ACTOR", "FROM", "STATUS", "METHOD", "PATH"}, rows)
}
