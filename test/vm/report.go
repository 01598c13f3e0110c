package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is what each step has shown last. A run of some steps alone leaves the results of the
// others as they were.
type report struct {
	file     string   // where it is kept
	steps    []string // all that there are
	Machine  string
	Outcomes map[string]outcome // by the step's name
}

// outcome is what a step showed.
type outcome struct {
	About   string
	Version string // of what was tried
	At      time.Time
	Took    time.Duration
	Shown   []string
	Failure string // "": none
}

func (o outcome) verdict() string {
	if o.Failure != "" {
		return "FAILED"
	}
	return "ok"
}

// openReport reads the report of earlier runs, unless the run begins anew.
func openReport(o options, steps []string) (*report, error) {
	r := &report{file: filepath.Join(o.work, "report.json"), steps: steps, Outcomes: map[string]outcome{}}
	text, err := os.ReadFile(r.file)
	if err == nil && o.keep {
		err = json.Unmarshal(text, r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r.Machine, err = about(o.image)
	return r, err
}

// add keeps a step's outcome, and writes the report for people if there is a file for it.
func (r *report) add(step string, o outcome, file string) error {
	r.Outcomes[step] = o
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.file, text, 0o644); err != nil || file == "" {
		return err
	}
	return os.WriteFile(file, []byte(r.text()), 0o644)
}

// failed names the steps that failed.
func (r *report) failed() error {
	var names []string
	for name, o := range r.Outcomes {
		if o.Failure != "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return fmt.Errorf("failed: %s", strings.Join(names, ", "))
}

func (r *report) text() string {
	var b strings.Builder
	ok := 0
	for _, o := range r.Outcomes {
		if o.Failure == "" {
			ok++
		}
	}
	fmt.Fprintf(&b, "# The package in a virtual machine\n\nWritten by `make vm-test`; do not edit. The scripts are in `test/vm/steps`.\n\n")
	fmt.Fprintf(&b, "- **%d of %d steps ok**\n", ok, len(r.steps))
	fmt.Fprintf(&b, "- %s; without KVM, %s processors, %s MiB; cgroup v2\n", r.Machine, cores, memory)
	fmt.Fprintf(&b, "- A power cut is the end of the virtual machine by SIGKILL: what its kernel had not written is lost; what it had written to\n  its disk stays, as on a disk without a volatile cache.\n\n")
	fmt.Fprintf(&b, "| step | result | when, version, time taken | what it showed |\n|---|---|---|---|\n")
	for _, name := range r.steps {
		o, ran := r.Outcomes[name]
		if !ran {
			fmt.Fprintf(&b, "| %s | **not run** | | |\n", name)
			continue
		}
		shown := strings.Join(o.Shown, "<br>")
		if o.Failure != "" {
			shown = strings.TrimPrefix(shown+"<br>**"+oneLine(o.Failure)+"**", "<br>")
		}
		fmt.Fprintf(&b, "| %s | %s | %s, %s, %s | %s |\n", o.About, o.verdict(), o.At.UTC().Format("2006-01-02 15:04 UTC"), o.Version, o.Took.Round(time.Second),
			strings.ReplaceAll(shown, "|", "\\|"))
	}
	return b.String()
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
