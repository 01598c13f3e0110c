package middleware

import (
	"container/list"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// maxBuckets bounds the memory of a limiter; the one that was used least recently is forgotten.
const maxBuckets = 10_000

// Limit bounds the requests of each credential or, without one, of each peer's address: perMinute
// on average, burst at once. No header that a client chooses freely takes part in the key. Exempt
// requests, such as a load balancer's probes, are not counted.
func Limit(perMinute, burst int, exempt func(*http.Request) bool, fail Fail) Middleware {
	buckets := newBuckets(rate.Limit(float64(perMinute)/60), burst)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if exempt(r) {
				next.ServeHTTP(w, r)
				return
			}
			wait, left := buckets.take(Caller(r), time.Now())
			w.Header().Set("X-RateLimit-Limit", strconv.Itoa(burst))
			w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(left))
			if wait > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
				fail(w, r, stacyvm.Errorf(stacyvm.CodeLimit, "too many requests"))
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Caller is whom a request counts against: its credential or, without one, its peer's address. No
// header that a client chooses freely takes part in it. It comes after Identify.
func Caller(r *http.Request) string {
	if credential := identifiedIn(r.Context()).client.Credential; credential != "" {
		return "key " + credential
	}
	return "peer " + peerOf(r.RemoteAddr)
}

// peerOf is whom an address stands for: with IPv6 its network of 64 bits, as one machine is
// usually given all of it.
func peerOf(address string) string {
	host := hostPart(address)
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap(); ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip.WithZone(""), 64).Masked().String()
}

// hostPart is an address without its port; a Unix socket's has none.
func hostPart(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// buckets is a bounded set of token buckets.
type buckets struct {
	mu     sync.Mutex
	limit  rate.Limit
	burst  int
	byKey  map[string]*list.Element
	recent *list.List // of *bucket, the one used last in front
}

type bucket struct {
	key     string
	limiter *rate.Limiter
}

func newBuckets(limit rate.Limit, burst int) *buckets {
	return &buckets{limit: limit, burst: burst, byKey: map[string]*list.Element{}, recent: list.New()}
}

// take takes one token, or tells how long to wait for it.
func (b *buckets) take(key string, now time.Time) (wait time.Duration, left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	element, ok := b.byKey[key]
	if ok {
		b.recent.MoveToFront(element)
	} else {
		if b.recent.Len() >= maxBuckets {
			oldest := b.recent.Back()
			delete(b.byKey, b.recent.Remove(oldest).(*bucket).key)
		}
		element = b.recent.PushFront(&bucket{key, rate.NewLimiter(b.limit, b.burst)})
		b.byKey[key] = element
	}
	limiter := element.Value.(*bucket).limiter
	reservation := limiter.ReserveN(now, 1)
	switch {
	case !reservation.OK():
		return time.Minute, 0
	case reservation.DelayFrom(now) > 0:
		wait = reservation.DelayFrom(now)
		reservation.CancelAt(now)
		return wait, 0
	}
	return 0, int(limiter.TokensAt(now))
}
