// Package harness starts the built binary as servers and workers for acceptance, system and speed
// tests, on this machine and in network namespaces that stand for others, and looks at what it has
// on the machine. It uses the public client and what the machine shows, nothing from inside.
package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// Server is one `stacyvm serve` on a data directory of its own.
type Server struct {
	Program
	Host string // address that it listens on; empty: loopback
	Port int
	// HTTP reaches a server that speaks TLS; nil: it speaks plain HTTP.
	HTTP *http.Client
}

// New prepares a server on a free port; Up starts it.
func New(dir string, env ...string) (*Server, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	return NewOf(binary, dir, env...)
}

// NewOf is New for a binary of another build.
func NewOf(binary, dir string, env ...string) (*Server, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	return &Server{Program: Program{Dir: dir, Env: env, binary: binary}, Port: port}, nil
}

// FreePort gives a TCP port on loopback that nobody listens on. It gives each port once, and none
// of those that Linux gives to outgoing connections: tests run side by side, and a server that is
// started again finds its port free.
func FreePort() (int, error) {
	var err error
	for range 100 {
		port := 10000 + rand.IntN(20000)
		if _, given := ports.LoadOrStore(port, true); given {
			continue
		}
		var listener net.Listener
		if listener, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("no port is free: %w", err)
}

// ports holds those that FreePort gave.
var ports sync.Map

// URL is the server's address.
func (s *Server) URL() string {
	scheme, host := "http", s.Host
	if s.HTTP != nil {
		scheme = "https"
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(s.Port))
}

// Up starts the process and waits until it is ready.
func (s *Server) Up() error {
	client := s.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	env := []string{"STACYVM_SERVER_PORT=" + strconv.Itoa(s.Port)}
	if s.Host != "" {
		env = append(env, "STACYVM_SERVER_HOST="+s.Host)
	}
	return s.up(func() bool { return answers(client, s.URL()+"/api/v1/ready") }, "serve", env...)
}

// answers reports whether a GET is answered with 200.
func answers(client *http.Client, url string) bool {
	response, err := client.Get(url)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// Worker is one `stacyvm worker` on a data directory of its own.
type Worker struct {
	Program
	ID string
	// Listen is the address and port where it answers control planes.
	Listen string
	// Known reports whether the control planes take it for one that lives.
	Known func() bool
}

// NewWorker prepares a worker; Up starts it.
func NewWorker(dir, id string, env ...string) (*Worker, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	return &Worker{Program: Program{Dir: dir, Env: env, binary: binary}, ID: id}, nil
}

// Up starts the process and waits until control planes know it and it answers them.
func (w *Worker) Up() error {
	return w.up(func() bool { return w.listens() && w.Known() }, "worker",
		"STACYVM_WORKER_ID="+w.ID, "STACYVM_WORKER_LISTEN_ADDR="+w.Listen)
}

func (w *Worker) listens() bool {
	conn, err := net.DialTimeout("tcp", w.Listen, dialWithin)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// Describe names a program's end in a test's message.
func (w *Worker) Describe() string { return fmt.Sprintf("worker %s:\n%s", w.ID, w.Log()) }
