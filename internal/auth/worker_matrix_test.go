package auth_test

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// trait is one property of a credential or of who verifies it. good says whether it speaks for
// acceptance.
type trait struct {
	name string
	good bool
}

// The traits, each from its best value on. A kind of credential has those that applies names.
var (
	workers   = []trait{{"own", true}, {"other", false}, {"none", false}, {"malformed", false}}
	audiences = []trait{{"right", true}, {"other", false}}
	keys      = []trait{{"active", true}, {"rotated", true}, {"retired", false}}
	times     = []trait{{"fresh", true}, {"clock 20 s ahead", true}, {"longest life", true}, {"expired now", false}, {"expired", false}, {"issued in 31 s", false}, {"valid in 31 s", false}, {"valid in 30 s", true}, {"life of 901 s", false}}
	revoked   = []trait{{"no", true}, {"yes", false}}
	served    = []trait{{"any", true}, {"worker-a alone", true}, {"worker-b alone", false}}
)

// kinds are the kinds of credentials; "+mtls" is a token with a good certificate beside it, which
// helps no bad token.
var kinds = []struct {
	name                   string
	method                 auth.WorkerMethod
	audience, key, revoked bool // has this trait at all
	times                  []string
}{
	{"shared", auth.MethodShared, false, false, false, nil},
	{"static", auth.MethodStatic, false, false, false, nil},
	{"signed", auth.MethodSigned, true, true, true, nil},
	{"jwt", auth.MethodJWT, true, true, true, nil},
	{"mtls", auth.MethodCertificate, true, false, true, []string{"fresh", "expired"}},
	{"signed+mtls", auth.MethodSigned, true, true, true, nil},
	{"jwt+mtls", auth.MethodJWT, true, true, true, nil},
}

// combination is one cell of the matrix.
type combination struct {
	kind                                         string
	worker, audience, key, time, revoked, served string
	side                                         auth.WorkerAudience
	accept                                       bool
	method                                       auth.WorkerMethod
}

// matrix makes every combination of traits for both sides. What is to be accepted follows from the
// traits alone.
func matrix() (all []combination) {
	first := func(has bool, traits []trait) []trait {
		if has {
			return traits
		}
		return traits[:1]
	}
	for _, side := range []auth.WorkerAudience{auth.AudienceControlPlane, auth.AudienceRPC} {
		for _, kind := range kinds {
			timesOf := first(kind.key, times)
			if kind.times != nil {
				timesOf = slices.DeleteFunc(slices.Clone(times), func(t trait) bool { return !slices.Contains(kind.times, t.name) })
			}
			for _, w := range workers {
				for _, a := range first(kind.audience, audiences) {
					for _, k := range first(kind.key, keys) {
						for _, at := range timesOf {
							for _, r := range first(kind.revoked, revoked) {
								for _, s := range served {
									c := combination{kind: kind.name, worker: w.name, audience: a.name, key: k.name, time: at.name, revoked: r.name, served: s.name, side: side, method: kind.method}
									c.accept = a.good && k.good && at.good && r.good && c.fits(w, s)
									all = append(all, c)
								}
							}
						}
					}
				}
			}
		}
	}
	return all
}

// fits says whether the worker that is named is right. A control plane's certificate names none:
// it is good for whom the listener serves.
func (c combination) fits(worker, served trait) bool {
	if c.kind == "mtls" && c.side == auth.AudienceRPC && worker.name == "other" {
		return served.name != "worker-a alone"
	}
	return worker.good && served.good
}

// named is the worker that the caller claims to be, or to mean.
func (c combination) named() stacyvm.WorkerID {
	return map[string]stacyvm.WorkerID{"own": "worker-a", "other": "worker-b", "none": "", "malformed": "worker-a/../worker-a"}[c.worker]
}

func (c combination) String() string {
	return fmt.Sprintf("%s at %s: worker %s, audience %s, key %s, %s, revoked %s, serves %s", c.kind, c.side, c.worker, c.audience, c.key, c.time, c.revoked, c.served)
}

// config is the verifier of a combination.
func (c combination) config() auth.WorkerVerifierConfig {
	config := auth.WorkerVerifierConfig{
		Audience: c.side, Now: atNoon, Certificates: true, SigningKey: auth.FixedSecret(secretA),
		RotationKeys: auth.FixedSecrets([]string{secretB, keyA.privatePEM(), keyB.publicPEM()}),
		Shared:       auth.FixedSecret("the shared staging token"),
		Tokens:       map[stacyvm.WorkerID]auth.Secret{"worker-x": auth.FixedSecret("a token of x alone")},
	}
	if c.kind == "static" {
		config.Tokens["worker-a"] = auth.FixedSecret("a token of a alone")
	}
	if c.kind == "shared" && c.worker == "other" { // wrong for the shared token is whoever has one of its own
		config.Tokens["worker-b"] = auth.FixedSecret("a token of b alone")
	}
	if c.revoked == "yes" {
		config.Revoked = []string{"ffffffffffffffffffffffffffffffff", goodID}
	}
	switch c.served {
	case "worker-a alone":
		config.Worker = "worker-a"
	case "worker-b alone":
		config.Worker = "worker-b"
	}
	return config
}

// verifier is made once for all combinations that it suits.
func (c combination) verifier(t *testing.T, made map[string]*auth.WorkerVerifier) *auth.WorkerVerifier {
	key := fmt.Sprint(c.side, c.served, c.revoked, c.kind == "static", c.kind == "shared" && c.worker == "other")
	if made[key] == nil {
		made[key] = newVerifier(t, c.config())
	}
	return made[key]
}

// claims are those of a combination's token.
func (c combination) claims() object {
	claims := signedClaims().with("aud", string(c.tokenAudience()))
	now := noon.Unix()
	switch c.time {
	case "clock 20 s ahead":
		claims = claims.with("iat", now+20).with("nbf", now+20).with("exp", now+320)
	case "longest life":
		claims = claims.with("iat", now-899).with("exp", now+1)
	case "expired now":
		claims = claims.with("iat", now-300).with("exp", now)
	case "expired":
		claims = claims.with("iat", now-301).with("exp", now-1)
	case "issued in 31 s":
		claims = claims.with("iat", now+31)
	case "valid in 31 s":
		claims = claims.with("nbf", now+31)
	case "valid in 30 s":
		claims = claims.with("nbf", now+30)
	case "life of 901 s":
		claims = claims.with("iat", now-1).with("exp", now+900)
	}
	return claims
}

func (c combination) tokenAudience() auth.WorkerAudience {
	if (c.side == auth.AudienceRPC) == (c.audience == "right") {
		return auth.AudienceRPC
	}
	return auth.AudienceControlPlane
}

// credential is what a combination shows.
func (c combination) credential() auth.WorkerCredential {
	given := auth.WorkerCredential{WorkerID: c.named()}
	secret := map[string]string{"active": secretA, "rotated": secretB, "retired": secretC}[c.key]
	pair := map[string]keyPair{"active": keyA, "rotated": keyB, "retired": keyC}[c.key]
	switch c.kind {
	case "shared":
		given.Token = "the shared staging token"
	case "static":
		given.Token = "a token of a alone"
	case "signed", "signed+mtls":
		given.Token = sign(secret, c.claims())
	case "jwt", "jwt+mtls":
		given.Token = pair.jwt(pair.header(), asJWT(c.claims()))
	}
	switch {
	case c.kind == "mtls":
		given.Peer = c.peer(c.tokenAudience())
	case strings.HasSuffix(c.kind, "+mtls"):
		given.Peer = c.peer(c.side)
		given.Peer.SerialNumber.SetInt64(1)
	}
	return given
}

// peer is the certificate of who may be in that audience.
func (c combination) peer(audience auth.WorkerAudience) *x509.Certificate {
	made := certificate("spiffe://stacyvm/worker/worker-a")
	if audience == auth.AudienceRPC {
		made = certificate("https://example.org/x", "spiffe://stacyvm/server/control.example.org")
	}
	if c.kind == "mtls" && c.time == "expired" {
		made.NotAfter = noon.Add(-time.Second)
	}
	return made
}

// TestMatrix: of all combinations those are accepted of which every trait is good, and no other.
func TestMatrix(t *testing.T) {
	testneed.Patience(t)
	accepted := 0
	all, verifiers := matrix(), map[string]*auth.WorkerVerifier{}
	for _, c := range all {
		given := c.credential()
		identity, err := c.verifier(t, verifiers).Verify(given)
		if !c.accept {
			mustRefuse(t, c.String(), err, given)
			if identity.WorkerID != "" || len(identity.Scopes) > 0 {
				t.Errorf("%s: refused with an identity: %+v", c, identity)
			}
			continue
		}
		accepted++
		if err != nil || identity.WorkerID != c.named() || identity.Audience != c.side || identity.Method != c.method || !slices.Equal(identity.Scopes, auth.WorkerScopes()) {
			t.Errorf("%s: %+v, %v", c, identity, err)
		}
		if static := c.kind == "shared" || c.kind == "static"; static != (identity.TokenID == "") || !static && identity.TokenID != goodID {
			t.Errorf("%s: token id %q", c, identity.TokenID)
		}
	}
	if len(all) < 5000 || accepted < 100 {
		t.Errorf("%d combinations, %d accepted: the matrix is not whole", len(all), accepted)
	}
}
