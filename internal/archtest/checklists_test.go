package archtest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestChecklistsNameWhatIsThere: each path that a checklist names exists.
func TestChecklistsNameWhatIsThere(t *testing.T) {
	text, err := os.ReadFile("../../docs/checklists/README.md")
	if err != nil {
		t.Fatal(err)
	}
	paths := 0
	for _, word := range regexp.MustCompile("`([^`\\s]+)`").FindAllStringSubmatch(string(text), -1) {
		name := word[1]
		if strings.Contains(name, "NAME") || !strings.ContainsAny(name, "/.") {
			continue
		}
		paths++
		if _, err := os.Stat("../../" + name); err != nil {
			t.Errorf("docs/checklists: %v", err)
		}
	}
	if paths < 50 {
		t.Errorf("only %d paths were found", paths)
	}
}
