package middleware_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
)

const (
	clientKey, adminKey = "the client's key", "the admin's key"
	sharedToken         = "the workers' token"
	sandboxID           = "sb-000000000000000000000000"
)

// rawServer serves the whole API as a server without TLS does, and gives its address.
func rawServer(t *testing.T) string {
	t.Helper()
	store := controltest.OpenSQLite(t)
	controltest.Register(t, store)
	verifier, err := auth.NewWorkerVerifier(auth.WorkerVerifierConfig{Audience: auth.AudienceControlPlane, Shared: auth.FixedSecret(sharedToken)})
	if err != nil {
		t.Fatal(err)
	}
	handler := api.New(api.Config{
		Service:        controltest.NewService(t, store, controltest.NewWorker(), nil),
		Authenticators: auth.Authenticators{auth.NewKeys(clientKey, adminKey, false), verifier},
		Started:        time.Now(), AllowedOrigins: []string{"https://good.example"},
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ConnContext: middleware.FramingContext}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(middleware.Framing(listener)) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return listener.Addr().String()
}

// says is a request as text. Lines are header lines; a body gets a Content-Length unless lines
// tell its length.
func says(method, path, body string, lines ...string) string {
	head := method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n"
	all := strings.ToLower(strings.Join(lines, "\n"))
	if body != "" && !strings.Contains(all, "transfer-encoding") && !strings.Contains(all, "content-length") {
		lines = append(lines, "Content-Length: "+itoa(len(body)))
	}
	if body != "" {
		lines = append(lines, "Content-Type: application/json")
	}
	for _, line := range lines {
		head += line + "\r\n"
	}
	return head + "\r\n" + body
}

func itoa(n int) string { text, _ := json.Marshal(n); return string(text) }

// withKey is says with the client's key.
func withKey(method, path, body string, lines ...string) string {
	return says(method, "/api/v1"+path, body, append(lines, "X-API-Key: "+clientKey)...)
}

// asWorker is says by the worker here.
func asWorker(path, body string, lines ...string) string {
	return says("POST", "/api/v1/worker/here"+path, body, append(lines, "X-Worker-ID: here", "X-Worker-Token: "+sharedToken)...)
}

// answer is one of several to what was written on a connection.
type answer struct {
	status int
	field  string // that its message begins with
	closes bool
}

// exchange writes text on a new connection and reads answers until the server closes it, or until
// there are as many as wanted and the connection stays.
func exchange(t *testing.T, address, text string, want int) (answers []answer, closed bool) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(conn, text) }() // the server may close before it has read all
	reader := bufio.NewReader(conn)
	for len(answers) < want {
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			return answers, true
		}
		body, _ := io.ReadAll(response.Body)
		var refused struct{ Message string }
		_ = json.Unmarshal(body, &refused) // net/http's own refusals are plain text
		field, _, _ := strings.Cut(refused.Message, ":")
		answers = append(answers, answer{response.StatusCode, field, response.Close})
	}
	if answers[len(answers)-1].closes {
		_, err := reader.ReadByte()
		return answers, err != nil
	}
	return answers, false
}

const exec = "/sandboxes/" + sandboxID + "/exec"

// TestOneMeaningForEachRequest sends what two readers could understand in two ways. A refusal
// names the part; 404 means that the request was understood, and that there is no such sandbox.
func TestOneMeaningForEachRequest(t *testing.T) {
	address := rawServer(t)
	for name, c := range map[string]struct {
		text   string
		status int
		field  string
	}{
		"plain":                   {withKey("POST", exec, `{"command":"echo safe"}`), 404, ""},
		"a name in capitals":      {withKey("POST", exec, `{"command":"echo safe","COMMAND":"echo hostile"}`), 400, "COMMAND"},
		"a name twice":            {withKey("POST", exec, `{"command":"echo safe","command":"echo hostile"}`), 400, "command"},
		"a name twice, spelled":   {withKey("POST", exec, `{"command":"echo safe","c\u006fmmand":"echo hostile"}`), 400, "command"},
		"a name twice, below":     {withKey("POST", exec, `{"command":"x","env":{"A":"1","A":"2"}}`), 400, "env.A"},
		"half a character":        {withKey("POST", exec, `{"command":"\ud800"}`), 400, "command"},
		"halves in wrong order":   {withKey("POST", exec, `{"command":"\udc00\ud800"}`), 400, "command"},
		"a byte that is no text":  {withKey("POST", exec, "{\"command\":\"\xff\"}"), 400, "command"},
		"a whole character":       {withKey("POST", exec, `{"command":"\ud83d\ude00"}`), 404, ""},
		"a zero byte":             {withKey("POST", exec, `{"command":"x","args":["a\u0000b"]}`), 400, "args[0]"},
		"a zero byte in a name":   {withKey("POST", "/sandboxes", `{"metadata":{"a\u0000b":"x"}}`), 400, "metadata.ab"},
		"a blank program":         {withKey("POST", exec, `{"command":" \t","mode":"argv"}`), 400, "command"},
		"a variable with a dash":  {withKey("POST", exec, `{"command":"x","env":{"A-B":"x"}}`), 400, "env"},
		"a variable with a dot":   {withKey("POST", "/sandboxes", `{"env":{"a.b":"x"}}`), 400, "env"},
		"a variable with a digit": {withKey("POST", exec, `{"command":"x","env":{"1A":"x"}}`), 400, "env"},
		"a short ttl":             {withKey("POST", "/sandboxes", `{"ttl":"999ms"}`), 400, "ttl"},
		"a ttl with a plus":       {withKey("POST", "/sandboxes", `{"ttl":"+5m"}`), 400, "ttl"},
		"a ttl with a minus":      {withKey("POST", "/sandboxes/"+sandboxID+"/extend", `{"ttl":"-5m"}`), 400, "ttl"},
		"a short extension":       {withKey("POST", "/sandboxes/"+sandboxID+"/extend", `{"ttl":"1ns"}`), 400, "ttl"},
		"a timeout with a plus":   {withKey("POST", exec, `{"command":"x","timeout":"+5s"}`), 400, "timeout"},

		"a worker's name in capitals": {asWorker("/heartbeat", `{"capacity":{"rpc_url":"http://192.0.2.1:1","RPC_URL":"http://192.0.2.2:1"}}`), 400, "capacity.RPC_URL"},
		"a worker's name twice":       {asWorker("/heartbeat", `{"hostname":"a","hostname":"b"}`), 400, "hostname"},
		"a worker's unknown, twice":   {asWorker("/heartbeat", `{"new":{"a":1,"a":2}}`), 400, "new.a"},
		"a worker's half character":   {asWorker("/heartbeat", `{"capacity":{"labels":{"a":"\ud800"}}}`), 400, "capacity.labels.a"},
		"a worker's zero byte":        {asWorker("/heartbeat", `{"session":"a\u0000"}`), 400, "session"},
		"a worker at the metadata":    {asWorker("/heartbeat", `{"capacity":{"rpc_url":"http://169.254.169.254:80"}}`), 400, "capacity.rpc_url"},
		"a worker with a path":        {asWorker("/heartbeat", `{"capacity":{"rpc_url":"http://192.0.2.1:1/x"}}`), 400, "capacity.rpc_url"},
		"a worker with a user":        {asWorker("/heartbeat", `{"capacity":{"rpc_url":"http://a:b@192.0.2.1:1"}}`), 400, "capacity.rpc_url"},
		"a worker's preview address":  {asWorker("/heartbeat", `{"capacity":{"preview_domain":"http://x.example/"}}`), 400, "capacity.preview_domain"},
		"a worker's coloured name":    {asWorker("/heartbeat", `{"hostname":"\u001b[31ma"}`), 400, "hostname"},
		"a worker's label of two":     {asWorker("/heartbeat", `{"capacity":{"labels":{"a":"x\ny"}}}`), 400, "capacity.labels"},
		"a lease in capitals":         {asWorker("/leases/renew", `{"Session":"a"}`), 400, "Session"},
		"a short lease":               {asWorker("/leases/x/renew", `{"ttl":"1ms"}`), 400, "ttl"},
		"a worker's two ids":          {asWorker("/heartbeat", `{}`, "X-Worker-ID: there"), 401, ""},
		"a worker's two tokens":       {asWorker("/heartbeat", `{}`, "Authorization: Bearer x"), 401, ""},
		"a worker's token, twice":     {asWorker("/heartbeat", `{}`, "X-Worker-Token: "+sharedToken), 401, ""},

		"two keys":               {withKey("GET", "/sandboxes", "", "X-API-Key: "+clientKey), 401, ""},
		"a key and a wrong one":  {withKey("GET", "/sandboxes", "", "x-api-key: x"), 401, ""},
		"a key and an empty one": {withKey("GET", "/sandboxes", "", "X-API-Key:"), 401, ""},
		"a wrong admin key":      {withKey("GET", "/sandboxes", "", "X-Admin-API-Key: x"), 401, ""},
		"the admin key":          {withKey("GET", "/sandboxes", "", "X-Admin-API-Key: "+adminKey), 200, ""},
		"a wrong bearer":         {withKey("GET", "/sandboxes", "", "Authorization: bearer x"), 401, ""},
		"a proxy's password":     {withKey("GET", "/sandboxes", "", "Authorization: Basic eDp5"), 200, ""},
		"two users":              {withKey("GET", "/sandboxes", "", "X-User-ID: ann", "X-User-ID: bob"), 400, "X-User-ID"},
		"two tenants":            {withKey("GET", "/sandboxes", "", "X-Tenant-ID: a", "X-Tenant-ID: b"), 400, "X-Tenant-ID"},
		"a tenant of bytes":      {withKey("GET", "/sandboxes", "", "X-Tenant-ID: \xff"), 400, "X-Tenant-ID"},
		"two idempotency keys":   {withKey("POST", "/sandboxes", "{}", "Idempotency-Key: a", "Idempotency-Key: b"), 400, "Idempotency-Key"},
		"two kinds of body":      {withKey("POST", "/sandboxes", "{}", "Content-Type: text/plain"), 400, "Content-Type"},

		"an origin":                {withKey("GET", "/sandboxes", "", "Origin: https://good.example"), 200, ""},
		"two origins":              {withKey("GET", "/sandboxes", "", "Origin: https://good.example", "Origin: https://evil.example"), 403, "Origin"},
		"two origins in one":       {withKey("GET", "/sandboxes", "", "Origin: https://good.example https://evil.example"), 403, "Origin"},
		"an origin with a user":    {withKey("GET", "/sandboxes", "", "Origin: https://good.example@evil.example"), 403, "Origin"},
		"an origin with a path":    {withKey("GET", "/sandboxes", "", "Origin: https://good.example/"), 403, "Origin"},
		"an origin that is empty":  {withKey("GET", "/sandboxes", "", "Origin:"), 403, "Origin"},
		"a preflight of two pages": {says("OPTIONS", "/api/v1/sandboxes", "", "Origin: https://good.example", "Origin: x", "Access-Control-Request-Method: POST"), 403, "Origin"},

		"a zero byte in an id":     {withKey("DELETE", "/sandboxes/%00", ""), 400, "path"},
		"bytes in an id":           {withKey("DELETE", "/sandboxes/%ff", ""), 400, "path"},
		"an id that is too long":   {withKey("DELETE", "/sandboxes/"+strings.Repeat("a", 65), ""), 400, "id"},
		"an id with a space":       {withKey("DELETE", "/sandboxes/a%20b", ""), 400, "id"},
		"a zero byte in a query":   {withKey("GET", "/sandboxes/"+sandboxID+"/files?path=a%00", ""), 400, "path"},
		"bytes in a query":         {withKey("GET", "/sandboxes/"+sandboxID+"/files?path=caf%E9", ""), 400, "path"},
		"bytes in a pattern":       {withKey("GET", "/sandboxes/"+sandboxID+"/files/glob?pattern=caf%E9", ""), 400, "pattern"},
		"a parameter twice":        {withKey("DELETE", "/sandboxes/"+sandboxID+"/files?path=a&path=b", ""), 400, "path"},
		"a parameter that is lost": {withKey("DELETE", "/sandboxes/"+sandboxID+"/files?path=a;recursive=true", ""), 400, "query"},
	} {
		answers, _ := exchange(t, address, c.text, 1)
		if len(answers) != 1 || answers[0].status != c.status || c.field != "" && answers[0].field != c.field {
			t.Errorf("%s: %+v, want %d %s", name, answers, c.status, c.field)
		}
	}
}

// hidden is a request that is the body of another one by its Content-Length, and the next one by
// its Transfer-Encoding.
var hidden = says("DELETE", "/api/v1/sandboxes/hidden", "", "X-API-Key: "+clientKey)

// TestOneLengthForEachBody: a request that tells its length in two ways is refused, and nothing
// behind it is answered. Requests with one length go on, one behind the other.
func TestOneLengthForEachBody(t *testing.T) {
	address := rawServer(t)
	chunked := "Transfer-Encoding: chunked"
	two := `{}` + strings.Repeat(" ", 3)
	live := says("GET", "/api/v1/live", "")
	for name, c := range map[string]struct {
		text     string
		statuses []int
		closed   bool
	}{
		"length and chunks":         {withKey("POST", "/sandboxes", "0\r\n\r\n"+hidden, chunked, "Content-Length: 5") + live, []int{400}, true},
		"chunks and length":         {withKey("POST", "/sandboxes", "0\r\n\r\n"+hidden, "Content-Length: 5", chunked) + live, []int{400}, true},
		"length over all":           {withKey("POST", "/sandboxes", "0\r\n\r\n"+hidden, "Content-Length: "+itoa(5+len(hidden)), chunked) + live, []int{400}, true},
		"in capitals":               {withKey("POST", "/sandboxes", "0\r\n\r\n"+hidden, "CONTENT-LENGTH: 5", "TRANSFER-ENCODING: CHUNKED") + live, []int{400}, true},
		"behind an upload":          {withKey("POST", "/sandboxes/admission", "2\r\n{}\r\n0\r\n\r\n", chunked) + withKey("POST", "/sandboxes", "0\r\n\r\n"+hidden, chunked, "Content-Length: 5"), []int{200, 400}, true},
		"behind a body":             {withKey("POST", "/sandboxes/admission", two) + withKey("POST", "/sandboxes", "0\r\n\r\n"+hidden, chunked, "Content-Length: 5"), []int{200, 400}, true},
		"on the next line":          {withKey("POST", "/sandboxes", "0\r\n\r\n"+hidden, "Transfer-Encoding:\r\n chunked") + live, []int{400}, true},
		"a header that goes on":     {withKey("POST", "/sandboxes", "{}", "X-Note: a\r\n Transfer-Encoding: chunked", "Content-Length: 2") + live, []int{400}, true},
		"chunks of an old protocol": {strings.Replace(withKey("POST", "/sandboxes", "0\r\n\r\n"+hidden, chunked), "HTTP/1.1", "HTTP/1.0", 1), []int{400}, true},
		"two lengths":               {withKey("POST", "/sandboxes", "{}"+hidden, "Content-Length: 2", "Content-Length: 3"), []int{400}, true},
		"chunks twice":              {withKey("POST", "/sandboxes", "0\r\n\r\n", chunked, chunked), []int{501}, true},
		"another encoding":          {withKey("POST", "/sandboxes", "0\r\n\r\n", "Transfer-Encoding: gzip, chunked"), []int{501}, true},
		"a length with a sign":      {withKey("POST", "/sandboxes", "{}", "Content-Length: +2"), []int{400}, true},

		"one behind the other": {live + withKey("POST", "/sandboxes/admission", two) + withKey("POST", "/sandboxes/admission", "2\r\n{}\r\n0\r\n\r\n", chunked) + live, []int{200, 200, 200, 200}, false},
		"chunks with trailers": {withKey("POST", "/sandboxes/admission", "1;a=b\r\n{\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n", chunked, "Trailer: X") + live, []int{200, 200}, false},
		"one length twice":     {withKey("POST", "/sandboxes/admission", "{}", "Content-Length: 2", "Content-Length: 2") + live, []int{200, 200}, false},
	} {
		answers, closed := exchange(t, address, c.text, len(c.statuses)+btoi(c.closed))
		var statuses []int
		for _, a := range answers {
			statuses = append(statuses, a.status)
		}
		if closed != c.closed || len(statuses) != len(c.statuses) {
			t.Errorf("%s: %v, closed %v", name, statuses, closed)
			continue
		}
		for i := range statuses {
			if statuses[i] != c.statuses[i] {
				t.Errorf("%s: %v, want %v", name, statuses, c.statuses)
			}
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestAConnectionThatCannotBeFollowedIsClosed: under TLS nobody sees the header that net/http
// drops, so that nothing may follow.
func TestAConnectionThatCannotBeFollowedIsClosed(t *testing.T) {
	for encoding, closes := range map[string]bool{"chunked": true, "": false} {
		w := ask(middleware.Chain(http.HandlerFunc(ok), middleware.Framed(fail)), func(r *http.Request) {
			if encoding != "" {
				r.TransferEncoding = []string{encoding}
			}
		})
		if got := w.Header().Get("Connection") == "close"; w.Body.String() != "ok" || got != closes {
			t.Errorf("%q: %s, closes %v", encoding, w.Body, got)
		}
	}
}
