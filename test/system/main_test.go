package system

import (
	"flag"
	"os"
	"testing"
)

// sideBySide is how many of the parallel tests run at once. They mostly wait, so that it may be
// more than there are processors.
const sideBySide = "4"

// TestMain sets how many tests run side by side, unless the command line says so. The parallel
// tests run after all others, which load the machine or measure what a neighbour notices.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", sideBySide); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
