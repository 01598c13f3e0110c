package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelp: every command explains itself to a newcomer: short, with an example, and with a word
// on every flag.
func TestHelp(t *testing.T) {
	root := new(app).root()
	for _, cmd := range append(descendants(root), root) {
		if strings.HasPrefix(cmd.CommandPath(), "stacyvm completion") {
			continue // cobra's
		}
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || len(cmd.Short) > 80 {
			t.Errorf("%s: short help %q", path, cmd.Short)
		}
		if !cmd.HasSubCommands() && !strings.Contains(cmd.Example, "stacyvm") {
			t.Errorf("%s: no example", path)
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			if len(line) > 135 {
				t.Errorf("%s: a line of %d characters: %s", path, len(line), line)
			}
		}
		if lines := strings.Count(cmd.Long+cmd.Example, "\n"); lines > 30 {
			t.Errorf("%s: %d lines of help", path, lines)
		}
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			if flag.Usage == "" {
				t.Errorf("%s --%s: no help", path, flag.Name)
			}
		})
	}
}

func descendants(cmd *cobra.Command) (found []*cobra.Command) {
	for _, child := range cmd.Commands() {
		found = append(found, child)
		found = append(found, descendants(child)...)
	}
	return found
}
