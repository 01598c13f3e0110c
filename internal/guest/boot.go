package guest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// Boot is the first message to a guest program: it comes before any process of the guest exists.
type Boot struct {
	Secret Secret
	// Limits of the guest program's own buffers; 0 means its default.
	RingBytes  uint64 // memory per output stream (1 MiB)
	SpillBytes uint64 // file per output stream (64 MiB)
	// Env is given to every process, below what a start request says.
	Env map[string]string
	// User and Workdir are what the image asks for. They count where a request names none; empty:
	// root and /workspace. User is "name", "uid" or either with ":group" or ":gid", and is looked
	// up inside the sandbox.
	User    string
	Workdir string
}

// bootWire is Boot on the wire; Secret does not marshal itself.
type bootWire struct {
	Secret     string            `json:"secret"`
	RingBytes  uint64            `json:"ring_bytes,omitempty"`
	SpillBytes uint64            `json:"spill_bytes,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	User       string            `json:"user,omitempty"`
	Workdir    string            `json:"workdir,omitempty"`
}

const maxBoot = 1 << 20

// bootAck answers a boot message: the guest listens now.
const bootAck = "stacyvm-guest/1\n"

// SendBoot hands boot over on the guest's first connection and waits for its answer. Afterwards
// the same connection carries HTTP/2. Bound it with the connection's deadline.
func SendBoot(rw io.ReadWriter, boot Boot) error {
	body, err := json.Marshal(
		bootWire{string(boot.Secret), boot.RingBytes, boot.SpillBytes, boot.Env, boot.User, boot.Workdir},
	)
	if err != nil {
		return fmt.Errorf("encode boot message: %w", err)
	}
	if len(body) > maxBoot {
		return fmt.Errorf("boot message of %d bytes is over %d", len(body), maxBoot)
	}
	message := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, err := rw.Write(append(message, body...)); err != nil {
		return fmt.Errorf("send boot message: %w", err)
	}
	ack := make([]byte, len(bootAck))
	if _, err := io.ReadFull(rw, ack); err != nil {
		return fmt.Errorf("wait for the guest: %w", err)
	}
	if string(ack) != bootAck {
		return fmt.Errorf("unknown guest answer %q", ack)
	}
	return nil
}

// ReceiveBoot is the guest's half of SendBoot; call ack once the guest can answer requests.
func ReceiveBoot(rw io.ReadWriter) (boot Boot, ack func() error, err error) {
	var size [4]byte
	if _, err := io.ReadFull(rw, size[:]); err != nil {
		return Boot{}, nil, fmt.Errorf("read boot message: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxBoot {
		return Boot{}, nil, fmt.Errorf("boot message of %d bytes is over %d", n, maxBoot)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(rw, body); err != nil {
		return Boot{}, nil, fmt.Errorf("read boot message: %w", err)
	}
	var wire bootWire
	if err := json.Unmarshal(body, &wire); err != nil {
		return Boot{}, nil, fmt.Errorf("decode boot message: %w", err)
	}
	ack = func() error {
		_, err := io.WriteString(rw, bootAck)
		return err
	}
	return Boot{Secret(wire.Secret), wire.RingBytes, wire.SpillBytes, wire.Env, wire.User, wire.Workdir}, ack, nil
}
