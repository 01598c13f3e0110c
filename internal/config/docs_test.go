package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const notBuilt = "not in this build"

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestEveryKeyIsDocumented keeps docs/configuration.md complete, and honest about what nothing
// acts on.
func TestEveryKeyIsDocumented(t *testing.T) {
	rows := map[string]string{}
	for line := range strings.Lines(readText(t, "../../docs/configuration.md")) {
		if rest, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ := strings.Cut(rest, "`")
			rows[name] = line
		}
	}
	c := Default()
	all := keys(&c)
	for _, k := range all {
		row, ok := rows[k.name]
		if !ok {
			t.Errorf("docs/configuration.md does not tell of %s", k.name)
			continue
		}
		if _, inert := unbuiltRow(k.name); inert != strings.Contains(row, notBuilt) {
			t.Errorf("docs/configuration.md marks %s wrongly: nothing acts on it is %v", k.name, inert)
		}
	}
	if len(rows) != len(all) {
		t.Errorf("docs/configuration.md has %d rows for %d keys", len(rows), len(all))
	}
}

// TestExampleIsTheDefault decodes stacyvm.example.yaml: it sets every key, each to its default.
func TestExampleIsTheDefault(t *testing.T) {
	path, err := filepath.Abs("../../stacyvm.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	clean(t)
	loaded := Loaded{Config: Default(), Sources: map[string]string{}}
	if err := loaded.readFile(path); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	standard := Default()
	want := keys(&standard)
	for i, k := range keys(&loaded.Config) {
		if loaded.Sources[k.name] != fromFile {
			t.Errorf("%s does not hold %s", path, k.name)
		}
		if k.name == "data_dir" { // its default depends on who asks: empty stands for it
			continue
		}
		if !same(k.field, want[i].field) {
			t.Errorf("%s sets %s to %v, the default is %v", path, k.name, k.field, want[i].field)
		}
	}
}

// TestExampleMarks: the comment above a key says whether this build acts on it.
func TestExampleMarks(t *testing.T) {
	var sections []string
	comment, seen := "", 0
	for line := range strings.Lines(readText(t, "../../stacyvm.example.yaml")) {
		text := strings.TrimSpace(line)
		name, value, isKey := strings.Cut(text, ":")
		switch depth := (len(line) - len(strings.TrimLeft(line, " "))) / 2; {
		case strings.HasPrefix(text, "#"):
			comment = text
		case isKey && value == "":
			sections = append(sections[:depth], name)
		case isKey:
			seen++
			key := strings.Join(append(sections[:depth:depth], name), ".")
			if _, inert := unbuiltRow(key); inert != strings.Contains(comment, notBuilt) {
				t.Errorf("stacyvm.example.yaml marks %s wrongly: nothing acts on it is %v", key, inert)
			}
			comment = ""
		}
	}
	c := Default()
	if all := len(keys(&c)); seen != all {
		t.Errorf("looked at %d keys of %d", seen, all)
	}
}

// same compares values; an empty list is as good as none.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 {
		return b.Len() == 0
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}
