package testneed

import (
	"os"
	"path/filepath"
	"testing"
)

// attempt is a test that says how it ended.
type attempt struct {
	testing.TB
	end string
}

func (a *attempt) Name() string           { return "TestSome" }
func (a *attempt) Fatalf(string, ...any)  { a.finish("failed") }
func (a *attempt) Skip(...any)            { a.finish("skipped") }
func (a *attempt) Helper()                {}
func (a *attempt) finish(how string)      { a.end = how; panic(a) }
func (a *attempt) run(f func(testing.TB)) { defer func() { _ = recover() }(); f(a) }

func TestRequiredNeedsFail(t *testing.T) {
	list := filepath.Join(t.TempDir(), "skipped")
	t.Setenv("STACYVM_TEST_SKIPPED", list)
	for required, want := range map[string]string{"": "skipped", "gvisor,root": "skipped", "tool": "failed", "root,tool": "failed", "all": "failed"} {
		t.Setenv("STACYVM_TEST_REQUIRE", required)
		a := &attempt{TB: t}
		a.run(func(t testing.TB) { Missing(t, "tool", "there is no tool") })
		if a.end != want {
			t.Errorf("with %q required: %s, want %s", required, a.end, want)
		}
	}
	text, err := os.ReadFile(list)
	if line := "TestSome: there is no tool\n"; err != nil || string(text) != line+line {
		t.Errorf("the list of skips reads %q, %v", text, err)
	}
}

func TestProgram(t *testing.T) {
	t.Setenv("STACYVM_TEST_REQUIRE", "all")
	a := &attempt{TB: t}
	if a.run(func(t testing.TB) { Program(t, "sh") }); a.end != "" {
		t.Errorf("a program that is there: %s", a.end)
	}
	if a.run(func(t testing.TB) { Program(t, "no-such-program") }); a.end != "failed" {
		t.Errorf("a program that is not there: %q", a.end)
	}
}
