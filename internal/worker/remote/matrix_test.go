package remote_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	workerv1 "github.com/stacyvm/stacyvm/proto/worker/v1"
)

// rows says which scopes open each method; one of them is enough. It is written down here a second
// time, so that a change of the product's is noticed. No scope at all: nobody may call it from
// another machine.
var rows = map[string][]string{
	"WorkerService/Create":    {auth.ScopeSpawn},
	"WorkerService/Destroy":   {auth.ScopeDestroy},
	"WorkerService/Expire":    {auth.ScopeSpawn},
	"WorkerService/Inventory": {auth.ScopeStatus},
	"WorkerService/Providers": {auth.ScopeStatus},
	"WorkerService/Admit":     {auth.ScopeStatus},

	"ProcessService/Run":    {auth.ScopeExec},
	"ProcessService/Start":  {auth.ScopeExec},
	"ProcessService/Attach": {auth.ScopeExec},
	"ProcessService/Wait":   {auth.ScopeExec},
	"ProcessService/Input":  {auth.ScopeExec},
	"ProcessService/Signal": {auth.ScopeExec},
	"ProcessService/Resize": {auth.ScopeExec},
	"ProcessService/List":   {auth.ScopeExec},

	"ProcessService/WatchExits": {auth.ScopeExec},

	"FileService/Read":   {auth.ScopeFiles},
	"FileService/Write":  {auth.ScopeFiles},
	"FileService/List":   {auth.ScopeFiles},
	"FileService/Stat":   {auth.ScopeFiles},
	"FileService/Glob":   {auth.ScopeFiles},
	"FileService/Mkdir":  {auth.ScopeFiles},
	"FileService/Move":   {auth.ScopeFiles},
	"FileService/Chmod":  {auth.ScopeFiles},
	"FileService/Remove": {auth.ScopeFiles},
	"FileService/Pack":   {auth.ScopeFiles},
	"FileService/Unpack": {auth.ScopeFiles},

	"PortService/Connect": {auth.ScopeExec},
	"LogService/Tail":     {auth.ScopeLogs},

	"SystemService/Ping":   {auth.ScopeExec, auth.ScopeFiles, auth.ScopeLogs},
	"SystemService/Stats":  {auth.ScopeExec, auth.ScopeFiles, auth.ScopeLogs},
	"SystemService/Rotate": {},
}

// method is one way to call something.
type method struct {
	name, path string
	stream     bool
	needs      []string
}

// methods walks the protocols: what they have and the table has not, or the other way, is a
// failure.
func methods(t *testing.T) (found []method) {
	t.Helper()
	ref := "/sb-0123456789abcdef01234567/2/1/"
	walked := map[string]bool{}
	for file, prefix := range map[protoreflect.FileDescriptor]string{workerv1.File_worker_v1_worker_proto: "/", guestv1.File_guest_v1_guest_proto: "/guest" + ref} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				name := string(service.Name()) + "/" + string(m.Name())
				needs, known := rows[name]
				if !known {
					t.Fatalf("%s has no row: say which scope it needs", name)
				}
				walked[name] = true
				path := string(service.FullName()) + "/" + string(m.Name())
				stream := m.IsStreamingClient() || m.IsStreamingServer()
				found = append(found, method{name, prefix + path, stream, needs})
				if service.Name() == "PortService" {
					found = append(found, method{"port " + name, "/port" + ref + path, stream, needs})
				}
			}
		}
	}
	for name := range rows {
		if !walked[name] {
			t.Errorf("%s is in the table and does not exist", name)
		}
	}
	slices.SortFunc(found, func(a, b method) int { return strings.Compare(a.path, b.path) })
	return found
}

// touched is a worker that does nothing, and tells when it was asked.
type touched struct{ asked int }

var errTouched = stacyvm.Errorf(stacyvm.CodeConflict, "reached")

func (w *touched) touch() error { w.asked++; return errTouched }

func (w *touched) Create(context.Context, stacyvm.Ref, worker.CreateRequest) (worker.Created, error) {
	return worker.Created{}, w.touch()
}
func (w *touched) Destroy(context.Context, stacyvm.Ref) error           { return w.touch() }
func (w *touched) Expire(context.Context, stacyvm.Ref, time.Time) error { return w.touch() }
func (w *touched) Inventory(context.Context) (worker.Inventory, error) {
	return worker.Inventory{}, w.touch()
}
func (w *touched) Guest(context.Context, stacyvm.Ref, guest.Scope) (guest.Conn, error) {
	return guest.Conn{}, w.touch()
}
func (w *touched) DialPort(context.Context, stacyvm.Ref, uint16) (net.Conn, error) {
	return nil, w.touch()
}
func (w *touched) Providers(context.Context) ([]worker.Provider, error) { return nil, w.touch() }

// shown is what a caller shows, and whether it identifies somebody, who then has scopes.
type shown struct {
	name   string
	named  stacyvm.WorkerID
	token  string
	peer   *x509.Certificate
	good   bool
	scopes []string
	verify string // which verifier: see verifiers
}

// trait is one property of a credential; good speaks for acceptance.
type trait struct {
	name string
	good bool
}

var (
	named     = []trait{{"own", true}, {"other", false}, {"none", false}}
	audiences = []trait{{"rpc", true}, {"control plane", false}}
	times     = []trait{{"fresh", true}, {"expired", false}, {"not yet valid", false}, {"too long", false}}
	ids       = []trait{{"not revoked", true}, {"revoked", false}}
	keys      = []trait{{"active key", true}, {"rotated key", true}, {"retired key", false}}
)

// scopeLists are the lists in signed tokens: all by leaving it out, each alone, none that is
// valid.
func scopeLists() map[string][]string {
	lists := map[string][]string{"all scopes": nil, "no valid scope": {"worker:everything", "*", "admin"}}
	for _, scope := range auth.WorkerScopes() {
		lists[scope] = []string{scope}
	}
	return lists
}

func (n trait) worker() stacyvm.WorkerID {
	return map[string]stacyvm.WorkerID{"own": here, "other": "worker-b", "none": ""}[n.name]
}

// signed makes every token of the signed kinds.
func signed() (all []shown) {
	for _, kind := range []string{"signed", "jwt"} {
		for _, n := range named {
			for _, a := range audiences {
				for _, at := range times {
					for _, id := range ids {
						for _, key := range keys {
							good := n.good && a.good && at.good && id.good && key.good
							for list, scopes := range scopeLists() {
								if !good && list != "all scopes" {
									continue // who is nobody may nothing, whatever the list
								}
								claims := tokenClaims(kind, a, at, id)
								granted := auth.WorkerScopes()
								if scopes != nil {
									claims["scopes"] = scopes
									granted = slices.DeleteFunc(granted, func(s string) bool { return !slices.Contains(scopes, s) })
								}
								all = append(all, shown{
									name:  strings.Join([]string{kind, n.name, a.name, at.name, id.name, key.name, list}, ", "),
									named: n.worker(), token: signWith(kind, key, claims), good: good, scopes: granted,
								})
							}
						}
					}
				}
			}
		}
	}
	return all
}

func tokenClaims(kind string, audience, at, id trait) map[string]any {
	now := noon.Unix()
	subject := map[string]string{"signed": "worker_id", "jwt": "sub"}[kind]
	claims := map[string]any{subject: string(here), "jti": goodID, "aud": string(auth.AudienceRPC), "iat": now, "exp": now + 300}
	if !audience.good {
		claims["aud"] = string(auth.AudienceControlPlane)
	}
	if !id.good {
		claims["jti"] = revokedID
	}
	maps.Copy(claims, map[string]map[string]any{
		"expired": {"iat": now - 301, "exp": now - 1}, "not yet valid": {"nbf": now + 60}, "too long": {"exp": now + 901},
	}[at.name])
	return claims
}

func signWith(kind string, key trait, claims map[string]any) string {
	if kind == "signed" {
		return sign(map[string]string{"active key": secretA, "rotated key": secretB, "retired key": secretC}[key.name], claims)
	}
	return map[string]pair{"active key": keyA, "rotated key": keyB, "retired key": keyC}[key.name].jwt(claims)
}

// others are the credentials that hold no claims, and none.
func others() (all []shown) {
	every := auth.WorkerScopes()
	for _, n := range named {
		all = append(all,
			shown{name: "none, " + n.name, named: n.worker()},
			shown{name: "shared, " + n.name, named: n.worker(), token: "the shared staging token", good: n.good, scopes: every},
			shown{name: "shared where there is one of its own, " + n.name, named: n.worker(), token: "the shared staging token", verify: "static"},
			shown{name: "static, " + n.name, named: n.worker(), token: "a token of a alone", good: n.good, scopes: every, verify: "static"},
			shown{name: "another's static, " + n.name, named: n.worker(), token: "a token of b alone", verify: "static"},
			shown{name: "unknown static, " + n.name, named: n.worker(), token: "a guess"},
		)
		server, expired := certificate("server/control", goodID), certificate("server/control", goodID)
		expired.NotAfter = noon.Add(-time.Second)
		early := certificate("server/control", goodID)
		early.NotBefore = noon.Add(time.Second)
		for name, c := range map[string]struct {
			peer   *x509.Certificate
			token  string
			good   bool
			verify string
		}{
			"a control plane's":         {server, "", true, ""},
			"expired":                   {expired, "", false, ""},
			"not yet valid":             {early, "", false, ""},
			"revoked":                   {certificate("server/control", revokedID), "", false, ""},
			"the worker's own":          {certificate("worker/"+string(here), goodID), "", false, ""},
			"another worker's":          {certificate("worker/worker-b", goodID), "", false, ""},
			"nobody's":                  {certificate("client/control", goodID), "", false, ""},
			"with a wrong token":        {server, "a guess", false, ""},
			"where tokens are demanded": {server, "", false, "tokens"},
		} {
			all = append(all, shown{
				name: "mtls " + name + ", " + n.name, named: n.worker(), token: c.token, peer: c.peer,
				good: c.good && n.good, scopes: every, verify: c.verify,
			})
		}
	}
	return all
}

// handlers makes one handler for each verifier that the credentials are for; all lead to one
// worker.
func handlers(t *testing.T, w worker.Worker) map[string]http.Handler {
	made := map[string]http.Handler{}
	for _, name := range []string{"", "static", "tokens"} {
		config := auth.WorkerVerifierConfig{
			Audience: auth.AudienceRPC, Worker: here, Now: func() time.Time { return noon }, Certificates: name != "tokens",
			Shared: auth.FixedSecret("the shared staging token"), SigningKey: auth.FixedSecret(secretA), Revoked: []string{revokedID},
			RotationKeys: auth.FixedSecrets([]string{secretB, keyA.publicPEM(), keyB.publicPEM()}),
		}
		if name == "static" {
			config.Tokens = map[stacyvm.WorkerID]auth.Secret{here: auth.FixedSecret("a token of a alone"), "worker-b": auth.FixedSecret("a token of b alone")}
		}
		v, err := auth.NewWorkerVerifier(config)
		if err != nil {
			t.Fatal(err)
		}
		made[name] = remote.NewHandler(remote.ServerConfig{Worker: w, ID: here, Verifier: v})
	}
	return made
}

// ask sends one request to a handler and gives the code with which it was refused; "": it went
// through.
func (s shown) ask(t *testing.T, handler http.Handler, m method) stacyvm.Code {
	t.Helper()
	body := payload(t, m)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, m.path, bytes.NewReader(body))
	r.ProtoMajor, r.ProtoMinor, r.Proto = 2, 0, "HTTP/2.0"
	r.Header.Set("Content-Type", map[bool]string{true: "application/connect+proto", false: "application/proto"}[m.stream])
	r.Header.Set("X-Worker-ID", string(s.named))
	if s.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.token)
	}
	if s.peer != nil {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{s.peer}, VerifiedChains: [][]*x509.Certificate{{s.peer}}}
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, r)
	raw, err := base64.StdEncoding.DecodeString(answer.Header().Get("Stacyvm-Failure"))
	var f workerv1.Failure
	if err := errors.Join(err, proto.Unmarshal(raw, &f)); err != nil {
		t.Fatal(err)
	}
	if text := f.GetMessage() + answer.Body.String(); s.token != "" && strings.Contains(text, s.token) {
		t.Errorf("the answer tells the token: %s", text)
	}
	if f.GetMessage() == errTouched.Message {
		return ""
	}
	return stacyvm.Code(f.GetCode())
}

// payload is a message of any method: the first field is the ref, or the port.
func payload(t *testing.T, m method) []byte {
	t.Helper()
	var message proto.Message = &workerv1.AdmitRequest{Ref: &workerv1.Ref{SandboxId: "sb-0123456789abcdef01234567", Incarnation: 2, Epoch: 1}}
	if strings.HasPrefix(m.name, "port ") {
		message = &guestv1.ConnectRequest{Port: 80}
	}
	raw, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	if !m.stream {
		return raw
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...)
}

// TestIdentityMatrix: of all credentials at all methods those go through that identify a control
// plane to this worker and hold the method's scope, and no other.
func TestIdentityMatrix(t *testing.T) {
	w := &touched{}
	served := handlers(t, w)
	tried, through := 0, 0
	all := methods(t)
	for _, s := range slices.Concat(signed(), others()) {
		for _, m := range all {
			want := stacyvm.Code("")
			holds := slices.ContainsFunc(m.needs, func(scope string) bool { return slices.Contains(s.scopes, scope) })
			switch {
			case !s.good:
				want = stacyvm.CodeUnauthenticated
			case !holds:
				want = stacyvm.CodeForbidden
			}
			before := w.asked
			got := s.ask(t, served[s.verify], m)
			reached := w.asked > before
			tried++
			if reached {
				through++
			}
			if reached != (want == "") || got != want {
				t.Errorf("%s at %s: code %q, reached %v; want %q", s.name, m.name, got, reached, want)
			}
		}
	}
	t.Logf("%d methods, %d combinations, %d went through", len(all), tried, through)
	if len(all) < 28 || tried < 10_000 || through < 200 {
		t.Error("the matrix is not whole")
	}
}

// TestUnknownPaths: what is no method is nobody's, and paths are not read in two ways.
func TestUnknownPaths(t *testing.T) {
	w := &touched{}
	served := handlers(t, w)
	every := shown{named: here, token: "the shared staging token"}
	claims := tokenClaims("signed", audiences[0], times[0], ids[0])
	claims["scopes"] = []string{auth.ScopeFiles}
	files := shown{named: here, token: signWith("signed", keys[0], claims)}
	const ref = "/sb-0123456789abcdef01234567/2/1/"
	for _, path := range []string{
		"/", "/stacyvm.worker.v1.WorkerService/", "/stacyvm.worker.v1.WorkerService/Absent", "/stacyvm.worker.v2.WorkerService/Create",
		"/guest" + ref + "stacyvm.guest.v1.Absent/Run", "/guest" + ref + "stacyvm.guest.v1.ProcessService/", "/guest/x",
		"/port" + ref + "stacyvm.guest.v1.ProcessService/Run", "/port" + ref + "stacyvm.guest.v1.PortService/Absent",
		"/guest" + ref + "stacyvm.guest.v1.ProcessService/Run/more",
	} {
		every.ask(t, served[""], method{path: path, stream: true})
	}
	for _, path := range []string{
		"/guest" + ref + "stacyvm.guest.v1.FileService%2F..%2Fstacyvm.guest.v1.ProcessService/Run",
		"/guest" + ref + "stacyvm.guest.v1.FileService/Read%2F..%2F..%2Fstacyvm.guest.v1.ProcessService%2FRun",
		"/guest" + ref + "../1/stacyvm.guest.v1.ProcessService/Run",
		"/guest" + ref + "stacyvm.guest.v1.ProcessService/Run?/stacyvm.guest.v1.FileService/Read",
		"//guest" + ref + "stacyvm.guest.v1.ProcessService/Run",
	} {
		files.ask(t, served[""], method{path: path, stream: true})
	}
	if w.asked > 0 {
		t.Errorf("%d requests reached the worker", w.asked)
	}
}

// TestScopeTable: the documentation's table is the tested one.
func TestScopeTable(t *testing.T) {
	var want strings.Builder
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		needs := strings.Join(rows[name], "` or `")
		if needs == "" {
			fmt.Fprintf(&want, "| `%s` | nobody: it is the worker's own |\n", name)
			continue
		}
		fmt.Fprintf(&want, "| `%s` | `%s` |\n", name, needs)
	}
	content, err := os.ReadFile("../../../docs/adr/0006-worker-rpc.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte(want.String())) {
		t.Errorf("docs/adr/0006-worker-rpc.md must hold:\n%s", want.String())
	}
}

// TestHealth: who answers is no secret, and nothing else is told.
func TestHealth(t *testing.T) {
	tr := overTokens(t)
	l := listen(t, remote.NewHandler(tr.config(t, &touched{})), nil)
	answer, err := http.Get(l.url() + "/health")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != `{"status":"ok","worker_id":"worker-a"}` {
		t.Errorf("%d %s %v", answer.StatusCode, body, err)
	}
}
