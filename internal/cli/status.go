package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/doctor"
)

// What the report may take: the server's part, and the look at this machine when the server gives
// none.
const (
	reportWithin = 8 * time.Second
	glanceWithin = 9 * time.Second // from the beginning
	// statusShown is how many sandboxes are named.
	statusShown = 10
)

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := a.withOutput(&cobra.Command{
		Use:   "status",
		Short: "Tell what is wrong now, and what happened lately",
		Long: `Tell what is wrong now and what to do about it, how the workers and sandboxes are, and which faults there were within
the last 24 hours. It takes less than ten seconds, also when the database or the server does not answer. The exit code is
0 when nothing is wrong now, else 1.`,
		Example: "  stacyvm status\n  stacyvm status --json | jq -r '.problems[].detail'",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.configFile != "" { // asked for by name, so it must be there
				if _, err := config.Load(a.configFile); err != nil {
					return err
				}
			}
			report := a.reported(cmd.Context())
			if len(report.Problems) > 0 {
				a.exit = exitFailure
			}
			if asJSON || a.output == "json" {
				return a.printJSON(report)
			}
			return a.printReport(report)
		},
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "the same as --output json")
	return cmd
}

// reported asks the server, and this machine in its place when it does not answer and should be
// here.
func (a *app) reported(ctx context.Context) client.Report {
	looking, cancel := context.WithTimeout(ctx, glanceWithin)
	defer cancel()
	asking, cancel := context.WithTimeoutCause(ctx, reportWithin, fmt.Errorf("no answer within %s", reportWithin))
	defer cancel()
	server, err := a.client()
	if err == nil {
		var report client.Report
		if report, err = server.Report(asking); err == nil {
			return report
		}
	}
	report := client.Report{Status: "problems", CheckedAt: time.Now().UTC(), Version: version()}
	report.Problems = []client.Problem{{
		About: "server", Name: a.server, Detail: a.explain(err),
		Fix: "on its machine: `stacyvm status`, then `stacyvm doctor`; sandboxes go on without it",
	}}
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status < 500 {
		report.Problems[0].Fix = "the server runs and answers: mend what it names"
		return report
	}
	if !loopback(a.server) {
		return report
	}
	report.Problems[0].Fix = "look at its log, and start it anew when it hangs; sandboxes go on without it"
	if loaded, err := config.Load(a.configFile); err == nil {
		for _, check := range doctor.Glance(looking, loaded.Config) {
			report.Problems = append(
				report.Problems,
				client.Problem{About: check.Name, Detail: check.Message, Fix: check.Fix},
			)
		}
	}
	return report
}

// loopback reports whether an address is of this machine alone.
func loopback(address string) bool {
	at, err := url.Parse(address)
	return err == nil && (at.Hostname() == "localhost" || net.ParseIP(at.Hostname()).IsLoopback())
}

func (a *app) printReport(r client.Report) error {
	var text strings.Builder
	line := func(format string, args ...any) { text.WriteString(printable(fmt.Sprintf(format, args...)) + "\n") }
	if len(r.Problems) == 0 {
		line("all is well")
	}
	for _, p := range r.Problems {
		since := ""
		if p.Since != nil {
			since = ", since " + stamp(*p.Since)
		}
		line("[problem] %s: %s%s", strings.TrimSpace(p.About+" "+p.Name), p.Detail, since)
		if p.Fix != "" {
			line("      fix: %s", p.Fix)
		}
	}
	for _, w := range r.Workers {
		says := "not asked"
		switch {
		case w.Answers:
			says = "answers"
		case w.Asked:
			says = "does not answer"
		}
		if !w.LastHeartbeat.IsZero() {
			says += ", heartbeat " + stamp(w.LastHeartbeat)
		}
		line("worker %s: %s, %s", w.ID, w.Status, says)
	}
	if r.Known {
		line("sandboxes: %s", counted(r.Sandboxes))
	}
	for _, s := range r.NotWell[:min(statusShown, len(r.NotWell))] {
		line(
			"  %s  %s  %s (%s)  on %s  %s",
			stamp(s.Since),
			s.ID,
			s.State,
			s.Reason,
			cmp.Or(s.WorkerID, "-"),
			s.Detail,
		)
	}
	if broken := r.Sandboxes["unhealthy"] + r.Sandboxes["error"]; broken > statusShown {
		line("  and %d more: `stacyvm list`", broken-statusShown)
	}
	if len(r.Happened) > 0 {
		line("within the last 24 hours:")
	}
	for _, h := range r.Happened {
		line("  %s  %s", stamp(h.Last), happening(h))
	}
	if _, err := fmt.Fprint(a.stdout, text.String()); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// counted lists numbers with their names, "none" without any.
func counted(numbers map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(numbers)) {
		parts = append(parts, fmt.Sprintf("%d %s", numbers[name], name))
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

// happening puts what happened on one line.
func happening(h client.Happening) string {
	text := h.Type
	if h.Count > 1 {
		text = fmt.Sprintf("%d × %s since %s, last", h.Count, h.Type, stamp(h.First))
	}
	if h.SandboxID != "" {
		text += " " + h.SandboxID
	}
	return text + "  " + details(h.Data)
}
