// Command agent is the smallest guest program: it takes the boot message on descriptor 3 and then answers every line, there
// on those that it is handed and on the guest port, with what it sees: a command's output, or the line itself.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/guest/agent"
)

func main() {
	first := os.NewFile(3, "host")
	_, ack, err := guest.ReceiveBoot(first)
	if err != nil {
		os.Exit(1)
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", guest.Port))
	if err != nil {
		os.Exit(2)
	}
	passed, err := agent.ListenPassed(5)
	if err != nil {
		os.Exit(5)
	}
	go accept(listener)
	go accept(passed)
	if err := ack(); err != nil {
		os.Exit(4)
	}
	serve(first)
	select {}
}

func accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			os.Exit(3)
		}
		go serve(conn)
	}
}

func serve(conn io.ReadWriteCloser) {
	defer conn.Close()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		line := lines.Text()
		if script, ok := strings.CutPrefix(line, "sh "); ok {
			output, err := exec.Command("/bin/sh", "-c", script).CombinedOutput()
			line = fmt.Sprintf("%s[%v]", strings.ReplaceAll(string(output), "\n", "|"), err)
		}
		if line == "exit" {
			os.Exit(0)
		}
		fmt.Fprintln(conn, line)
	}
}
