package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dialWithin = 2 * time.Second
	// linkPrefix begins the names of what is made here; the id of the process that made it
	// follows.
	linkPrefix = "svt"
)

// Network is a bridge on this machine with network namespaces behind it, each of which stands for
// a machine. It needs root.
type Network struct {
	Address  string // of this machine, toward the others
	Machines []*Machine
	bridge   string
}

// Machine is a network namespace with a cable to the bridge.
type Machine struct {
	Address   string
	namespace string
	cable     string // its end on this machine
}

var networks atomic.Int32

// NewNetwork lays the cables of so many machines. Close takes everything away; what a killed
// process left is taken away now.
func NewNetwork(machines int) (*Network, error) {
	sweep()
	subnet, err := freeSubnet()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s%d%c", linkPrefix, os.Getpid(), 'a'+networks.Add(1)%26)
	n := &Network{Address: subnet + ".1", bridge: name + "b"}
	steps := []string{"link add " + n.bridge + " type bridge", "addr add " + n.Address + "/24 dev " + n.bridge, "link set " + n.bridge + " up"}
	for i := range machines {
		m := &Machine{Address: fmt.Sprintf("%s.%d", subnet, 10+i), namespace: fmt.Sprintf("%sn%d", name, i), cable: fmt.Sprintf("%sh%d", name, i)}
		n.Machines = append(n.Machines, m)
		inner := fmt.Sprintf("%sw%d", name, i)
		steps = append(steps, "netns add "+m.namespace, "link add "+m.cable+" type veth peer name "+inner,
			"link set "+inner+" netns "+m.namespace, "link set "+m.cable+" master "+n.bridge, "link set "+m.cable+" up",
			"-n "+m.namespace+" addr add "+m.Address+"/24 dev "+inner, "-n "+m.namespace+" link set "+inner+" up", "-n "+m.namespace+" link set lo up")
	}
	for _, step := range steps {
		if err := ip(step); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

// Close removes the namespaces and the bridge; a cable goes with its namespace.
func (n *Network) Close() error {
	var failed []error
	for _, m := range n.Machines {
		if _, err := os.Stat(m.path()); err == nil {
			failed = append(failed, ip("netns del "+m.namespace))
		}
	}
	if _, err := net.InterfaceByName(n.bridge); err == nil {
		failed = append(failed, ip("link del "+n.bridge))
	}
	return errors.Join(failed...)
}

// Cut pulls the machine's cable: packets vanish in both directions, nobody is told.
func (m *Machine) Cut() error { return ip("link set " + m.cable + " down") }

// Heal plugs the cable in again.
func (m *Machine) Heal() error { return ip("link set " + m.cable + " up") }

// Dial connects from within the machine, which works without its cable, too.
func (m *Machine) Dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = m.inside(func() error {
		conn, err = (&net.Dialer{Timeout: dialWithin}).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

func (m *Machine) path() string { return filepath.Join("/run/netns", m.namespace) }

// inside runs do on a thread that is in the machine's network: sockets and processes that it makes
// are there.
func (m *Machine) inside(do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		result <- func() error {
			namespace, err := os.Open(m.path())
			if err != nil {
				return err
			}
			defer namespace.Close()
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", m.namespace, err)
			}
			return do()
		}()
	}()
	return <-result
}

func ip(step string) error {
	if text, err := exec.Command("ip", strings.Fields(step)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", step, err, text)
	}
	return nil
}

// freeSubnet gives the first three numbers of one that no interface is in.
func freeSubnet() (string, error) {
	taken, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for i := range 200 {
		subnet := fmt.Sprintf("10.201.%d", 1+(os.Getpid()+i)%250)
		free := true
		for _, address := range taken {
			free = free && !strings.HasPrefix(address.String(), subnet+".")
		}
		if free {
			return subnet, nil
		}
	}
	return "", errors.New("no subnet of 10.201.0.0/16 is free")
}

// sweep removes what processes left that are no longer there. It may fail: the names are not used
// again.
func sweep() {
	namespaces, _ := filepath.Glob(filepath.Join("/run/netns", linkPrefix+"*"))
	for _, path := range namespaces {
		if name := filepath.Base(path); abandoned(name) {
			_ = ip("netns del " + name)
		}
	}
	links, _ := net.Interfaces()
	for _, link := range links {
		if abandoned(link.Name) {
			_ = ip("link del " + link.Name)
		}
	}
}

// abandoned reports whether a name is of ours and its maker has gone.
func abandoned(name string) bool {
	rest, ours := strings.CutPrefix(name, linkPrefix)
	digits := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if !ours || digits < 1 {
		return false
	}
	pid, err := strconv.Atoi(rest[:digits])
	return err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
