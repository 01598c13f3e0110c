package stacyvm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestReasonsAreComplete compares the list with the constants, so that none is added to one alone.
func TestReasonsAreComplete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	constants := 0
	ast.Inspect(file, func(node ast.Node) bool {
		value, ok := node.(*ast.ValueSpec)
		if !ok || len(value.Values) != 1 {
			return true
		}
		if literal, ok := value.Values[0].(*ast.BasicLit); ok {
			constants++
			word, err := strconv.Unquote(literal.Value)
			if err != nil || !slices.Contains(Reasons, Reason(word)) {
				t.Errorf("%s is not in Reasons", literal.Value)
			}
		}
		return true
	})
	if constants != len(Reasons) || constants == 0 {
		t.Errorf("%d constants, %d reasons", constants, len(Reasons))
	}
}

// TestReasonsAreDocumented demands a row for each reason in the operator's table, and that the
// OpenAPI document knows it.
func TestReasonsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[Reason]int{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) == 5 {
			rows[Reason(strings.Trim(cells[1], " `"))]++
		}
	}
	for _, reason := range Reasons {
		if rows[reason] != 1 {
			t.Errorf("docs/operations.md has %d rows for %s", rows[reason], reason)
		}
		if !strings.Contains(string(document), strconv.Quote(string(reason))) {
			t.Errorf("docs/openapi.json does not know %s", reason)
		}
	}
}
