package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

var eventID = regexp.MustCompile(`^(evt-)?[0-9]{1,18}$`)

func (a *app) eventsCommand() *cobra.Command {
	var from client.EventsRequest
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what happens on the server, as it happens",
		Long: `Print what happens on the server: sandboxes that come, run and go, commands that start and end, files that
are read and written, what failed. It goes on until it is interrupted, also over a restart of the server, and
starts with what happens from now on; --since starts after an earlier event, 0 with the oldest that is kept.
With --output json each event is an object on a line of its own.`,
		Example: `  stacyvm events
  stacyvm events --since 0 --no-follow
  stacyvm events --output json | jq -r 'select(.type == "sandbox.destroyed") | .sandbox_id'`,
		Args: arguments(0, 0),
	}
	cmd.Flags().StringVar(&from.After, "since", "", "start after the event with this `id`, such as evt-17")
	cmd.Flags().BoolVar(&from.NoFollow, "no-follow", false, "print what is there now and leave")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if from.After != "" && !eventID.MatchString(from.After) {
			return fmt.Errorf("--since: %q is not an event's id such as evt-17", from.After)
		}
		server, err := a.client()
		if err != nil {
			return err
		}
		for event, err := range server.Events(cmd.Context(), from) {
			if err == nil {
				err = a.printEvent(event)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return a.withOutput(cmd)
}

func (a *app) printEvent(n client.Event) error {
	text, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	if a.output != "json" {
		sandbox := n.SandboxID
		if sandbox == "" {
			sandbox = "-"
		}
		text = fmt.Appendf(
			nil,
			"%s  %-9s  %-18s  %-27s  %s",
			stamp(n.Timestamp),
			n.ID,
			printable(n.Type),
			printable(sandbox),
			printable(details(n.Data)),
		)
	}
	if _, err := a.stdout.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// details puts an event's data on one line.
func details(data map[string]any) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(data)) {
		parts = append(parts, fmt.Sprintf("%s=%v", key, data[key]))
	}
	return strings.Join(parts, " ")
}
