package archtest

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables into the linter's configuration and the document")

// TestTables compares the linter's rules and the document's tables with the rules of this package.
func TestTables(t *testing.T) {
	for path, table := range map[string]struct{ begin, end, text string }{
		"../../.golangci.yml":        {"# begin: written by internal/archtest\n", "      # end\n", linterRules()},
		"../../docs/architecture.md": {"<!-- begin: written by internal/archtest -->\n", "<!-- end -->\n", documentTables()},
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, found := strings.Cut(string(text), table.begin)
		_, after, ended := strings.Cut(rest, table.end)
		if !found || !ended {
			t.Fatalf("%s has no place for the table", path)
		}
		want := before + table.begin + table.text + table.end + after
		switch {
		case want == string(text):
		case *update:
			if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("%s differs from the table of internal/archtest: run `go generate ./internal/archtest`", path)
		}
	}
}

// linterRules is what depguard checks. It has no order of rules: the files of a more special one
// are left out of a wider one.
func linterRules() string {
	var out strings.Builder
	rule := func(name string, files []string, allow []string, denied, why string) {
		fmt.Fprintf(&out, "        %s:\n          list-mode: lax\n          files: [%s]\n", name, quoted(files))
		if len(allow) > 0 {
			fmt.Fprintf(&out, "          allow: [%s]\n", quoted(allow))
		}
		fmt.Fprintf(&out, "          deny: [{ pkg: %q, desc: %q }]\n", denied, why)
	}
	for i, r := range rules {
		files := []string{fileGlob(r.pkg)}
		for _, special := range rules[:i] {
			if matches(strings.TrimSuffix(special.pkg, "/..."), r.pkg) {
				files = append(files, "!"+fileGlob(special.pkg))
			}
		}
		var allow []string
		for _, pattern := range r.imports {
			wider := func(other string) bool {
				return other != pattern && matches(strings.TrimSuffix(pattern, "/..."), other)
			}
			if slices.ContainsFunc(r.imports, wider) {
				continue // depguard looks at the nearest entry alone
			}
			if below, ok := strings.CutSuffix(pattern, "/..."); ok {
				allow = append(allow, module+below+"$", module+below+"/")
			} else {
				allow = append(allow, module+pattern+"$")
			}
		}
		name := strings.TrimSuffix(r.pkg, "/...")
		why := "not in the table of internal/archtest" + prefixed("; never ", r.never)
		rule(name, append(files, "!$test"), allow, strings.TrimSuffix(module, "/"), why)
	}
	for _, c := range confined {
		files := []string{"**", "!" + fileGlob(c.home)}
		if c.module != "gvisor.dev/gvisor" { // which no test links either
			files = append(files, "!$test")
		}
		rule(strings.NewReplacer("/", "-", ".", "-").Replace(c.module), files, nil, c.module, c.why)
	}
	return out.String()
}

// documentTables is what a reader sees.
func documentTables() string {
	var out strings.Builder
	out.WriteString("| package | may import of this module | never |\n|---|---|---|\n")
	for _, r := range rules {
		imports := "nothing"
		if len(r.imports) > 0 {
			imports = named(r.imports)
		}
		fmt.Fprintf(&out, "| %s | %s | %s |\n", named([]string{r.pkg}), imports, cmp.Or(r.never, "anything else"))
	}
	out.WriteString("\n| module | only in | because |\n|---|---|---|\n")
	for _, c := range confined {
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", c.module, named([]string{c.home}), c.why)
	}
	return out.String()
}

// fileGlob is the linter's pattern for the files of a package, and of those below it where the
// pattern has them.
func fileGlob(pattern string) string {
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return "**/" + below + "/**"
	}
	return "**/" + pattern + "/*.go"
}

// named gives packages as the document names them: without internal/.
func named(patterns []string) string {
	names := make([]string, len(patterns))
	for i, pattern := range patterns {
		names[i] = "`" + strings.TrimPrefix(pattern, "internal/") + "`"
	}
	return strings.Join(names, ", ")
}

func quoted(words []string) string {
	list := make([]string, len(words))
	for i, word := range words {
		list[i] = fmt.Sprintf("%q", word)
	}
	return strings.Join(list, ", ")
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}
