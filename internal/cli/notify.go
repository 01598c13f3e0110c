package cli

import (
	"net"
	"os"
)

// notifyReady tells the service manager that started this process, if one did and wants to know,
// that it serves: see sd_notify(3). The variable goes, as what this process starts has nothing to
// tell.
func notifyReady() error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil {
		return err
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("READY=1"))
	return err
}
