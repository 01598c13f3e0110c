// Package harness starts the built binary as a server for acceptance, system and speed tests, and looks at what it has on
// the machine. It uses the public client and what the machine shows, nothing from inside.
package harness

import (
	"errors"
	"fmt"
	"net"
	"net/http"
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

// Server is one `stacyvm serve` on a data directory of its own. It can be killed and started again.
type Server struct {
	Dir  string // holds the data directory and the log
	Port int
	Env  []string // NAME=VALUE, on top of this process's environment

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

// New prepares a server on a free port; Up starts it.
func New(dir string, env ...string) (*Server, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	return &Server{Dir: dir, Port: port, Env: env, binary: binary}, nil
}

// FreePort gives a TCP port on loopback that nobody listens on.
func FreePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// URL is the server's address.
func (s *Server) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", s.Port) }

// DataDir is where the server keeps everything.
func (s *Server) DataDir() string { return filepath.Join(s.Dir, "data") }

func (s *Server) logPath() string { return filepath.Join(s.Dir, "server.log") }

// Up starts the process and waits until it is ready.
func (s *Server) Up() error {
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(s.binary, "serve")
	s.cmd.Env = append(append(os.Environ(),
		"STACYVM_CONFIG=", "HOME="+s.Dir,
		"STACYVM_DATA_DIR="+s.DataDir(),
		"STACYVM_SERVER_PORT="+strconv.Itoa(s.Port)), s.Env...)
	s.cmd.Dir = s.Dir // no configuration file by accident
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	done, cmd := make(chan struct{}), s.cmd
	s.done = done
	go func() { _ = cmd.Wait(); close(done) }()
	for deadline := time.Now().Add(readyWithin); !s.ready(); time.Sleep(20 * time.Millisecond) {
		if !s.Running() {
			return fmt.Errorf("the server ended at its start:\n%s", s.Log())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server is not ready after %v:\n%s", readyWithin, s.Log())
		}
	}
	return nil
}

func (s *Server) ready() bool {
	response, err := http.Get(s.URL() + "/api/v1/ready")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// Running reports whether the process has not ended.
func (s *Server) Running() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Kill sends the signal and waits for the end of the process.
func (s *Server) Kill(signal syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	_ = s.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-s.done:
		return nil
	case <-time.After(endWithin):
		_ = s.cmd.Process.Kill()
		<-s.done
		return errors.New("the server did not end in time:\n" + s.Log())
	}
}

// Stop ends the server as an operator would.
func (s *Server) Stop() error { return s.Kill(syscall.SIGTERM) }

// Memory gives the process's resident memory in bytes.
func (s *Server) Memory() (int64, error) { return Memory(s.cmd.Process.Pid, "VmRSS:") }

// Log gives the end of what the server wrote.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.logPath())
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
