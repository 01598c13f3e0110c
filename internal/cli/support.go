package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/doctor"
)

// serverWithin bounds each question to the server.
const serverWithin = 10 * time.Second

// bundle is what a support bundle holds. Parts that were not asked for are null.
type bundle struct {
	GeneratedAt       time.Time      `json:"generated_at"`
	Version           string         `json:"version"`
	Runtime           map[string]any `json:"runtime"`
	Config            map[string]any `json:"config"`
	ConfigLint        []config.Check `json:"config_lint"`
	Doctor            []config.Check `json:"doctor"`
	ServerDiagnostics map[string]any `json:"server_diagnostics"`
	CollectionErrors  []string       `json:"collection_errors"`
	Redactions        []string       `json:"redactions"`
}

// redactions say what is not in a bundle.
var redactions = []string{
	"values of keys whose names hold api_key, apikey, signing_key, private_key, key_file, token, secret, password, credential, authorization, auth_header or dsn",
	"signed worker tokens, values after the word bearer or basic, private keys, sk-... keys, passwords in addresses, name=value pairs of such names, wherever they stand",
}

// bundleParts say what goes into a bundle beside the configuration.
type bundleParts struct{ doctor, server bool }

func (a *app) supportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "support",
		Short: "Collect what whoever helps you needs to know",
		Args:  onlySubcommands,
		RunE:  showHelp,
	}
	cmd.AddCommand(a.supportBundleCommand())
	return cmd
}

func (a *app) supportBundleCommand() *cobra.Command {
	var parts bundleParts
	cmd := &cobra.Command{
		Use:   "bundle OUT",
		Short: "Write the configuration and what was found, without secrets, to a file",
		Long: `Write the version, the configuration and what is to be said of it to a JSON file that only its owner may
read. Secrets are taken out. Names of sandboxes, owners and commands are not collected; have a look before you pass it on.`,
		Example: `  stacyvm support bundle bundle.json --include-doctor --include-server`,
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if _, err := os.Lstat(args[0]); err == nil {
				return fmt.Errorf("%s exists already: choose another name", args[0])
			}
			done := progress(a.stderr, "collecting")
			collected := a.collect(ctx, parts)
			done()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := writeBundle(args[0], collected); err != nil {
				return err
			}
			return a.say("%s: have a look at it before you pass it on", args[0])
		},
	}
	cmd.Flags().BoolVar(&parts.doctor, "include-doctor", false, "look at this machine, as `stacyvm doctor` does")
	cmd.Flags().BoolVar(&parts.server, "include-server", false, "ask the server that --server names")
	return cmd
}

// collect gathers; what cannot be had is noted and the rest goes on.
func (a *app) collect(ctx context.Context, parts bundleParts) bundle {
	b := bundle{
		GeneratedAt:      time.Now().UTC(),
		Version:          version(),
		Runtime:          machine(),
		CollectionErrors: []string{},
		Redactions:       redactions,
	}
	failed := func(what string, err error) {
		if err != nil {
			b.CollectionErrors = append(b.CollectionErrors, what+": "+err.Error())
		}
	}
	loaded, err := config.Read(a.configFile)
	if err != nil {
		failed("config", err)
	} else {
		b.Config, b.ConfigLint = settingsTree(loaded), config.Lint(loaded, true)
	}
	if parts.doctor && err == nil {
		b.Doctor = doctor.Run(ctx, loaded.Config, false)
	}
	if parts.server {
		b.ServerDiagnostics = map[string]any{"address": a.server}
		for name, ask := range a.questions(ctx) {
			answer, err := ask()
			failed("server "+name, err)
			if err == nil {
				b.ServerDiagnostics[name] = answer
			}
		}
	}
	return b
}

// questions are what a server is asked.
func (a *app) questions(ctx context.Context) map[string]func() (any, error) {
	server, err := a.client()
	bounded := func(ask func(context.Context) (any, error)) func() (any, error) {
		return func() (any, error) {
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, serverWithin)
			defer cancel()
			return ask(ctx)
		}
	}
	return map[string]func() (any, error){
		"health":    bounded(func(ctx context.Context) (any, error) { return server.Health(ctx) }),
		"ready":     bounded(func(ctx context.Context) (any, error) { return server.Ready(ctx) }),
		"providers": bounded(func(ctx context.Context) (any, error) { return server.Providers(ctx) }),
		"sandboxes": bounded(func(ctx context.Context) (any, error) {
			sandboxes, err := server.Sandboxes(ctx)
			states := map[string]int{} // how many, not whose
			for _, s := range sandboxes {
				states[s.State]++
			}
			return states, err
		}),
	}
}

// machine tells what this program runs on.
func machine() map[string]any {
	found := map[string]any{
		"go":   runtime.Version(),
		"os":   runtime.GOOS,
		"arch": runtime.GOARCH,
		"cpus": runtime.NumCPU(),
		"uid":  os.Geteuid(),
	}
	var kernel syscall.Utsname
	if syscall.Uname(&kernel) == nil {
		found["kernel"] = text(kernel.Release[:])
	}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		unit := int64(info.Unit)
		found["memory_bytes"], found["memory_free_bytes"], found["uptime_seconds"] = int64(
			info.Totalram,
		)*unit, int64(
			info.Freeram,
		)*unit, info.Uptime
	}
	return found
}

// text reads a C string.
func text[T int8 | uint8](chars []T) string {
	var b strings.Builder
	for _, c := range chars {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// settingsTree is the configuration as its file has it, without secrets, and where its values came
// from.
func settingsTree(loaded config.Loaded) map[string]any {
	tree := map[string]any{}
	for _, setting := range loaded.Settings() {
		section, path := tree, strings.Split(setting.Key, ".")
		for _, name := range path[:len(path)-1] {
			below, ok := section[name].(map[string]any)
			if !ok {
				below = map[string]any{}
				section[name] = below
			}
			section = below
		}
		section[path[len(path)-1]] = setting.Value
	}
	return tree
}

// writeBundle takes secrets out of everything once more and makes the file appear whole.
func writeBundle(out string, b bundle) error {
	encoded, err := json.Marshal(b)
	if err != nil {
		return err
	}
	var plain any
	if err := json.Unmarshal(encoded, &plain); err != nil {
		return err
	}
	if encoded, err = json.MarshalIndent(config.RedactValue("", plain), "", "  "); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".part-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // its second name stays
	_, err = file.Write(append(encoded, '\n'))
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), out); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already: choose another name", out)
	} else if err != nil { // a file system without hard links
		return os.Rename(file.Name(), out)
	}
	return nil
}
