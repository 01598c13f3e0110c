package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	bootTime = 10 * time.Minute // without KVM, beside other load
	stepTime = 40 * time.Minute
	memory   = "3072" // MiB
	cores    = "2"
)

// machine is a virtual machine. Its disk outlives a power cut.
type machine struct {
	o      options
	qemu   *exec.Cmd
	cancel context.CancelFunc
	serial string // file: what the machine writes to its serial port, also in the moment before its power is cut

	mu      sync.Mutex
	conn    net.Conn
	next    int
	answers map[int]chan answer
}

type answer struct {
	status int
	output string
}

// newMachine makes the disks: a copy of the image, and one with what is installed.
func newMachine(ctx context.Context, o options) (*machine, error) {
	if err := os.MkdirAll(o.work, 0o755); err != nil {
		return nil, err
	}
	m := &machine{o: o, serial: filepath.Join(o.work, "serial.log")}
	payload := filepath.Join(o.work, "payload")
	if err := errors.Join(os.RemoveAll(payload), os.MkdirAll(payload, 0o755)); err != nil {
		return nil, err
	}
	for name, from := range map[string]string{"old.deb": o.old, "new.deb": o.new} {
		if err := copySparse(ctx, from, filepath.Join(payload, name)); err != nil {
			return nil, err
		}
	}
	pack := exec.CommandContext(ctx, "tar", "-C", payload, "-b", "128", "-cf", m.file("payload.tar"), "old.deb", "new.deb")
	if output, err := pack.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, output)
	}
	if _, err := os.Stat(m.file("disk.ext4")); err != nil || !o.keep {
		return m, errors.Join(os.RemoveAll(m.serial), copySparse(ctx, filepath.Join(o.image, "base.ext4"), m.file("disk.ext4")))
	}
	return m, nil
}

func (m *machine) file(name string) string { return filepath.Join(m.o.work, name) }

// boot starts the machine and returns when it runs commands.
func (m *machine) boot(ctx context.Context) error {
	khz, err := clockRate()
	if err != nil {
		return err
	}
	socket := m.file("agent.sock")
	_ = os.Remove(socket)
	log, err := os.OpenFile(m.file("qemu.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	var running context.Context
	running, m.cancel = context.WithCancel(context.WithoutCancel(ctx)) // it outlives the step that starts it
	m.qemu = exec.CommandContext(running, "qemu-system-x86_64", "-M", "microvm", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-m", memory, "-smp", cores, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(m.o.image, "vmlinux"), "-initrd", filepath.Join(m.o.image, "initrd.cpio"),
		// Without the clock's rate one boot in three hangs while the kernel measures it.
		"-append", "console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz="+khz,
		"-chardev", "file,id=serial,append=on,path="+m.serial, "-serial", "chardev:serial",
		"-chardev", "socket,id=agent,server=on,wait=off,path="+socket,
		"-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name=agent",
		"-drive", "id=d0,format=raw,if=none,file="+m.file("disk.ext4"), "-device", "virtio-blk-device,drive=d0",
		"-drive", "id=d1,format=raw,if=none,readonly=on,file="+m.file("payload.tar"), "-device", "virtio-blk-device,drive=d1")
	m.qemu.Stdout, m.qemu.Stderr = log, log
	if err := m.qemu.Start(); err != nil {
		return err
	}
	deadline, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	if err := m.connect(deadline, socket); err != nil {
		return err
	}
	// Disks are numbered as the kernel finds them; the payload is a tar file from its first byte
	// on.
	script := `systemctl is-system-running --wait; mkdir -p /payload
for disk in /dev/vda /dev/vdb; do tar -C /payload -xf $disk 2>/dev/null; done; [ -e /payload/new.deb ]`
	output, status, err := m.run(deadline, script)
	if err == nil && status != 0 {
		err = fmt.Errorf("the machine does not come up: %s", output)
	}
	return err
}

func clockRate() (string, error) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "cpu MHz" {
			mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return strconv.Itoa(int(mhz * 1000)), err
		}
	}
	return "", errors.New("/proc/cpuinfo does not tell the clock's rate")
}

// connect waits for QEMU's end of the control channel. The agent in the machine may come up later:
// what is sent waits for it.
func (m *machine) connect(ctx context.Context, socket string) error {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			m.mu.Lock()
			m.conn, m.answers = conn, map[int]chan answer{}
			m.mu.Unlock()
			go m.listen(conn)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// listen hands answers to those who wait for them until the machine is gone.
func (m *machine) listen(conn net.Conn) {
	reader := bufio.NewReaderSize(conn, 1<<20)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			break
		}
		var number, status int
		var text string
		if n, _ := fmt.Sscanf(line, "%d %d %s", &number, &status, &text); n < 2 {
			continue
		}
		output, _ := base64.StdEncoding.DecodeString(text)
		m.mu.Lock()
		waiting := m.answers[number]
		delete(m.answers, number)
		m.mu.Unlock()
		if waiting != nil {
			waiting <- answer{status, string(output)}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, waiting := range m.answers {
		close(waiting)
	}
	m.answers = nil
}

var errPower = errors.New("the machine is off")

// run runs a script with bash in the machine, and gives what it wrote and its status.
func (m *machine) run(ctx context.Context, script string) (output string, status int, err error) {
	wait := make(chan answer, 1)
	m.mu.Lock()
	m.next++
	number := m.next
	if m.answers == nil {
		m.mu.Unlock()
		return "", 0, errPower
	}
	m.answers[number] = wait
	_, err = fmt.Fprintf(m.conn, "%d %s\n", number, base64.StdEncoding.EncodeToString([]byte(script)))
	m.mu.Unlock()
	if err != nil {
		return "", 0, err
	}
	select {
	case a, ok := <-wait:
		if !ok {
			return "", 0, errPower
		}
		return a.output, a.status, nil
	case <-ctx.Done():
		return "", 0, fmt.Errorf("no end: %w", ctx.Err())
	}
}

// powerOff takes the machine's power away: nothing is written any more.
func (m *machine) powerOff() {
	if m.cancel != nil {
		m.cancel()
		_ = m.qemu.Wait()
		m.cancel = nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
}
