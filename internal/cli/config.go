package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/config"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show and judge the configuration",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.configShowCommand(), a.configLintCommand())
	return cmd
}

func (a *app) configShowCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use:   "show",
		Short: "Show every key with its value and where that came from",
		Long: `Show every key with its value and where that came from: default, file, environment or secret file.
Secrets are not shown.`,
		Example: "  STACYVM_SERVER_PORT=8080 stacyvm config show",
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			loaded, err := config.Read(a.configFile)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(struct {
					File     string           `json:"file"` // "" without one
					Settings []config.Setting `json:"settings"`
				}{loaded.File, loaded.Settings()})
			}
			var rows [][]string
			for _, setting := range loaded.Settings() {
				rows = append(rows, []string{setting.Key, settingText(setting.Value), setting.Source})
			}
			return printTable(a.stdout, []string{"KEY", "VALUE", "SOURCE"}, rows)
		},
	})
}

// settingText is a value on one line; "-" stands for none.
func settingText(value any) string {
	text := fmt.Sprint(value)
	switch v := value.(type) {
	case []string:
		text = strings.Join(v, ", ")
	case map[string]string:
		var pairs []string
		for name, word := range v {
			pairs = append(pairs, name+"="+word)
		}
		slices.Sort(pairs)
		text = strings.Join(pairs, ", ")
	}
	return orDefault(text, "-")
}

func (a *app) configLintCommand() *cobra.Command {
	var production bool
	cmd := a.withOutput(&cobra.Command{
		Use:   "lint",
		Short: "Judge the configuration: is it safe, is it fit for production?",
		Long: `Judge the configuration: is it safe, is it fit for production? Nothing but the configuration and the
secret files that it names is looked at, so that one machine can judge what another is to run;
"stacyvm doctor" looks at this machine.

Each finding says what to do about it. WARN may be meant; FAIL must not stay, and lint exits with 1.`,
		Example: `  stacyvm config lint --production --file /etc/stacyvm/config.yaml`,
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			loaded, err := config.Read(a.configFile)
			if err != nil {
				return err
			}
			return a.printChecks("config lint", config.Lint(loaded, production))
		},
	})
	cmd.Flags().StringVar(&a.configFile, "file", "", "configuration `file`, as --config")
	cmd.Flags().BoolVar(&production, "production", false, "fail on what production does not allow")
	return cmd
}
