package cli

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestNotifyReady(t *testing.T) {
	for name, address := range map[string]string{"file": filepath.Join(t.TempDir(), "notify"), "abstract": "@stacyvm-test-" + t.Name()} {
		t.Run(name, func(t *testing.T) {
			socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			t.Setenv("NOTIFY_SOCKET", address)
			if err := notifyReady(); err != nil {
				t.Fatal(err)
			}
			message := make([]byte, 64)
			if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := socket.Read(message)
			if err != nil || string(message[:n]) != "READY=1" {
				t.Errorf("told %q, %v", message[:n], err)
			}
			if _, set := os.LookupEnv("NOTIFY_SOCKET"); set {
				t.Error("the variable goes on to children")
			}
		})
	}
	t.Run("nobody", func(t *testing.T) {
		t.Setenv("NOTIFY_SOCKET", "")
		if err := notifyReady(); err != nil {
			t.Error(err)
		}
	})
}
