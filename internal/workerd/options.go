package workerd

import (
	"log/slog"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Options say what a worker process is.
type Options struct {
	Config config.Config
	Logger *slog.Logger
	// JoinToken is spent for a certificate when the worker has none; "": none is asked for.
	JoinToken string
	// Authority is the fingerprint of the control plane's authority, for joining; "": the system's
	// authorities decide.
	Authority string
	// AdminKey asks a control plane for tokens of TokenTTL; nil: none is asked for.
	AdminKey auth.Secret
	TokenTTL time.Duration
	// Ready is called once, when the worker acts and sandboxes are placed on it.
	Ready func(Working)
}

// Working is a worker that acts.
type Working struct {
	ID        stacyvm.WorkerID
	RPCURL    string // "": no control plane can use it
	Providers []string
}
