package workerd

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/space"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker/member"
)

// work is one worker process.
type work struct {
	id       stacyvm.WorkerID
	config   config.Config
	log      *slog.Logger
	held     *flock.Lock
	node     node.Node
	guard    *space.Guard
	identity *identity
	listener net.Listener // nil: none
	http     *http.Server
	streams  context.CancelFunc // ends long calls
	rpcURL   string
	member   *member.Member
	ready    func(Working)
}
