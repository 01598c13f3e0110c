package api_test

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
)

// schema is the part of a JSON Schema that says what a text may be.
type schema struct {
	Ref        string `json:"$ref"`
	Type       any
	Properties map[string]schema
	Items      *schema
	Pattern    string
	MaxLength  int
	Format     string
	Enum       []any
}

func (s schema) text() bool { return s.Type == "string" }
func (s schema) bounded() bool {
	return s.Pattern != "" || s.MaxLength > 0 || s.Format != "" || len(s.Enum) > 0
}

// texts is what an operation takes.
type texts struct {
	operation
	Parameters []struct {
		Name, In string
		Schema   schema
	}
	Body schema // with its references followed
}

// taken reads what all operations take from the document.
func taken(t *testing.T) (list []texts) {
	t.Helper()
	text, err := api.Document("test")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			texts
			RequestBody struct {
				Content map[string]struct{ Schema schema }
			}
		}
		Components struct{ Schemas map[string]schema }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	for _, op := range operations(t) {
		o := document.Paths[op.path][strings.ToLower(op.method)]
		o.operation = op
		o.Body = o.RequestBody.Content["application/json"].Schema
		if name, ok := strings.CutPrefix(o.Body.Ref, "#/components/schemas/"); ok {
			o.Body = document.Components.Schemas[name]
		}
		for name, member := range o.Body.Properties {
			if ref, ok := strings.CutPrefix(member.Ref, "#/components/schemas/"); ok {
				o.Body.Properties[name] = document.Components.Schemas[ref]
			}
		}
		list = append(list, o.texts)
	}
	return list
}

// isContent are members that hold the bytes of a file or of input; the body's size bounds them.
var isContent = map[string]bool{"content": true, "content_base64": true, "data": true, "data_base64": true}

// TestEveryTextIsBounded: the document says of each text that a caller writes how long it may be,
// or what it looks like; of what stands in a path, both.
func TestEveryTextIsBounded(t *testing.T) {
	for _, op := range taken(t) {
		for _, p := range op.Parameters {
			if p.Schema.text() && (!p.Schema.bounded() || p.In == "path" && p.Schema.Pattern == "") {
				t.Errorf("%s: %s %s has no bound", op.id, p.In, p.Name)
			}
		}
		members(op.Body, "", func(name string, s schema) {
			if s.text() && !s.bounded() && !isContent[name] {
				t.Errorf("%s: %s has no bound", op.id, name)
			}
		})
	}
}

// members visits the members of a body, and of the objects in it.
func members(s schema, path string, visit func(name string, s schema)) {
	for name, member := range s.Properties {
		visit(path+name, member)
		members(member, path+name+".", visit)
	}
}

// TestTextThatADatabaseRefuses writes zero bytes and bytes that are no text everywhere where an
// operation takes a text. Each is the caller's mistake, the message names it, and the audit goes
// on.
func TestTextThatADatabaseRefuses(t *testing.T) {
	f := startOn(t, controltest.OpenAny(t), withWorkers(t), withAuthority(t))
	id := f.spawn().ID
	headers := []string{"X-Worker-ID", string(controltest.Self), "X-Worker-Token", sharedKey}
	refused := func(op texts, what, field, path string, body any, more ...string) {
		t.Helper()
		r := f.do(op.method, path, body, append(slices.Clone(headers), more...)...)
		code, message := r.refusal(t)
		if r.StatusCode != 400 || code != "BAD_REQUEST" || !strings.HasPrefix(message, field+": ") {
			t.Errorf("%s, %s: %d %s, want 400 %s", op.id, what, r.StatusCode, r.text, field)
		}
	}
	for _, op := range taken(t) {
		good := func(name string) string {
			return map[string]string{"id": id, "worker": string(controltest.Self), "resource": id, "pid": "p"}[name]
		}
		path := func(change, with string) string {
			made := "/api/v1" + op.path
			for _, p := range op.Parameters {
				if p.In == "path" {
					value := good(p.Name)
					if p.Name == change {
						value = with
					}
					made = strings.ReplaceAll(made, "{"+p.Name+"}", value)
				}
			}
			return made
		}
		for _, p := range op.Parameters {
			for _, bad := range []string{"a%00b", "%ff"} {
				switch {
				case p.In == "path" && p.Name != "worker":
					refused(op, "path "+p.Name+" "+bad, "path", path(p.Name, bad), nil)
				case p.In == "query":
					refused(op, "query "+p.Name+" "+bad, p.Name, path("", "")+"?"+url.QueryEscape(p.Name)+"="+bad, nil)
				}
			}
			if p.In == "header" && p.Name != "Upgrade" {
				refused(op, "header "+p.Name, p.Name, path("", ""), nil, p.Name, "\xff")
			}
		}
		for _, name := range slices.Sorted(maps.Keys(op.Body.Properties)) {
			if op.Body.Properties[name].text() && !isContent[name] {
				refused(op, "body "+name, name, path("", ""), `{"`+name+`":"a\u0000b"}`)
				refused(op, "body "+name+" of bytes", name, path("", ""), "{\""+name+"\":\"\xff\"}")
			}
		}
	}
	if r := f.do("DELETE", "/api/v1/sandboxes/"+id, nil); r.StatusCode != 200 {
		t.Errorf("%d %s", r.StatusCode, r.text)
	}
	var ready api.Readiness
	if f.do("GET", "/api/v1/ready", nil).into(t, &ready); ready.AuditLost != 0 {
		t.Errorf("%d audit lines are lost", ready.AuditLost)
	}
}
