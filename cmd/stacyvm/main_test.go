package main

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

// run runs the program that go build makes of this package, and gives what it printed and its exit
// code.
func run(t *testing.T, program string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	cmd.Env = []string{"HOME=" + t.TempDir()} // no configuration by accident
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

// TestProgram builds the program without what `make build` puts into it: it is told its version by
// the linker, its answers go to standard output and its refusals to standard error, and its exit
// code is the command line's.
func TestProgram(t *testing.T) {
	testneed.Patience(t)
	program := filepath.Join(t.TempDir(), "stacyvm")
	build := exec.Command("go", "build", "-o", program, "-ldflags", "-X github.com/stacyvm/stacyvm/internal/cli.Version=v9.8.7-test", ".")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if stdout, stderr, code := run(t, program, "version"); code != 0 || !strings.HasPrefix(stdout, "stacyvm v9.8.7-test (") || stderr != "" {
		t.Errorf("version: exit code %d, %q, %q", code, stdout, stderr)
	}
	for _, args := range [][]string{{"frobnicate"}, {"version", "--frobnicate"}, {"list", "--server", "http://127.0.0.1:1"}} {
		if stdout, stderr, code := run(t, program, args...); code == 0 || stdout != "" || stderr == "" {
			t.Errorf("%q: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
}
