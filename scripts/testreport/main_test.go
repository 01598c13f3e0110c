package main

import (
	"slices"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	var printed strings.Builder
	skipped, err := report(strings.NewReader(strings.Join([]string{
		`{"Action":"build-output","ImportPath":"broken","Output":"broken.go:1: no\n"}`,
		`{"Action":"output","Package":"old","Output":"ok  \told\t(cached)\n"}`, `{"Action":"pass","Package":"old"}`,
		`{"Action":"skip","Package":"empty"}`,
		`{"Action":"output","Package":"a","Test":"TestGood","Output":"noise\n"}`, `{"Action":"pass","Package":"a","Test":"TestGood"}`,
		`{"Action":"output","Package":"a","Test":"TestBad","Output":"bad_test.go:1: why\n"}`, `{"Action":"fail","Package":"a","Test":"TestBad"}`,
		`{"Action":"skip","Package":"a","Test":"TestRoot"}`, `{"Action":"output","Package":"a","Output":"FAIL\n"}`,
		`{"Action":"fail","Package":"a","Elapsed":2.5}`,
		`{"Action":"output","Package":"dead","Test":"TestBefore","Output":"noise\n"}`, `{"Action":"pass","Package":"dead","Test":"TestBefore"}`,
		`{"Action":"output","Package":"deadline","Test":"TestOther","Output":"of another package\n"}`,
		`{"Action":"output","Package":"dead","Test":"TestSlow","Output":"panic: test timed out\n"}`,
		`{"Action":"output","Package":"dead","Output":"FAIL\tdead\n"}`, `{"Action":"fail","Package":"dead","Elapsed":1}`,
		`words of the go command`,
	}, "\n")), &printed)
	if err != nil || !slices.Equal(skipped, []string{"a TestRoot\n"}) {
		t.Errorf("skipped %q, %v", skipped, err)
	}
	const want = "broken.go:1: no\na TestBad\nbad_test.go:1: why\na \nFAIL\n" +
		"dead \nFAIL\tdead\ndead TestSlow\npanic: test timed out\nwords of the go command\n" +
		"1 packages from the cache, 2 tested\n   2.5 s  a\n   1.0 s  dead\n"
	if printed.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", &printed, want)
	}
}
