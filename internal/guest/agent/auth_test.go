package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/testneed"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// TestUnauthenticated tries every procedure of the protocol with wrong secrets.
func TestUnauthenticated(t *testing.T) {
	h := newHost(t)
	services := guestv1.File_guest_v1_guest_proto.Services()
	tried := 0
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			tried++
			path := "/" + string(services.Get(i).FullName()) + "/" + string(methods.Get(j).Name())
			for _, header := range []string{"", "Bearer", "Bearer ", "Bearer wrong", h.secret, "Basic " + h.secret, "Bearer " + h.secret + "x", "bearer " + h.secret[1:]} {
				for _, contentType := range []string{"application/proto", "application/connect+proto", "application/grpc", "text/plain"} {
					wantRefused(t, h.http, path, header, contentType)
				}
			}
		}
	}
	if tried < 20 {
		t.Errorf("only %d procedures", tried)
	}
	wantRefused(t, h.http, "/", "", "text/plain")
}

func wantRefused(t *testing.T, client *http.Client, path, header, contentType string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://guest"+path, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	response, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	grpc := response.Header.Get("Grpc-Status") + response.Trailer.Get("Grpc-Status")
	if response.StatusCode != http.StatusUnauthorized && !strings.Contains(string(body), "unauthenticated") && grpc != "16" {
		t.Errorf("%s %s with %q: %d %s %s", path, contentType, header, response.StatusCode, body, grpc)
	}
}

func TestRotate(t *testing.T) {
	h := newHost(t)
	w := h.watch(t, &guestv1.StartRequest{Argv: []string{"cat"}, Stdin: true})
	id := w.id()
	for _, bad := range []string{"", "short", strings.Repeat("x", longestSecret+1)} {
		_, err := h.system.Rotate(t.Context(), connect.NewRequest(&guestv1.RotateRequest{Secret: bad}))
		wantCode(t, err, connect.CodeInvalidArgument)
	}
	fresh := string(guest.NewSecret())
	if _, err := h.system.Rotate(t.Context(), connect.NewRequest(&guestv1.RotateRequest{Secret: fresh})); err != nil {
		t.Fatal(err)
	}
	_, err := h.system.Ping(t.Context(), connect.NewRequest(&guestv1.PingRequest{}))
	wantCode(t, err, connect.CodeUnauthenticated)
	h.secret = fresh
	h.connect(t)
	if _, err := h.input(t, id, "still here", nil, true); err != nil {
		t.Error(err)
	}
	if w.untilExit(); string(w.stdout) != "still here" {
		t.Errorf("the open stream got %q", w.stdout)
	}
}

func TestNewRefusesWeakSecret(t *testing.T) {
	for _, secret := range []guest.Secret{"", "short"} {
		if a, err := New(Config{Root: "/", SpillDir: t.TempDir()}, guest.Boot{Secret: secret}); err == nil {
			t.Error("accepted", len(secret))
			a.Close()
		}
	}
}

// port serves the agent on loopback, as in a sandbox.
func (h *host) port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestStrangersCannotFillThePort opens more connections than there is room for; the host still
// gets in, and stays.
func TestStrangersCannotFillThePort(t *testing.T) {
	testneed.Patience(t)
	h := newHost(t)
	address := h.port(t)
	client := httpClient(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	})
	defer client.CloseIdleConnections()
	system := guestv1connect.NewSystemServiceClient(client, "http://guest", connect.WithInterceptors(bearer(h.secret)))
	ping := func() string {
		response, err := system.Ping(t.Context(), connect.NewRequest(&guestv1.PingRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return response.Msg.BootId
	}
	first := ping()
	var strangers []net.Conn
	for range 3 * mostWaiting {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		strangers = append(strangers, conn)
	}
	if first != ping() {
		t.Error("the boot id changed")
	}
	closed := 0
	for _, conn := range strangers {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 64)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			closed++
		}
	}
	if closed != len(strangers) {
		t.Errorf("%d of %d strangers were sent away", closed, len(strangers))
	}
	if first != ping() {
		t.Error("the boot id changed")
	}
}
