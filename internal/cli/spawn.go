package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stacyvm/stacyvm/client"
)

// spawnFlags say what a sandbox is made of: spawn and run have them.
type spawnFlags struct {
	image, provider     string
	memory, vcpus, disk int
}

func (f *spawnFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.image, "image", "", "`name` of the image (default: the server's)")
	flags.StringVar(&f.provider, "provider", "", "`name` of the engine, such as gvisor (default: the server's)")
	flags.IntVar(&f.memory, "memory", 0, "memory in `MiB` (default: the server's)")
	flags.IntVar(&f.vcpus, "vcpus", 0, "`number` of processors (default: the server's)")
	flags.IntVar(&f.disk, "disk", 0, "disk space in `MiB` (default: the server's)")
}

func (f *spawnFlags) request(flags *pflag.FlagSet) (client.SpawnRequest, error) {
	for name, value := range map[string]int{"memory": f.memory, "vcpus": f.vcpus, "disk": f.disk} {
		if flags.Changed(name) && value <= 0 {
			return client.SpawnRequest{}, fmt.Errorf("--%s: %d is not more than zero", name, value)
		}
	}
	return client.SpawnRequest{
		Image:    f.image,
		Provider: f.provider,
		MemoryMB: f.memory,
		VCPUs:    f.vcpus,
		DiskMB:   f.disk,
	}, nil
}

func (a *app) spawnCommand() *cobra.Command {
	var (
		flags    spawnFlags
		ttl      time.Duration
		env      []string
		metadata []string
		selector []string
		owner    string
		quiet    bool
	)
	cmd := &cobra.Command{
		Use:   "spawn",
		Short: "Create a sandbox",
		Long: `Create a sandbox on the server and print its id. It runs until "stacyvm kill" or the end of its time to
live, also across restarts of the server.`,
		Example: `  stacyvm spawn --ttl 1h --memory 512
  id=$(stacyvm spawn --quiet --image alpine)`,
		Args: arguments(0, 0),
	}
	flags.add(cmd.Flags())
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "time to live, a `duration` such as 30m (default: the server's)")
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "set `NAME=VALUE` for every command of the sandbox (repeat)")
	cmd.Flags().StringArrayVar(&metadata, "metadata", nil, "note `KEY=VALUE` (repeat)")
	cmd.Flags().
		StringArrayVar(&selector, "worker-selector", nil, "only on a worker with the label `KEY=VALUE` (repeat)")
	cmd.Flags().StringVar(&owner, "owner", "", "owner's `id`")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the id only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		request, err := flags.request(cmd.Flags())
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("ttl") {
			if ttl <= 0 {
				return fmt.Errorf("--ttl: %s is not more than zero", ttl)
			}
			request.TTL = ttl.String()
		}
		if request.Env, err = parseEnv(env); err != nil {
			return err
		}
		if request.Metadata, err = parsePairs("--metadata", metadata); err != nil {
			return err
		}
		if request.WorkerSelector, err = parsePairs("--worker-selector", selector); err != nil {
			return err
		}
		request.OwnerID, request.IdempotencyKey = owner, rand.Text()
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		server, err := a.client()
		if err != nil {
			return err
		}
		done := progress(a.stderr, "creating a sandbox")
		sandbox, err := server.Spawn(ctx, request)
		done()
		if errors.Is(err, context.Canceled) {
			a.unspawn(server, request)
		}
		if err != nil {
			return err
		}
		if err := a.printSpawned(sandbox, quiet); err != nil {
			return fmt.Errorf("%w; the sandbox is %s", err, sandbox.ID)
		}
		return nil
	}
	return a.withOutput(cmd)
}

// unspawnWithin bounds the removal of a sandbox whose creation was interrupted.
const unspawnWithin = 20 * time.Second

// unspawn destroys what an interrupted request made: nobody was told its id, which the same key
// tells.
func (a *app) unspawn(server *client.Client, request client.SpawnRequest) {
	defer progress(a.stderr, "removing the sandbox again")()
	ctx, cancel := context.WithTimeout(context.Background(), unspawnWithin)
	defer cancel()
	sandbox, err := server.Spawn(ctx, request)
	if err == nil {
		err = server.Destroy(ctx, sandbox.ID)
	}
	if err != nil {
		a.warn("a sandbox may be left, see `stacyvm list`: %v", err)
	}
}

// shownProvider is the engine's name for people; the one that isolates nothing says so wherever it
// is named.
func shownProvider(sandbox client.Sandbox) string {
	if sandbox.Provider == "mock" {
		return "mock: isolates nothing"
	}
	return sandbox.Provider
}

func (a *app) printSpawned(sandbox client.Sandbox, quiet bool) error {
	if a.output == "json" {
		return a.printJSON(sandbox)
	}
	a.warnUnenforced(sandbox)
	line := fmt.Sprintf(
		"Sandbox %s spawned (provider: %s, image: %s)",
		sandbox.ID,
		shownProvider(sandbox),
		sandbox.Image,
	)
	if quiet {
		line = sandbox.ID
	}
	_, err := fmt.Fprintln(a.stdout, line)
	return err
}

// warnUnenforced says which limits this machine cannot hold.
func (a *app) warnUnenforced(sandbox client.Sandbox) {
	if len(sandbox.Unenforced) > 0 {
		a.warn(
			"this machine cannot enforce these limits: %s (`stacyvm doctor` says why)",
			strings.Join(sandbox.Unenforced, ", "),
		)
	}
}

// parsePairs reads KEY=VALUE words.
func parsePairs(flag string, words []string) (map[string]string, error) {
	pairs := make(map[string]string, len(words))
	for _, word := range words {
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%s: %q is not KEY=VALUE", flag, word)
		}
		pairs[key] = value
	}
	return pairs, nil
}
