package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	readyWithin = 30 * time.Second
	endWithin   = 60 * time.Second
)

// Program is one process of the built binary that keeps what it has in a directory of its own. It
// can be killed and started again.
type Program struct {
	Dir     string   // holds the data directory and the log
	Env     []string // NAME=VALUE, on top of this process's environment
	Machine *Machine // where it runs; nil: here

	binary string
	cmd    *exec.Cmd
	done   chan struct{} // closed when cmd has ended
}

// Binary finds the built program: STACYVM_BIN, else bin/stacyvm of this tree.
func Binary() (string, error) {
	path := os.Getenv("STACYVM_BIN")
	if path == "" {
		path = "../../bin/stacyvm"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: run `make build` first", err)
	}
	return path, nil
}

// DataDir is where the program keeps everything.
func (p *Program) DataDir() string { return filepath.Join(p.Dir, "data") }

func (p *Program) logPath() string { return filepath.Join(p.Dir, "server.log") }

// up starts the command and waits until it is ready.
func (p *Program) up(ready func() bool, command string, env ...string) error {
	if err := p.start(command, env); err != nil {
		return err
	}
	for deadline := time.Now().Add(readyWithin); !ready(); time.Sleep(20 * time.Millisecond) {
		if !p.Running() {
			return fmt.Errorf("%s ended at its start:\n%s", command, p.Log())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %v:\n%s", command, readyWithin, p.Log())
		}
	}
	return nil
}

func (p *Program) start(command string, env []string) error {
	log, err := os.OpenFile(p.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.binary, command)
	cmd.Env = append(append(append(os.Environ(), "STACYVM_CONFIG=", "HOME="+p.Dir, "STACYVM_DATA_DIR="+p.DataDir()), env...), p.Env...)
	cmd.Dir = p.Dir // no configuration file by accident
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.Machine == nil {
		err = cmd.Start()
	} else {
		err = p.Machine.inside(cmd.Start)
	}
	if err != nil {
		return err
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() { _ = cmd.Wait(); close(done) }()
	return nil
}

// Running reports whether the process has not ended.
func (p *Program) Running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill sends the signal and waits for the end of the process.
func (p *Program) Kill(signal syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-p.done:
		return nil
	case <-time.After(endWithin):
		_ = p.cmd.Process.Kill()
		<-p.done
		return errors.New("the process did not end in time:\n" + p.Log())
	}
}

// Stop ends the process as an operator would.
func (p *Program) Stop() error { return p.Kill(syscall.SIGTERM) }

// PID is the process's id, which is not valid any more when the process has ended.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Memory gives the process's resident memory in bytes.
func (p *Program) Memory() (int64, error) { return Memory(p.cmd.Process.Pid, "VmRSS:") }

// Log gives the end of what the process wrote.
func (p *Program) Log() string {
	text, err := os.ReadFile(p.logPath())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// Memory reads one line of /proc/PID/status, in bytes.
func Memory(pid int, line string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for text := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(text, line); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, line)
}
