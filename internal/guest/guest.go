// Package guest is the host's side of the guest program: the boot message, the connection, a
// client with bounded decoding. It knows nothing of engines, stores or transports. Whatever a
// guest says is untrusted.
package guest

import (
	"crypto/rand"
	"log/slog"
	"net/http"
)

// Secret authorises requests to one guest. It prints as [redacted].
type Secret string

// NewSecret makes a secret with 256 random bits.
func NewSecret() Secret { return Secret(rand.Text() + rand.Text()) }

// String hides the secret from fmt.
func (Secret) String() string { return "[redacted]" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "[redacted]" }

// LogValue hides the secret from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Port is where the guest program listens on the sandbox's loopback for a host that lost its first
// connection.
const Port = 49983

// Scope limits what a connection may be used for.
type Scope string

const (
	// ScopeExec opens processes and ports.
	ScopeExec Scope = "exec"
	// ScopeFiles opens the file service.
	ScopeFiles Scope = "files"
	// ScopeLogs opens the log service.
	ScopeLogs Scope = "logs"
)

// Doer sends one HTTP request; *http.Client and a worker's proxy do.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Conn reaches one guest's services. It is cheap to copy and safe for concurrent use.
type Conn struct {
	HTTP Doer
	URL  string // base URL of the services
}
