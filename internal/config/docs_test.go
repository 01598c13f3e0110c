package config

import (
	"os"
	"strings"
	"testing"
)

// TestEveryKeyIsDocumented keeps docs/configuration.md complete.
func TestEveryKeyIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	for _, k := range keys(&c) {
		if !strings.Contains(string(text), "`"+k.name+"`") {
			t.Errorf("docs/configuration.md does not tell of %s", k.name)
		}
	}
}
