package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/auth"
)

// rotationPlan tells how to change the signing key; keys are named by where they are kept.
type rotationPlan struct {
	NewKeyRef      string   `json:"new_key_ref"`
	PreviousKeyRef string   `json:"previous_key_ref"`
	MaxTokenTTL    string   `json:"max_token_ttl"`
	Steps          []string `json:"steps"`
	ConfigSnippet  string   `json:"config_snippet"`
	Validation     []string `json:"validation"`
	Text           string   `json:"text"`
}

func (a *app) rotationPlanCommand() *cobra.Command {
	var newRef, previousRef, format string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "rotation-plan",
		Short: "Say how to change the signing key without a refused worker",
		Long: `Say how to change the signing key without a refused worker. Keys are named by where they are kept, such as a
file or an entry of a vault; the plan reads none and holds none.`,
		Example: `  stacyvm worker token rotation-plan --new-key-ref /etc/stacyvm/worker-2.key --previous-key-ref /etc/stacyvm/worker-1.key`,
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("--format: %q is neither text nor json", format)
			}
			plan, err := newRotationPlan(newRef, previousRef, ttl)
			if err != nil {
				return err
			}
			if format == "json" {
				return a.printJSON(plan)
			}
			_, err = fmt.Fprint(a.stdout, plan.Text)
			return err
		},
	}
	cmd.Flags().StringVar(&newRef, "new-key-ref", "worker-signing-key-new", "`name` of the new key, not the key")
	cmd.Flags().
		StringVar(&previousRef, "previous-key-ref", "worker-signing-key-previous", "`name` of the key in use, not the key")
	cmd.Flags().
		DurationVar(&ttl, "ttl", auth.WorkerTokenDefault, "`duration` of the longest token's life, at most 15m")
	cmd.Flags().StringVar(&format, "format", "text", "`format`: text or json")
	must(cmd.RegisterFlagCompletionFunc("format", words("text", "json")))
	return cmd
}

func newRotationPlan(newRef, previousRef string, ttl time.Duration) (rotationPlan, error) {
	if ttl < time.Second || ttl > auth.WorkerTokenMax {
		return rotationPlan{}, fmt.Errorf("--ttl: must be between 1s and %s", auth.WorkerTokenMax)
	}
	for flag, ref := range map[string]string{"new-key-ref": newRef, "previous-key-ref": previousRef} {
		if ref == "" || len(ref) > 256 || strings.Contains(ref, "-----BEGIN") ||
			strings.ContainsFunc(ref, unicode.IsControl) {
			return rotationPlan{}, fmt.Errorf("--%s: is to be the name of a key in one line", flag)
		}
	}
	if newRef == previousRef {
		return rotationPlan{}, fmt.Errorf("--new-key-ref: is the previous key")
	}
	wait := ttl + auth.WorkerClockSkew
	plan := rotationPlan{
		NewKeyRef:      newRef,
		PreviousKeyRef: previousRef,
		MaxTokenTTL:    ttl.String(),
		Steps: []string{
			fmt.Sprintf(
				"Add the key %s to auth.worker_signing_keys of every control plane and worker, and restart them one after the other. Of an Ed25519 key the public half will do. From now on all accept both keys.",
				newRef,
			),
			fmt.Sprintf(
				"Make %s auth.worker_signing_key of every process that signs, put the key %s into auth.worker_signing_keys everywhere, and restart them. From now on new tokens are signed with the new key.",
				newRef,
				previousRef,
			),
			fmt.Sprintf("Wait %s: the longest token's life and the clocks' skew.", wait),
			fmt.Sprintf(
				"Remove the key %s from auth.worker_signing_keys everywhere, restart, and destroy it.",
				previousRef,
			),
		},
		ConfigSnippet: fmt.Sprintf(
			"# during step 3\nauth:\n  worker_signing_key_file: %q # holds %s\n  worker_signing_keys:\n    - \"...\" # the text of %s, or its public half\n",
			"/etc/stacyvm/worker-signing.key",
			newRef,
			previousRef,
		),
		Validation: []string{
			"stacyvm config lint --production",
			"stacyvm worker token TEST --ttl 1m | stacyvm worker token verify -",
		},
	}
	plan.Text = plan.text()
	return plan, nil
}

func (p rotationPlan) text() string {
	var text strings.Builder
	fmt.Fprintf(
		&text,
		"Change the workers' signing key from %s to %s (tokens live at most %s)\n\n",
		p.PreviousKeyRef,
		p.NewKeyRef,
		p.MaxTokenTTL,
	)
	for i, step := range p.Steps {
		fmt.Fprintf(&text, "%d. %s\n", i+1, step)
	}
	fmt.Fprintf(&text, "\nConfiguration:\n\n%s\nCheck after each step:\n\n", p.ConfigSnippet)
	for _, line := range p.Validation {
		fmt.Fprintf(&text, "  %s\n", line)
	}
	return text.String()
}
