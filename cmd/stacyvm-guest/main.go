// Command stacyvm-guest is process 1 of every sandbox. It finds its host's connection on
// descriptor 3, takes the boot message from it and then serves there and, for a host that lost
// that connection, on a port of the sandbox's loopback.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/guest/agent"
)

const (
	hostDescriptor = 3
	oomDescriptor  = 4 // a pipe, where the engine watches the memory
	// acceptDescriptor is a socket over which the host passes more connections, where the engine
	// can.
	acceptDescriptor = 5
	// freezeOption is the prctl(2) by which the engine's kernel stops all processes but this one,
	// and lets them go on. Other kernels do not know it.
	freezeOption = 0x53564d01
	spillDir     = "/var/lib/stacyvm/output"
	// listenPause is the time between two tries to listen again, when the kernel has no memory for
	// a connection.
	listenPause = time.Second
)

func main() {
	printVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *printVersion {
		fmt.Println(version())
		return
	}
	fmt.Fprintln(os.Stderr, "stacyvm-guest:", run())
	os.Exit(1)
}

// run only returns when it could not begin, with the reason.
func run() error {
	// Before there is a secret: nobody reads this process's memory, descriptors or environment,
	// root included, because a sandbox has no CAP_SYS_PTRACE.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid looking into this process: %w", err)
	}
	unix.CloseOnExec(hostDescriptor)
	passed, err := passedConns()
	if err != nil {
		return err
	}
	unix.Umask(0o022)
	saveMemory()
	keepRunning()
	if err := withholdCapabilities(); err != nil {
		return err
	}
	host, err := connection(hostDescriptor)
	if err != nil {
		return err
	}
	boot, ack, err := guest.ReceiveBoot(host)
	if err != nil {
		return err
	}
	a, err := agent.New(
		agent.Config{
			Root:       "/",
			SpillDir:   spillDir,
			Version:    version(),
			Init:       true,
			OOMReports: oomReports(),
			Freeze:     freeze,
		},
		boot,
	)
	if err != nil {
		return err
	}
	ctx := context.Background()
	listener, err := listen(ctx)
	if err != nil {
		return err
	}
	if err := ack(); err != nil {
		return err
	}
	go func() { _ = a.ServeConn(ctx, host) }() // the host comes back through the port
	if passed != nil {
		go func() { _ = a.ServeHost(ctx, passed) }()
	}
	for {
		_ = a.Serve(ctx, listener)
		time.Sleep(listenPause)
		if again, err := listen(ctx); err == nil {
			listener = again
		}
	}
}

// passedConns gives the listener that this process was born with; nil: it has none.
func passedConns() (net.Listener, error) {
	if mode, err := descriptorMode(acceptDescriptor); err != nil || mode != unix.S_IFSOCK {
		return nil, nil //nolint:nilerr,nilnil // the descriptor is not open: the port will do
	}
	return agent.ListenPassed(acceptDescriptor)
}

// descriptorMode gives the kind of file that a descriptor is.
func descriptorMode(fd int) (uint32, error) {
	var stat unix.Stat_t
	err := unix.Fstat(fd, &stat)
	return stat.Mode & unix.S_IFMT, err
}

// oomReports gives the pipe that this process was born with; 0: it has none.
func oomReports() int {
	if mode, err := descriptorMode(oomDescriptor); err != nil || mode != unix.S_IFIFO {
		return 0
	}
	return oomDescriptor
}

// freeze lets all other processes stand still, or go on.
func freeze(still bool) error {
	var argument uintptr
	if still {
		argument = 1
	}
	return unix.Prctl(freezeOption, argument, 0, 0, 0)
}

func listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", guest.Port))
}

// saveMemory trades processor time of the garbage collector, of which the agent makes little use,
// for a small idle size.
func saveMemory() {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(192 << 20) // soft; rings are bounded far below
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
