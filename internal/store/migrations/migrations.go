// Package migrations holds the schema as numbered steps, one text for both dialects. A step that
// was released is never changed; a new one is added with the next number. In the text, {word}
// stands for what a dialect calls by another name.
package migrations

import (
	"embed"
	"fmt"
	"strconv"
	"strings"
)

// VersionTable keeps which steps were applied, in both dialects.
const VersionTable = "schema_migrations"

// ActiveSandbox is the condition of a sandbox that is not a tombstone. It must stand in a
// statement as it stands in the schema: the indexes hold only these rows.
const ActiveSandbox = `NOT gone`

//go:embed *.sql
var files embed.FS

// Step is one numbered change of the schema.
type Step struct {
	Version int64
	Name    string // of its file
	Text    string
}

// Steps gives all steps in order, with words filled in: {"serial": "..."} replaces {serial}. The
// word postgres begins a line that is for PostgreSQL: elsewhere it makes it a comment. stored is how a
// generated column is kept that is added to a table.
func Steps(words map[string]string) ([]Step, error) {
	entries, err := files.ReadDir(".") // sorted by name
	if err != nil {
		return nil, err
	}
	var pairs []string
	for word, text := range words {
		pairs = append(pairs, "{"+word+"}", text)
	}
	fill := strings.NewReplacer(pairs...)
	var steps []Step
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("migration %s has no number: %w", entry.Name(), err)
		}
		text, err := files.ReadFile(entry.Name())
		if err != nil {
			return nil, err
		}
		steps = append(steps, Step{Version: version, Name: entry.Name(), Text: fill.Replace(string(text))})
	}
	return steps, nil
}
