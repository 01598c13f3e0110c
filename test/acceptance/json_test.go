package acceptance

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestJSON: programs read these names.
func TestJSON(t *testing.T) {
	r := newRig(t).serve()
	if got := r.must(r.command("list", "--output", "json")); got != "[]\n" {
		t.Errorf("no sandboxes: %q", got)
	}
	spawned := r.must(r.command("spawn", "--metadata", "k=v", "--owner", "me", "-o", "json"))
	var sandbox struct{ ID string }
	if err := json.Unmarshal([]byte(spawned), &sandbox); err != nil {
		t.Fatalf("%v: %q", err, spawned)
	}
	id := sandbox.ID
	for _, empty := range [][]string{{"ps", id, "-o", "json"}, {"logs", id, "-o", "json"}} {
		if got := r.must(r.command(empty...)); got != "[]\n" {
			t.Errorf("%q: %q", empty, got)
		}
	}
	r.must(r.command("exec", id, "--", "echo", "line <&>"))
	if got := r.must(r.command("logs", id, "-o", "json")); got != "[\n  \"line <&>\"\n]\n" {
		t.Errorf("logs: %q", got)
	}
	for _, row := range []struct{ line, must, may string }{
		{"list", "created_at disk_mb expires_at id image memory_mb metadata owner_id provider state vcpus vm_id worker_id", "detail preview_domain queue_place reason recovered since tenant_id unenforced"},
		{"ps " + id, "args command ended_at error exit_code id lossless pid pty signal started_at state stderr_bytes stderr_first stdin_open stdout_bytes stdout_first streams_held timed_out user workdir", "reason"},
		{"image list", "built_in bytes in_use name", "created_at digest"},
		{"doctor", "level message name", "fix"},
	} {
		out := r.must(r.command(append(strings.Fields(row.line), "--output", "json")...))
		var objects []map[string]any
		if err := json.Unmarshal([]byte(out), &objects); err != nil || len(objects) == 0 {
			t.Errorf("%s: %v in %q", row.line, err, out)
			continue
		}
		must := strings.Fields(row.must)
		for _, object := range objects {
			for _, name := range must {
				if _, there := object[name]; !there {
					t.Errorf("%s: no %q in %v", row.line, name, object)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(object)) {
				if !slices.Contains(append(must, strings.Fields(row.may)...), name) {
					t.Errorf("%s: a new name %q; add it here", row.line, name)
				}
			}
		}
	}
	var version map[string]string
	if err := json.Unmarshal([]byte(r.must(r.command("version", "-o", "json"))), &version); err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(version)); !slices.Equal(names, []string{"arch", "go", "os", "version"}) {
		t.Errorf("version: %q", names)
	}
}
