// Command testreport reads what `go test -json` writes. It prints the output of each failed test
// and of those that never ended, how many packages Go took from its cache, and which others took
// longest. It writes the names of skipped tests to a file. The tests cannot write that file
// themselves: a cached package runs no test, and a path in the environment that differs each time
// keeps Go from caching.
//
//	go test -json ./... | go run ./scripts/testreport -skipped FILE
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is one line of `go test -json`.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// timing is how long a package's tests took.
type timing struct {
	name    string
	seconds float64
}

func main() {
	path := flag.String("skipped", "", "the `file` to write the names of skipped tests to")
	flag.Parse()
	skipped, err := report(os.Stdin, os.Stdout)
	if err == nil && *path != "" {
		err = os.WriteFile(*path, []byte(strings.Join(skipped, "")), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

// report gives the names of the skipped tests, a line each.
func report(from io.Reader, to io.Writer) (skipped []string, err error) {
	output := map[string]string{} // by package and test; that of a passed test is dropped
	cached := map[string]bool{}
	var tested []timing
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(to, lines.Text()) // the go command's own words
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "build-output":
			fmt.Fprint(to, e.Output)
		case "output":
			output[key] += e.Output
			if e.Test == "" && strings.HasSuffix(e.Output, "\t(cached)\n") {
				cached[e.Package] = true
			}
		case "pass", "fail", "skip":
			if e.Action == "fail" {
				fmt.Fprintf(to, "%s\n%s", key, output[key])
			}
			if e.Action == "fail" && e.Test == "" { // why its process ended is in the test that ran then
				delete(output, key)
				for _, key := range slices.Sorted(maps.Keys(output)) {
					if strings.HasPrefix(key, e.Package+" ") {
						fmt.Fprintf(to, "%s\n%s", key, output[key])
					}
				}
			}
			delete(output, key)
			switch {
			case e.Test != "" && e.Action == "skip":
				skipped = append(skipped, key+"\n")
			case e.Test == "" && e.Action != "skip" && !cached[e.Package]:
				tested = append(tested, timing{e.Package, e.Elapsed})
			}
		}
	}
	slices.SortFunc(tested, func(a, b timing) int { return int(b.seconds - a.seconds) })
	fmt.Fprintf(to, "%d packages from the cache, %d tested\n", len(cached), len(tested))
	for _, one := range tested[:min(5, len(tested))] {
		fmt.Fprintf(to, "%6.1f s  %s\n", one.seconds, one.name)
	}
	return skipped, lines.Err()
}
