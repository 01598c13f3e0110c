package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// inBubble runs f with a client of a server whose connections live in memory, so that time is the
// bubble's.
func inBubble(t *testing.T, handler http.HandlerFunc, f func(t *testing.T, c *client.Client)) {
	t.Helper()
	inBubbleWith(t, 0, handler, f)
}

// inBubbleWith is inBubble of a client that has at most so many connections; 0: any number.
func inBubbleWith(t *testing.T, most int, handler http.HandlerFunc, f func(t *testing.T, c *client.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		conns, done := make(chan net.Conn), make(chan struct{})
		base, end := context.WithCancel(context.Background())
		server := &http.Server{Handler: handler, BaseContext: func(net.Listener) context.Context { return base }}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(memory{conns, done}) }()
		transport := &http.Transport{MaxConnsPerHost: most, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			here, there := net.Pipe()
			select {
			case conns <- there:
				return here, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		c, err := client.New("http://localhost", client.Options{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatal(err)
		}
		f(t, c)
		end()
		transport.CloseIdleConnections()
		time.Sleep(time.Second) // the server lingers on connections that it ends
		_ = server.Close()
		<-served
	})
}

// memory is a listener of connections in memory.
type memory struct {
	conns chan net.Conn
	done  chan struct{}
}

func (m memory) Accept() (net.Conn, error) {
	select {
	case conn := <-m.conns:
		return conn, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}
func (m memory) Close() error { close(m.done); return nil }
func (memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// stopped is a server that takes requests and does nothing.
func stopped(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// TestAStoppedServerIsNoticed by every kind of call, within two minutes.
func TestAStoppedServerIsNoticed(t *testing.T) {
	calls := map[string]func(context.Context, *client.Client) error{
		"list": func(ctx context.Context, c *client.Client) error { _, err := c.Sandboxes(ctx); return err },
		"start": func(ctx context.Context, c *client.Client) error {
			_, err := c.Start(ctx, "sb", client.ExecRequest{})
			return err
		},
		"exec": func(ctx context.Context, c *client.Client) error {
			_, err := c.Exec(ctx, "sb", client.ExecRequest{})
			return err
		},
		"spawn": func(ctx context.Context, c *client.Client) error {
			_, err := c.Spawn(ctx, client.SpawnRequest{})
			return err
		},
		"wait":     func(ctx context.Context, c *client.Client) error { _, err := c.Wait(ctx, "sb", "p"); return err },
		"download": func(ctx context.Context, c *client.Client) error { _, err := c.Download(ctx, "sb", "/f"); return err },
		"upload": func(ctx context.Context, c *client.Client) error {
			_, err := c.Upload(ctx, "sb", "/f", strings.NewReader(strings.Repeat("x", 1<<20)), client.UploadOptions{})
			return err
		},
		"output": func(ctx context.Context, c *client.Client) (last error) {
			for _, last = range c.Output(ctx, "sb", "p", client.OutputRequest{}) {
			}
			return last
		},
		"events": func(ctx context.Context, c *client.Client) (last error) {
			for _, last = range c.Events(ctx, client.EventsRequest{}) {
			}
			return last
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			inBubble(t, stopped, func(t *testing.T, c *client.Client) {
				began := time.Now()
				err := call(t.Context(), c)
				if took := time.Since(began); !errors.Is(err, client.ErrSilent) || took > 2*time.Minute {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

// TestAServerThatStopsHalfWay: what has begun does not wait without end either.
func TestAServerThatStopsHalfWay(t *testing.T) {
	for name, answer := range map[string]string{"list": `[{"id":`, "output": `{"type":"keepalive"}` + "\n", "events": ":\nid: evt-1\n\n"} {
		t.Run(name, func(t *testing.T) {
			var dead atomic.Bool
			handler := func(w http.ResponseWriter, r *http.Request) {
				for range 8 {
					if !dead.Load() && r.URL.Path != "/api/v1/health" {
						_, _ = io.WriteString(w, answer)
						_ = http.NewResponseController(w).Flush()
						time.Sleep(15 * time.Second)
					}
				}
				dead.Store(true)
				<-r.Context().Done()
			}
			inBubble(t, handler, func(t *testing.T, c *client.Client) {
				var err error
				began := time.Now()
				switch name {
				case "list":
					_, err = c.Sandboxes(t.Context())
				case "output":
					for _, err = range c.Output(t.Context(), "sb", "p", client.OutputRequest{}) {
					}
				case "events":
					for _, err = range c.Events(t.Context(), client.EventsRequest{}) {
					}
				}
				if took := time.Since(began); !errors.Is(err, client.ErrSilent) || took < 2*time.Minute || took > 4*time.Minute {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

// TestALongQuietCallIsLeftAlone: a command, a download and a wait say nothing for hours, and the
// server lives.
func TestALongQuietCallIsLeftAlone(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/health" {
			w.WriteHeader(http.StatusTooManyRequests) // any word is one
			return
		}
		if strings.HasSuffix(r.URL.Path, "/files") {
			_, _ = io.WriteString(w, "{")
			_ = http.NewResponseController(w).Flush()
		}
		time.Sleep(3 * time.Hour)
		_, _ = io.WriteString(w, "{}")
	}
	inBubble(t, handler, func(t *testing.T, c *client.Client) {
		if _, err := c.Exec(t.Context(), "sb", client.ExecRequest{}); err != nil {
			t.Error(err)
		}
		if _, err := c.Wait(t.Context(), "sb", "p"); err != nil {
			t.Error(err)
		}
		if _, err := c.Stat(t.Context(), "sb", "/f"); err != nil { // a guest may be slow to answer anything
			t.Error(err)
		}
		if err := c.Signal(t.Context(), "sb", "p", "TERM"); err != nil {
			t.Error(err)
		}
		if _, err := c.Stats(t.Context(), "sb"); err != nil {
			t.Error(err)
		}
		body, err := c.Download(t.Context(), "sb", "/f")
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(body); err != nil || string(text) != "{{}" {
			t.Errorf("%q, %v", text, err)
		}
		_ = body.Close()
	})
}

// TestASessionSurvivesAPause: a wait, and input, go on where a server or the way to it stood still
// for less than the client's patience.
func TestASessionSurvivesAPause(t *testing.T) {
	calls := map[string]func(context.Context, *client.Client) error{
		"wait": func(ctx context.Context, c *client.Client) error { _, err := c.Wait(ctx, "sb", "p"); return err },
		"input": func(ctx context.Context, c *client.Client) error {
			return c.Input("sb", "p", 0).Write(ctx, []byte("x"))
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			var began time.Time
			handler := func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(40*time.Second - time.Since(began))
				_, _ = io.WriteString(w, `{"received":1}`)
			}
			inBubble(t, handler, func(t *testing.T, c *client.Client) {
				began = time.Now()
				if err := call(t.Context(), c); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestAQuietCallOnTheOnlyConnection: a call that holds the last connection that its client may
// have is no sign of a silent server.
func TestAQuietCallOnTheOnlyConnection(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/health" {
			select {
			case <-time.After(3 * time.Hour):
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, "{}")
	}
	inBubbleWith(t, 1, handler, func(t *testing.T, c *client.Client) {
		if _, err := c.Exec(t.Context(), "sb", client.ExecRequest{}); err != nil {
			t.Error(err)
		}
	})
}

// TestARestartAfterHoursOfQuiet: output that was quiet for hours, and whose connection breaks
// then, is read on.
func TestARestartAfterHoursOfQuiet(t *testing.T) {
	var connections atomic.Int32
	handler := func(w http.ResponseWriter, _ *http.Request) {
		if connections.Add(1) == 2 {
			_, _ = io.WriteString(w, `{"stream":"stdout","data":"","exit_code":7}`+"\n")
			return
		}
		for range 4 * 60 * 2 {
			_, _ = io.WriteString(w, `{"type":"keepalive"}`+"\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(15 * time.Second)
		}
		panic(http.ErrAbortHandler)
	}
	inBubble(t, handler, func(t *testing.T, c *client.Client) {
		for event, err := range c.Output(t.Context(), "sb", "p", client.OutputRequest{}) {
			if err != nil || event.Exit == nil || event.Exit.Code != 7 {
				t.Errorf("%+v, %v", event, err)
			}
		}
	})
}

// TestAShortCallBehindALongOne waits for the only connection; its time begins when it has it.
func TestAShortCallBehindALongOne(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/exec") {
			time.Sleep(time.Hour)
		}
		_, _ = io.WriteString(w, map[bool]string{true: "[]", false: "{}"}[strings.HasSuffix(r.URL.Path, "/sandboxes")])
	}
	inBubbleWith(t, 1, handler, func(t *testing.T, c *client.Client) {
		long := make(chan error)
		go func() {
			_, err := c.Exec(t.Context(), "sb", client.ExecRequest{})
			long <- err
		}()
		synctest.Wait()
		_, err := c.Sandboxes(t.Context())
		if err := errors.Join(err, <-long); err != nil {
			t.Error(err)
		}
	})
}
