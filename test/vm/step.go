package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A step's script tells the driver things in lines of its output.
const (
	shownMark = "SHOWN: "    // something for the report
	failMark  = "FAIL: "     // why it failed
	doneMark  = "ANSWERED "  // on the serial port: a create that was answered
	goneMark  = "DESTROYED " // on the serial port: a delete that was answered
	powerCuts = 10           // as often is the power cut
	loadTime  = 30 * time.Second
)

// step runs one script in the machine. The one named "…-power-cut" is the load beside which the
// power is cut; what follows a cut is after-cut.sh.
func (m *machine) step(ctx context.Context, name string) outcome {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	o := outcome{Version: m.o.version, At: time.Now()}
	script, about, err := load(name)
	if o.About = about; err == nil {
		if strings.HasSuffix(name, "-power-cut") {
			o.Shown, err = m.cuts(ctx, script)
		} else {
			o.Shown, err = m.script(ctx, script)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errPower) {
		err = errors.Join(err, m.reset(context.WithoutCancel(ctx))) // for the steps that follow
	}
	o.Took = time.Since(o.At)
	if err != nil {
		o.Failure = err.Error()
		fmt.Println(o.Failure)
	}
	return o
}

// reset starts a machine anew that does not answer.
func (m *machine) reset(ctx context.Context) error {
	m.powerOff()
	return m.boot(ctx)
}

// load reads a script with the common functions before it. Its first comment says what it is
// about.
func load(name string) (script, about string, err error) {
	common, err := os.ReadFile("test/vm/lib.sh")
	if err != nil {
		return "", "", err
	}
	text, err := os.ReadFile(filepath.Join("test/vm/steps", name+".sh"))
	if err != nil {
		return "", "", err
	}
	about, _, _ = strings.Cut(strings.TrimPrefix(string(text), "# "), "\n")
	return string(common) + string(text), about, nil
}

// script runs a script and gives what it has shown. Everything that it wrote goes to the log.
func (m *machine) script(ctx context.Context, script string) (shown []string, err error) {
	output, status, err := m.run(ctx, script)
	fmt.Print(output)
	if err != nil {
		return nil, err
	}
	why := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, shownMark); ok {
			shown = append(shown, text)
		}
		if text, ok := strings.CutPrefix(line, failMark); ok {
			why = text
		}
	}
	if status != 0 {
		if why == "" {
			why = lastLine(output)
		}
		return shown, fmt.Errorf("status %d: %s", status, why)
	}
	return shown, nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// cuts cuts the power ten times while sandboxes are created and destroyed, and looks each time at
// what the next start finds.
func (m *machine) cuts(ctx context.Context, load string) (shown []string, err error) {
	if _, err := m.script(ctx, load+"\nprepare\n"); err != nil {
		return nil, err
	}
	after, err := os.ReadFile("test/vm/after-cut.sh")
	if err != nil {
		return nil, err
	}
	common, err := os.ReadFile("test/vm/lib.sh")
	if err != nil {
		return nil, err
	}
	before, err := os.ReadFile(m.serial) // by an earlier run on the same disk
	if err != nil {
		return nil, err
	}
	for cut := range powerCuts {
		go func() { _, _, _ = m.run(ctx, load+"\nload\n") }() // it ends with the power
		select {
		case <-time.After(loadTime + time.Duration(cut)*1100*time.Millisecond): // at another moment each time
		case <-ctx.Done():
			return shown, ctx.Err()
		}
		m.powerOff()
		made, gone := m.told(len(before))
		if err := m.boot(ctx); err != nil {
			return shown, fmt.Errorf("start after power cut %d: %w", cut+1, err)
		}
		lists := fmt.Sprintf("made=%q\ngone=%q\n", strings.Join(made, " "), strings.Join(gone, " "))
		found, err := m.script(ctx, string(common)+lists+string(after))
		for _, line := range found {
			shown = append(shown, fmt.Sprintf("cut %d: %s", cut+1, line))
		}
		if err != nil {
			return shown, fmt.Errorf("after power cut %d: %w", cut+1, err)
		}
	}
	if made, _ := m.told(len(before)); len(made) < 10*powerCuts {
		return shown, fmt.Errorf("only %d creates were answered: too few to show anything", len(made))
	}
	return shown, nil
}

// told gives what the machine wrote to its serial port from a byte on: the answered creates and
// deletes of all cuts.
func (m *machine) told(from int) (made, gone []string) {
	text, _ := os.ReadFile(m.serial)
	for line := range strings.Lines(string(text[min(from, len(text)):])) {
		line = strings.TrimSpace(line)
		if id, ok := strings.CutPrefix(line, doneMark); ok && !slices.Contains(made, id) {
			made = append(made, id)
		}
		if id, ok := strings.CutPrefix(line, goneMark); ok {
			gone = append(gone, id)
		}
	}
	return made, gone
}
