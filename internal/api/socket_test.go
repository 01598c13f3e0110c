package api_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/auth"
)

// dial opens an exec WebSocket; its connection ends with the test.
func (f *fixture) dial(sandbox string, headers ...string) *websocket.Conn {
	f.t.Helper()
	header := http.Header{}
	for i := 0; i+1 < len(headers); i += 2 {
		header.Set(headers[i], headers[i+1])
	}
	conn, answer, err := websocket.Dial(f.t.Context(), f.server.URL+"/api/v1/sandboxes/"+sandbox+"/exec/ws",
		&websocket.DialOptions{HTTPClient: f.client, HTTPHeader: header})
	if err != nil {
		f.t.Fatalf("%v %v", err, answer)
	}
	f.t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(1 << 20)
	return conn
}

func say(t *testing.T, conn *websocket.Conn, text string) {
	t.Helper()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// listen reads frames until the connection closes, and gives how it closed.
func listen(t *testing.T, conn *websocket.Conn) (list []frame, status websocket.StatusCode, reason string) {
	t.Helper()
	for {
		kind, text, err := conn.Read(t.Context())
		if err != nil {
			var closed websocket.CloseError
			if !errors.As(err, &closed) {
				t.Fatalf("no close frame: %v", err)
			}
			return list, closed.Code, closed.Reason
		}
		if kind != websocket.MessageText {
			t.Errorf("a message of kind %v", kind)
		}
		list = append(list, parse(t, text))
	}
}

func TestSocket(t *testing.T) {
	f := start(t, nil, nil)
	conn := f.dial(f.spawn().ID)
	say(t, conn, `{"command":"echo out; echo err >&2; exit 3"}`)
	list, status, _ := listen(t, conn)
	last := list[len(list)-1]
	if joined(list, "stdout") != "out\n" || joined(list, "stderr") != "err\n" || status != websocket.StatusNormalClosure {
		t.Errorf("%+v, closed %d", list, status)
	}
	if last.Type != "done" || last.ExitCode == nil || *last.ExitCode != 3 {
		t.Errorf("last frame %v", last.keys)
	}
}

func TestSocketWithABadFirstMessage(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	for message, field := range map[string]string{
		`{`: "body", `[]`: "body", `{"x":1}`: "x", `{"command":5}`: "command", `{"command":"true","encoding":"rot13"}`: "encoding",
		`{"command":"true","timeout":"soon"}`: "timeout", `{"command":"true","pty":{"rows":1}}`: "pty.cols",
		strings.Repeat(`{"env":`, 70) + `{}` + strings.Repeat(`}`, 70): "body",
	} {
		conn := f.dial(id)
		say(t, conn, message)
		list, status, reason := listen(t, conn)
		if len(list) != 0 || status != websocket.StatusInvalidFramePayloadData || !strings.HasPrefix(reason, field+": ") {
			t.Errorf("%.40s: %v, closed %d %q", message, list, status, reason)
		}
	}
}

// TestSocketOfBinaryMessages: a message is JSON in a text frame, the first one and every later
// one.
func TestSocketOfBinaryMessages(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	conn := f.dial(id)
	must(t, conn.Write(t.Context(), websocket.MessageBinary, []byte(`{"command":"true"}`)))
	if list, status, reason := listen(t, conn); len(list) != 0 || status != websocket.StatusInvalidFramePayloadData || reason == "" {
		t.Errorf("the first message: %v, closed %d %q", list, status, reason)
	}
	conn = f.dial(id)
	say(t, conn, `{"command":"cat","stdin":true}`)
	must(t, conn.Write(t.Context(), websocket.MessageBinary, []byte(`{"type":"close"}`)))
	list, status, _ := listen(t, conn)
	if len(list) != 1 || list[0].Code != "BAD_REQUEST" || status != websocket.StatusInternalError {
		t.Errorf("a later message: %v, closed %d", list, status)
	}
}

// TestSocketThatCannotStart: another tenant's sandbox is answered as an absent one.
func TestSocketThatCannotStart(t *testing.T) {
	f := start(t, withKeys, nil)
	ours := f.spawn("X-API-Key", clientKey, "X-Tenant-ID", "ours").ID
	const absent = "sb-000000000000000000000000"
	told := map[string]string{}
	for _, id := range []string{ours, absent} {
		conn := f.dial(id, "X-API-Key", clientKey, "X-Tenant-ID", "theirs")
		say(t, conn, `{"command":"true"}`)
		list, status, reason := listen(t, conn)
		if len(list) != 1 || list[0].Error == "" || list[0].Code != "NOT_FOUND" || status != websocket.StatusInternalError {
			t.Fatalf("%s: %+v, closed %d", id, list, status)
		}
		text, _ := json.Marshal(list[0].keys)
		told[id] = strings.ReplaceAll(string(text), id, "ID") + reason
	}
	if told[ours] != told[absent] {
		t.Errorf("another tenant's %s, absent %s", told[ours], told[absent])
	}
}

// TestSocketNeedsItsScope: a caller without it is refused on the socket, and one that has it alone
// is not.
func TestSocketNeedsItsScope(t *testing.T) {
	f := start(t, func(c *api.Config) { c.Authenticators = auth.Authenticators{scoped{}} }, nil)
	id := f.spawn("X-API-Key", clientKey, "X-Tenant-ID", "ours").ID
	run := func(scopes ...string) ([]frame, websocket.StatusCode) {
		conn := f.dial(id, "X-API-Key", strings.Join(scopes, " "), "X-Tenant-ID", "ours")
		say(t, conn, `{"command":"true"}`)
		list, status, _ := listen(t, conn)
		return list, status
	}
	but := slices.DeleteFunc(slices.Clone(everyScope), func(one string) bool { return one == auth.ScopeAPIExec })
	if list, status := run(but...); len(list) != 1 || list[0].Code != "FORBIDDEN" || status != websocket.StatusInternalError {
		t.Errorf("without the scope: %+v, closed %d", list, status)
	}
	if list, status := run(auth.ScopeAPIExec); len(list) != 1 || list[0].Type != "done" || status != websocket.StatusNormalClosure {
		t.Errorf("with the scope: %+v, closed %d", list, status)
	}
}

func TestSocketCarriesInputSizeAndSignals(t *testing.T) {
	f := start(t, nil, nil)
	conn := f.dial(f.spawn().ID)
	say(t, conn, `{"command":"trap 'echo caught; exit 9' TERM; read x; echo got $x; echo ready; while :; do sleep 0.01; done","stdin":true}`)
	say(t, conn, `{"type":"stdin","data":"wo"}`)
	say(t, conn, `{"type":"stdin","data_base64":"cmQK"}`)
	say(t, conn, `{"type":"close"}`)
	var got strings.Builder
	until := func(word string) {
		t.Helper()
		for !strings.Contains(got.String(), word) {
			_, text, err := conn.Read(t.Context())
			if err != nil {
				t.Fatalf("after %q: %v", got.String(), err)
			}
			if f := parse(t, text); f.Data != nil {
				got.WriteString(*f.Data)
			}
		}
	}
	until("ready")
	for message, want := range map[string]string{ // what cannot be done is told, and the command goes on
		`{"type":"resize","rows":10,"cols":20}`: "CONFLICT", `{"type":"dance"}`: "BAD_REQUEST", `{"type":"signal","signal":"NONE"}`: "BAD_REQUEST",
		`{"type":"stdin","data":"late"}`: "CONFLICT", `nonsense`: "BAD_REQUEST",
	} {
		say(t, conn, message)
		_, text, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if f := parse(t, text); f.Type != "error" || f.Code != want || f.Error == "" {
			t.Errorf("%s: %s", message, text)
		}
	}
	say(t, conn, `{"type":"signal","signal":"SIGTERM"}`)
	list, status, _ := listen(t, conn)
	if joined(list, "stdout") != "caught\n" || *list[len(list)-1].ExitCode != 9 || status != websocket.StatusNormalClosure || got.String() != "got word\nready\n" {
		t.Errorf("%q, then %+v, closed %d", got.String(), list, status)
	}
}

func TestSocketOnATerminal(t *testing.T) {
	f := start(t, nil, nil)
	conn := f.dial(f.spawn().ID)
	say(t, conn, `{"command":"stty size; read x; stty size","stdin":true,"pty":{"rows":11,"cols":22},"encoding":"base64"}`)
	_, text, err := conn.Read(t.Context())
	if got := parse(t, text); err != nil || string(got.DataBase64) != "11 22\r\n" {
		t.Fatalf("%s %v", text, err)
	}
	say(t, conn, `{"type":"resize","rows":33,"cols":44}`)
	say(t, conn, `{"type":"stdin","data":"\n"}`)
	list, _, _ := listen(t, conn)
	var all strings.Builder
	for _, f := range list {
		all.Write(f.DataBase64)
	}
	if !strings.Contains(all.String(), "33 44") {
		t.Errorf("after the resize: %q", all.String())
	}
}

// TestSocketThatIsCut: the command goes on, and its output is found again.
func TestSocketThatIsCut(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	conn := f.dial(id)
	say(t, conn, `{"command":"echo one; read x; echo two","stdin":true,"id":"kept"}`)
	if _, text, err := conn.Read(t.Context()); err != nil || *parse(t, text).Data != "one\n" {
		t.Fatalf("%s %v", text, err)
	}
	_ = conn.CloseNow()
	root := "/api/v1/sandboxes/" + id + "/processes/kept"
	f.do("POST", root+"/input", `{"data":"\n","offset":0}`)
	list := frames(t, f.do("GET", root+"/output", nil).text)
	if joined(list, "stdout") != "one\ntwo\n" {
		t.Errorf("output %+v", list)
	}
	var p api.Process
	f.do("GET", root+"?wait=true", nil).into(t, &p)
	if p.State != "exited" || p.ExitCode != 0 {
		t.Errorf("process %+v", p)
	}
}

func TestSocketStreamsMuch(t *testing.T) {
	f := start(t, nil, nil)
	conn := f.dial(f.spawn().ID)
	say(t, conn, `{"command":"head -c 4194304 /dev/zero | tr '\\0' x"}`)
	list, _, _ := listen(t, conn)
	if got := joined(list, "stdout"); len(got) != 4<<20 || strings.Trim(got, "x") != "" {
		t.Errorf("%d bytes", len(got))
	}
}

// TestSocketOfNonsense: what is no WebSocket's closes the connection with 1002, whether a command
// runs or not, and is nothing that an operator need know of.
func TestSocketOfNonsense(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	masked := func(text string) string { return string([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}) + text }
	for name, sent := range map[string]string{
		"unmasked":    "\x81\x02{}",
		"bad opcode":  "\x83\x80\x00\x00\x00\x00",
		"bad bits":    "\xf1\x80\x00\x00\x00\x00",
		"after start": masked(`{"command":"sleep 60"}`) + "\x81\x02{}",
	} {
		conn, err := net.Dial("tcp", f.server.Listener.Addr().String())
		must(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "GET /api/v1/sandboxes/"+id+"/exec/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"+sent)
		must(t, err)
		reader := bufio.NewReader(conn)
		if answer, err := http.ReadResponse(reader, nil); err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: %+v, %v", name, answer, err)
		}
		var head [4]byte
		if _, err := io.ReadFull(reader, head[:]); err != nil || head[0] != 0x88 || binary.BigEndian.Uint16(head[2:]) != 1002 {
			t.Errorf("%s: frame %x, %v", name, head, err)
		}
	}
	f.server.Close()
	if strings.Contains(f.log.String(), "ERROR") {
		t.Errorf("in the log: %s", f.log.String())
	}
}

// TestDurationsThatCannotBe: too long to count, or so short that they would read as 0, which is no
// limit.
func TestDurationsThatCannotBe(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	for _, asked := range [][3]string{
		{"exec", `{"command":"true","timeout":"99999999h"}`, "100 years"},
		{"extend", `{"ttl":"2000000h"}`, "100 years"},
		{"exec", `{"command":"true","timeout":"0.001ns"}`, "shorter than 1ns"},
		{"extend", `{"ttl":"0.5ns"}`, "shorter than 1ns"},
	} {
		r := f.do("POST", "/api/v1/sandboxes/"+id+"/"+asked[0], asked[1])
		if code, message := r.refusal(t); r.StatusCode != http.StatusBadRequest || code != "BAD_REQUEST" || !strings.Contains(message, asked[2]) {
			t.Errorf("%s: %d %s", asked, r.StatusCode, r.text)
		}
	}
	if r := f.do("POST", "/api/v1/sandboxes/"+id+"/exec", `{"command":"true"}`, "Idempotency-Key", ""); r.StatusCode != http.StatusBadRequest {
		t.Errorf("an empty key: %d %s", r.StatusCode, r.text)
	}
}
