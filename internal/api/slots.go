package api

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// StreamLimits bound how many streams are open at once on this server: requests that last as long
// as a client, a command or a transfer does. 0: the default.
type StreamLimits struct {
	All    int // of all callers together
	Caller int // of one: an owner of a tenant under one credential or, without a credential, from one address
}

// Defaults of StreamLimits.
const (
	DefaultStreams       = 2048
	DefaultCallerStreams = 1024
)

// maxRequests bounds the requests of every kind that are under way at once. Over HTTP/1 the
// connections are bounded before; one of HTTP/2 carries many requests.
const maxRequests = 4096

// retrySlots is when a request that found no slot should come again, in seconds.
const retrySlots = 5

// slots are what requests under way hold.
type slots struct {
	limits            StreamLimits
	requests, streams *budget.Slots
	lasting           map[string]string // patterns of the mux whose requests are streams, to route.streamWith
}

func newSlots(limits StreamLimits) slots {
	if limits.All == 0 {
		limits.All = DefaultStreams
	}
	if limits.Caller == 0 {
		limits.Caller = DefaultCallerStreams
	}
	return slots{
		limits:   limits,
		requests: budget.NewSlots(maxRequests),
		streams:  budget.NewSlots(limits.All),
		lasting:  map[string]string{},
	}
}

// exceptOthers is what one credential, or one address, may hold of n: the rest stays for others.
func exceptOthers(n int) int { return max(1, n-n/4) }

// hold takes what a request holds while it is under way. A call that is no stream is not refused
// for streams, so that whoever has too many of them can still see and end what they belong to.
func (s *slots) hold(r *http.Request, pattern string) (release func(), err error) {
	if unlimited(r) {
		return func() {}, nil
	}
	credential := middleware.Caller(r)
	done, err := s.requests.Acquire(budget.Quota{Name: credential, Most: exceptOthers(maxRequests)})
	if err != nil {
		return nil, errRequests(err)
	}
	if !s.isStream(r, pattern) {
		return done, nil
	}
	principal := auth.From(r.Context())
	ended, err := s.streams.Acquire(
		budget.Quota{Name: credential, Most: exceptOthers(s.limits.All)},
		budget.Quota{
			Name: strings.Join([]string{credential, principal.Tenant, principal.Subject}, "\x00"),
			Most: s.limits.Caller,
		},
	)
	if err != nil {
		done()
		return nil, s.errStreams(err)
	}
	return func() { ended(); done() }, nil
}

// isStream reports whether a request lasts, read as its handler reads it.
func (s *slots) isStream(r *http.Request, pattern string) bool {
	with, lasts := s.lasting[pattern]
	if lasts && with != "" {
		lasts, _ = strconv.ParseBool(r.URL.Query().Get(with)) // the handler refuses what is none
	}
	return lasts
}

const whatStreams = "uploads, downloads, commands that are waited for, outputs and events that are followed"

func (s *slots) errStreams(err error) error {
	if errors.Is(err, budget.ErrQuota) {
		return stacyvm.Errorf(
			stacyvm.CodeLimit,
			"you have as many streams open on this server as one caller may (%s): end some and try again, "+
				"or raise server.max_streams_per_caller (%d) and server.max_streams (%d)",
			whatStreams,
			s.limits.Caller,
			s.limits.All,
		)
	}
	return stacyvm.Errorf(
		stacyvm.CodeUnavailable,
		"all callers together have %d streams open on this server (%s): try again, "+
			"or raise server.max_streams",
		s.limits.All,
		whatStreams,
	)
}

func errRequests(err error) error {
	if errors.Is(err, budget.ErrQuota) {
		return stacyvm.Errorf(
			stacyvm.CodeLimit,
			"you have %d requests under way on this server: wait for some of them and try again",
			exceptOthers(maxRequests),
		)
	}
	return stacyvm.Errorf(stacyvm.CodeUnavailable, "the server has %d requests under way: try again", maxRequests)
}
