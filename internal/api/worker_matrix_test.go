package api_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// scopeOf names the scope that each of the routes of workers asks for; one that is missing here
// fails the matrix.
var scopeOf = map[string]string{
	"heartbeat": auth.ScopeHeartbeat, "certificate": auth.ScopeHeartbeat,
	"renew-leases": auth.ScopeLease, "renew-lease": auth.ScopeLease, "lease": auth.ScopeLease,
}

// Keys and tokens of the matrix.
const (
	hmacKey    = "an HMAC secret that signs what workers show"
	oldHMACKey = "an HMAC secret that only verifies any more"
	lostKey    = "an HMAC secret that nobody knows any longer"
	sharedKey  = "the shared token of the matrix"
	ownKey     = "the token of one worker alone"
	revokedID  = "ffffffffffffffffffffffffffffffff"
	elsewhere  = "elsewhere" // a worker with a token of its own
	stranger   = "stranger"  // another, without one
	inside     = "inside"    // a worker in a control plane's own process
	unwritten  = "plane"     // the name of the control plane under test, which has no row
)

func ed25519PEM(seed byte) string {
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), ed25519.SeedSize)))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// shown is one row of the matrix: what a worker shows, and whether it is a good credential for
// worker `here` on a route that asks for scope.
type shown struct {
	name          string
	id            stacyvm.WorkerID // X-Worker-ID
	token         string
	certificate   *x509.Certificate
	good          bool
	scopes        []string // that it has, when good
	byCertificate bool
}

// request is what is shown as headers and connection.
func (s shown) put(r *http.Request) {
	if s.id != "" {
		r.Header.Set("X-Worker-ID", string(s.id))
	}
	if s.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.token)
	}
	if s.certificate != nil {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{s.certificate}, VerifiedChains: [][]*x509.Certificate{{s.certificate}}}
	}
}

// wants gives the status of a refusal, 0 when the request gets as far as its route's own answer.
func (s shown) wants(op string, path stacyvm.WorkerID) int {
	switch {
	case !s.good:
		return http.StatusUnauthorized
	case s.id != path, !slices.Contains(s.scopes, scopeOf[op]), op == "certificate" && !s.byCertificate, s.id == inside, s.id == unwritten:
		return http.StatusForbidden
	}
	return 0
}

// token signs one; zero fields of the request are a good one's.
func token(t *testing.T, key string, at time.Time, r auth.WorkerTokenRequest) string {
	t.Helper()
	issuer, err := auth.NewWorkerIssuer(auth.FixedSecret(key), func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	if r.WorkerID == "" {
		r.WorkerID = controltest.Self
	}
	signed, _, err := issuer.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func certificateOf(uri string, serial int64, change func(*x509.Certificate)) *x509.Certificate {
	named, err := url.Parse(uri)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{URIs: []*url.URL{named}, SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if change != nil {
		change(c)
	}
	return c
}

// signedRows are those of one kind of signed tokens.
func signedRows(t *testing.T, kind, active, rotated, retired string) (rows []shown) {
	now := time.Now()
	add := func(name, key string, at time.Time, good bool, scopes []string, r auth.WorkerTokenRequest) {
		r.Scopes = scopes
		if scopes == nil {
			scopes = auth.WorkerScopes()
		}
		rows = append(rows, shown{name: kind + ", " + name, id: controltest.Self, token: token(t, key, at, r), good: good, scopes: scopes})
	}
	add("all scopes", active, now, true, nil, auth.WorkerTokenRequest{})
	for _, scope := range auth.WorkerScopes() {
		add("only "+scope, active, now, true, []string{scope}, auth.WorkerTokenRequest{})
	}
	add("every scope but the lease's", active, now, true, slices.DeleteFunc(auth.WorkerScopes(), func(s string) bool { return s == auth.ScopeLease }), auth.WorkerTokenRequest{})
	add("rotation key", rotated, now, true, nil, auth.WorkerTokenRequest{})
	add("retired key", retired, now, false, nil, auth.WorkerTokenRequest{})
	add("expired", active, now.Add(-10*time.Minute), false, nil, auth.WorkerTokenRequest{TTL: 9 * time.Minute})
	add("from the future", active, now.Add(5*time.Minute), false, nil, auth.WorkerTokenRequest{})
	add("not valid yet", active, now, false, nil, auth.WorkerTokenRequest{TTL: 10 * time.Minute, NotBefore: 9 * time.Minute})
	add("revoked", active, now, false, nil, auth.WorkerTokenRequest{TokenID: revokedID})
	add("for a worker's listener", active, now, false, nil, auth.WorkerTokenRequest{Audience: auth.AudienceRPC})
	add("of another worker", active, now, false, nil, auth.WorkerTokenRequest{WorkerID: stranger})
	whole := rows[0]
	whole.name, whole.certificate = kind+", beside another worker's certificate", certificateOf("spiffe://stacyvm/worker/"+stranger, 1, nil)
	whole.good = false
	cut := rows[0]
	cut.name, cut.token, cut.good = kind+", with its last sign changed", cut.token[:len(cut.token)-1]+"-", false
	theirs := rows[0]
	theirs.name, theirs.id, theirs.token = kind+", another worker in its own name", stranger, token(t, active, now, auth.WorkerTokenRequest{WorkerID: stranger})
	return append(rows, whole, cut, theirs)
}

// matrixRows are all rows.
func matrixRows(t *testing.T) []shown {
	all := auth.WorkerScopes()
	rows := []shown{
		{name: "nothing"}, {name: "a name alone", id: controltest.Self}, {name: "a token without a name", token: sharedKey},
		{name: "an API key for a token", id: controltest.Self, token: adminKey},
		{name: "shared", id: controltest.Self, token: sharedKey, good: true, scopes: all},
		{name: "shared, wrong", id: controltest.Self, token: sharedKey + "x"},
		{name: "shared, of a worker with a token of its own", id: elsewhere, token: sharedKey},
		{name: "shared, in another's name", id: stranger, token: sharedKey, good: true, scopes: all},
		{name: "static, in another's name", id: elsewhere, token: ownKey, good: true, scopes: all},
		{name: "static, of another worker", id: controltest.Self, token: ownKey},
		{name: "shared, of a worker in a control plane", id: inside, token: sharedKey, good: true, scopes: all},
		{name: "shared, of the control plane's own name", id: unwritten, token: sharedKey, good: true, scopes: all},
		{name: "signed, of a worker in a control plane", id: inside, token: token(t, hmacKey, time.Now(), auth.WorkerTokenRequest{WorkerID: inside}), good: true, scopes: all},
		{name: "certificate, of a worker in a control plane", id: inside, certificate: certificateOf("spiffe://stacyvm/worker/"+inside, 7, nil), good: true, scopes: all, byCertificate: true},
		{name: "certificate, of the control plane's own name", id: unwritten, certificate: certificateOf("spiffe://stacyvm/worker/"+unwritten, 7, nil), good: true, scopes: all, byCertificate: true},
		{name: "a malformed name", id: controltest.Self + "/../x", token: sharedKey},
	}
	rows = append(rows, signedRows(t, "signed", hmacKey, oldHMACKey, lostKey)...)
	rows = append(rows, signedRows(t, "JWT", ed25519PEM('a'), ed25519PEM('b'), ed25519PEM('c'))...)
	const self = "spiffe://stacyvm/worker/" + string(controltest.Self)
	certified := func(name, uri string, good bool, change func(*x509.Certificate)) {
		rows = append(rows, shown{name: "certificate, " + name, id: controltest.Self, certificate: certificateOf(uri, 7, change), good: good, scopes: all, byCertificate: true})
	}
	certified("own", self, true, nil)
	certified("of another worker", "spiffe://stacyvm/worker/"+stranger, false, nil)
	certified("of a control plane", "spiffe://stacyvm/server/"+string(controltest.Self), false, nil)
	certified("of no party", "https://example.org/", false, nil)
	certified("expired since the handshake", self, false, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
	certified("revoked", self, false, func(c *x509.Certificate) { c.SerialNumber.SetString(revokedID, 16) })
	certified("an authority", self, false, func(c *x509.Certificate) { c.IsCA = true })
	named := certificateOf("spiffe://stacyvm/worker/"+stranger, 7, nil)
	return append(rows,
		shown{name: "certificate, another worker in its own name", id: stranger, certificate: named, good: true, scopes: all, byCertificate: true},
		shown{name: "certificate, beside a wrong token", id: controltest.Self, certificate: certificateOf(self, 7, nil), token: "wrong"},
		shown{name: "certificate, beside the shared token", id: controltest.Self, certificate: certificateOf(self, 7, nil), token: sharedKey, good: true, scopes: all})
}

// matrixVerifier believes all kinds of credentials. The Ed25519 keys are among the rotation keys.
func matrixVerifier(t *testing.T) *auth.WorkerVerifier {
	t.Helper()
	v, err := auth.NewWorkerVerifier(auth.WorkerVerifierConfig{
		Audience: auth.AudienceControlPlane, Shared: auth.FixedSecret(sharedKey), Tokens: map[stacyvm.WorkerID]auth.Secret{elsewhere: auth.FixedSecret(ownKey)},
		SigningKey: auth.FixedSecret(hmacKey), RotationKeys: auth.FixedSecrets([]string{oldHMACKey, ed25519PEM('a'), ed25519PEM('b')}),
		Revoked: []string{revokedID}, Certificates: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// signer is an authority that signs everything.
type signer struct{}

func (signer) Check(string) error { return nil }
func (signer) Sign(id stacyvm.WorkerID, _ string) (cluster.Certificate, error) {
	return cluster.Certificate{Worker: id, PEM: "signed"}, nil
}
func (signer) Fingerprint() (string, error) { return "f00d", nil }

// withWorkers makes a server believe all kinds of worker credentials.
func withWorkers(t *testing.T) func(*api.Config) {
	return func(c *api.Config) { c.Authenticators = append(c.Authenticators, matrixVerifier(t)) }
}

// withAuthority lets it sign certificates and tokens.
func withAuthority(t *testing.T) func(*control.Config) {
	return func(c *control.Config) {
		c.Authority = signer{}
		var err error
		if c.Issuer, err = auth.NewWorkerIssuer(auth.FixedSecret(hmacKey), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWorkerIdentityMatrix: each route of workers × each credential × the own and others' paths.
// Nobody gets further than the table says, whatever API keys are configured; and who does is not
// refused.
func TestWorkerIdentityMatrix(t *testing.T) {
	named := func(c *control.Config) { withAuthority(t)(c); c.Self = unwritten }
	open := start(t, withWorkers(t), named)
	closed := start(t, func(c *api.Config) { withKeys(c); withWorkers(t)(c) }, named)
	rows, in, routes := matrixRows(t), 0, 0
	for _, f := range []*fixture{open, closed} {
		controltest.Update(t, f.store, func(tx store.Tx) error {
			_, err := tx.Workers().Save(t.Context(), stacyvm.Worker{ID: inside, Status: "online", Session: "session-1", Capabilities: []string{stacyvm.CapabilityResident}})
			return err
		})
	}
	for _, op := range operations(t) {
		if !op.worker {
			continue
		}
		if routes++; scopeOf[op.id] == "" {
			t.Errorf("%s %s has no scope here", op.method, op.path)
		}
		for _, f := range []*fixture{open, closed} {
			for _, row := range rows {
				for _, path := range []stacyvm.WorkerID{controltest.Self, elsewhere, stranger, inside, unwritten} {
					r := f.asks(op, path, row.put)
					want, code := row.wants(op.id, path), ""
					if want != 0 {
						code, _ = r.refusal(t)
					} else if in++; r.StatusCode < 400 || r.StatusCode == http.StatusNotFound || r.StatusCode == http.StatusConflict {
						continue
					}
					right := map[int]string{http.StatusUnauthorized: "UNAUTHORIZED", http.StatusForbidden: "FORBIDDEN"}[want]
					if row.id != path && want == http.StatusForbidden {
						right = "UNAUTHORIZED"
					}
					if r.StatusCode != want || code != right {
						t.Errorf("%s of %s with %s: %d %s, want %d %s", op.id, path, row.name, r.StatusCode, r.text, want, right)
					}
				}
			}
		}
	}
	if routes != len(scopeOf) || in < 50 || len(rows) < 50 {
		t.Errorf("%d routes, %d rows, %d let in: the matrix is not whole", routes, len(rows), in)
	}
}

// asks sends a request of an operation to a handler without a network: the connection's
// certificate is what put says.
func (f *fixture) asks(op operation, worker stacyvm.WorkerID, put func(*http.Request)) response {
	f.t.Helper()
	e := examples[op.id]
	path := strings.NewReplacer("{worker}", string(worker), "{resource}", "sb-000000000000000000000000").Replace(op.path)
	request := httptest.NewRequestWithContext(f.t.Context(), op.method, "http://127.0.0.1/api/v1"+path, strings.NewReader(fmt.Sprint(e.body)))
	if e.body == nil {
		request = httptest.NewRequestWithContext(f.t.Context(), op.method, "http://127.0.0.1/api/v1"+path, nil)
	} else {
		request.Header.Set("Content-Type", "application/json")
	}
	put(request)
	recorder := httptest.NewRecorder()
	f.server.Config.Handler.ServeHTTP(recorder, request)
	return response{recorder.Result(), recorder.Body.String()}
}

// TestWorkerRoutesWithoutCredentials: a server that knows no credential of workers says so, to
// everybody.
func TestWorkerRoutesWithoutCredentials(t *testing.T) {
	empty, err := auth.NewWorkerVerifier(auth.WorkerVerifierConfig{Audience: auth.AudienceControlPlane})
	if err != nil {
		t.Fatal(err)
	}
	for _, verifiers := range []auth.Authenticators{nil, {empty}} {
		f := start(t, func(c *api.Config) { withKeys(c); c.Authenticators = append(c.Authenticators, verifiers...) }, nil)
		for _, op := range operations(t) {
			if !op.worker {
				continue
			}
			r := f.asks(op, controltest.Self, func(r *http.Request) {
				r.Header.Set("X-Admin-API-Key", adminKey)
				r.Header.Set("X-Worker-ID", string(controltest.Self))
				r.Header.Set("X-Worker-Token", sharedKey)
			})
			if code, _ := r.refusal(t); r.StatusCode != http.StatusServiceUnavailable || code != "UNAVAILABLE" {
				t.Errorf("%s: %d %s", op.id, r.StatusCode, r.text)
			}
		}
	}
}

// TestWorkerCredentialsOpenNothingElse: a worker's credential is none on any other route, and the
// routes of administrators ask for the administrator's key.
func TestWorkerCredentialsOpenNothingElse(t *testing.T) {
	f := start(t, func(c *api.Config) { withKeys(c); withWorkers(t)(c) }, withAuthority(t))
	worker := shown{id: controltest.Self, token: sharedKey}
	admins := 0
	for _, op := range operations(t) {
		if op.worker || op.public {
			continue
		}
		if r := f.asks(op, controltest.Self, worker.put); r.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s, a worker: %d %s", op.id, r.StatusCode, r.text)
		}
		if !strings.HasPrefix(op.path, "/admin/") {
			continue
		}
		admins++
		r := f.asks(op, controltest.Self, func(r *http.Request) { r.Header.Set("X-API-Key", clientKey) })
		if code, _ := r.refusal(t); r.StatusCode != http.StatusForbidden || code != "FORBIDDEN" {
			t.Errorf("%s, a client: %d %s", op.id, r.StatusCode, r.text)
		}
		r = f.asks(op, controltest.Self, func(r *http.Request) { r.Header.Set("X-Admin-API-Key", adminKey) })
		if r.StatusCode == http.StatusUnauthorized || r.StatusCode == http.StatusForbidden {
			t.Errorf("%s, an administrator: %d %s", op.id, r.StatusCode, r.text)
		}
	}
	if admins < 10 {
		t.Errorf("%d routes of administrators", admins)
	}
}

// TestWorkersAreNotLimited: who fails to prove to be a worker has what a peer's address has; who
// proves it is not held up.
func TestWorkersAreNotLimited(t *testing.T) {
	f := start(t, func(c *api.Config) {
		withWorkers(t)(c)
		c.RateLimit = api.RateLimit{Enabled: true, PerMinute: 1, Burst: 3}
	}, nil)
	beat := operation{method: "POST", path: "/worker/{worker}/heartbeat", id: "heartbeat"}
	for range 10 {
		if r := f.asks(beat, controltest.Self, shown{id: controltest.Self, token: sharedKey}.put); r.StatusCode != http.StatusOK {
			t.Fatalf("a worker: %d %s", r.StatusCode, r.text)
		}
	}
	var last response
	for range 5 {
		last = f.asks(beat, controltest.Self, shown{id: controltest.Self, token: "a guess"}.put)
	}
	if last.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a guess too many: %d %s", last.StatusCode, last.text)
	}
	join := operation{method: "POST", path: "/worker/join", id: "join"}
	if r := f.asks(join, "", func(*http.Request) {}); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a join token too many: %d %s", r.StatusCode, r.text)
	}
}
