package remote

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
	"github.com/stacyvm/stacyvm/proto/worker/v1/workerv1connect"
)

const (
	workerHeader  = "X-Worker-ID"
	requestHeader = "X-Request-ID"
	// maxMessage is the largest message in either direction, in bytes.
	maxMessage = 4 << 20
)

// ServerConfig is what a handler answers for.
type ServerConfig struct {
	Worker worker.Worker
	ID     stacyvm.WorkerID
	// Verifier judges credentials: audience RPC, this worker alone.
	Verifier *auth.WorkerVerifier
	// Gate says whether this worker may still act for its sandboxes; nil: always. Its error,
	// CodeLeaseLost, is the answer to every call that is for a sandbox: none begins.
	Gate func() error
	// Confirm asks whether a fence that is higher than any confirmed is really the sandbox's; nil:
	// it is. CodeNotFound, CodeConflict and CodeStaleEpoch are a no, which reads CodeStaleEpoch to
	// the caller; other errors are passed on.
	Confirm func(context.Context, stacyvm.Ref) error
	// Draining refuses creates with CodeUnavailable; nil: never.
	Draining func() bool
	Logger   *slog.Logger // nil: none
}

// server answers for one worker.
type server struct {
	ServerConfig
	confirmed confirmations
	refusals  *connect.ErrorWriter
	buffers   httputil.BufferPool
}

// NewHandler makes the handler of a worker's listener. It needs HTTP/2; set the server up with
// Tune.
func NewHandler(config ServerConfig) http.Handler {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &server{ServerConfig: config, refusals: connect.NewErrorWriter(), buffers: newBuffers()}
	s.confirmed.ask = config.Confirm
	options := connect.WithHandlerOptions(
		connect.WithReadMaxBytes(maxMessage), connect.WithSendMaxBytes(maxMessage),
		connect.WithCompression("gzip", nil, nil), // never: a small bomb becomes a large message
	)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	path, service := workerv1connect.NewWorkerServiceHandler(calls{s}, options)
	mux.Handle(path, s.identified(withControl(service)))
	mux.Handle("/guest/{sandbox}/{incarnation}/{epoch}/{service}/{method}", s.identified(http.HandlerFunc(s.guest)))
	path, port := guestv1connect.NewPortServiceHandler(ports{s}, options)
	mux.Handle("/port/{sandbox}/{incarnation}/{epoch}"+path, s.identified(s.port(port)))
	return mux
}

// health tells who answers here, to everybody.
func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "ok", "worker_id": s.ID}) // the caller has gone
}

type identityKey struct{}

// identified lets through who shows a good credential for this worker. What it may do depends on
// the method.
func (s *server) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identity, err := s.identify(r)
		if err == nil {
			err = allowed(identity, r.URL.Path)
		}
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, identity)))
	})
}

func (s *server) identify(r *http.Request) (auth.WorkerIdentity, error) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	identity, err := s.Verifier.Verify(auth.WorkerCredential{
		WorkerID: stacyvm.WorkerID(r.Header.Get(workerHeader)), Token: token, Peer: auth.PeerCertificate(r.TLS),
	})
	if err == nil && (identity.WorkerID != s.ID || identity.Audience != auth.AudienceRPC) {
		err = stacyvm.Errorf(stacyvm.CodeUnauthenticated, "the credential is not for this worker")
	}
	return identity, err
}

// refuse answers a request that does not reach its method or its guest.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.log(r, err)
	mark(w.Header(), err)
	if s.refusals.IsSupported(r) {
		_ = s.refusals.Write(w, r, wireError(err)) // the caller has gone
		return
	}
	http.Error(w, "this is not a call", http.StatusBadRequest)
}

// log keeps the cause of an error, which does not cross the wire.
func (s *server) log(r *http.Request, err error) {
	level := slog.LevelDebug
	if code := stacyvm.CodeOf(err); code == stacyvm.CodeInternal && !errors.Is(err, context.Canceled) {
		level = slog.LevelError
	}
	s.Logger.Log(
		r.Context(),
		level,
		"a call failed",
		"id",
		r.Header.Get(requestHeader),
		"path",
		r.URL.Path,
		"error",
		err,
	)
}

// enter admits a call for a sandbox: the worker may act, and the fence is confirmed. Whether it is
// the newest, the worker says.
func (s *server) enter(ctx context.Context, ref stacyvm.Ref) error {
	if !ref.ID.Valid() {
		return stacyvm.Invalid("id", "must be a sandbox id")
	}
	if err := s.open(); err != nil {
		return err
	}
	if err := s.confirmed.confirm(ctx, ref); err != nil {
		return err
	}
	return s.open() // confirming may have taken long
}

func (s *server) open() error {
	if s.Gate == nil {
		return nil
	}
	return s.Gate()
}
