package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  stacyvm version --output json",
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if a.output == "json" {
				return a.printJSON(
					map[string]string{
						"version": version(),
						"os":      runtime.GOOS,
						"arch":    runtime.GOARCH,
						"go":      runtime.Version(),
					},
				)
			}
			_, err := fmt.Fprintf(a.stdout, "stacyvm %s (%s/%s)\n", version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	})
}
