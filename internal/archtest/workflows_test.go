package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const workflows = "../../.github/workflows"

// workflow is what the tests look at in a file of GitHub Actions.
type workflow struct {
	Permissions map[string]string
	Jobs        map[string]struct {
		Permissions map[string]string
		Uses        string
		Steps       []struct{ Uses, Run string }
	}
}

func readWorkflow(t *testing.T, path string) (parsed workflow) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, &parsed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// pinned is an action of a commit that nobody can move.
var pinned = regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)

// TestWorkflowsArePinned: actions are named by commits, and what runs them may read the repository
// and nothing else.
func TestWorkflowsArePinned(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(workflows, "*.y*ml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("workflows: %v, %v", paths, err)
	}
	for _, path := range paths {
		w, name, actions := readWorkflow(t, path), filepath.Base(path), 0
		if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
			t.Errorf("%s: permissions are %v, want contents: read", name, w.Permissions)
		}
		for id, job := range w.Jobs {
			if len(job.Permissions) > 0 {
				t.Errorf("%s: job %s has permissions of its own: %v", name, id, job.Permissions)
			}
			uses := []string{job.Uses}
			for _, step := range job.Steps {
				uses = append(uses, step.Uses)
			}
			for _, used := range uses {
				if used == "" {
					continue
				}
				if actions++; !pinned.MatchString(used) {
					t.Errorf("%s: job %s uses %s, which is not pinned by a commit", name, id, used)
				}
			}
		}
		if actions == 0 {
			t.Errorf("%s uses no action", name)
		}
	}
}

// TestConformanceRunsInCI: both jobs of the contract are there and run the scripts, and so does
// our own CI.
func TestConformanceRunsInCI(t *testing.T) {
	w := readWorkflow(t, filepath.Join(workflows, "cluster-conformance.yml"))
	for job, script := range map[string]string{
		"cluster-conformance": "scripts/ci-cluster-conformance.sh", "remote-worker-postgres-smoke": "scripts/ci-remote-worker-smoke.sh",
	} {
		steps := w.Jobs[job].Steps
		if !slices.ContainsFunc(steps, func(s struct{ Uses, Run string }) bool { return strings.Contains(s.Run, script) }) {
			t.Errorf("no step of job %q runs %s", job, script)
		}
		if info, err := os.Stat(filepath.Join("../..", script)); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be run: %v", script, err)
		}
	}
	text, err := os.ReadFile("../../.ci/run")
	if err != nil || !strings.Contains(string(text), "make conformance") {
		t.Errorf(".ci/run does not run the gates: %v", err)
	}
}
