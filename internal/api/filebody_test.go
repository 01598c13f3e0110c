package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func contentOf(t *testing.T, b fileBody) string {
	t.Helper()
	text, err := io.ReadAll(b.content.Reader())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReadWriteFile(t *testing.T) {
	for name, c := range map[string]struct{ text, path, content string }{
		"in any order": {`{"content":"c","mode":"0600" , "user":"u",` + "\n\t" + `"path":"p"}`, "p", "c"},
		"escapes":      {`{"path":"\/a\u00e9","content":"\"\\\b\f\n\r\t\ud83d\ude00\u0000"}`, "/aé", "\"\\\b\f\n\r\t\U0001F600\x00"},
		"base64":       {`{"path":"p","content_base64":"/wBh\u0041A=="}`, "p", "\xff\x00a\x00"},
		"empty":        {`{"path":"p","content":""}`, "p", ""},
		"null":         {`{"path":"p","content":"","content_base64":null,"mode":null}`, "p", ""},
	} {
		for how, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
			b, err := readWriteFile(wrap(strings.NewReader(c.text)), 1<<20, nil)
			if err != nil || b.path != c.path || contentOf(t, b) != c.content {
				t.Errorf("%s, %s: %+v %v", name, how, b, err)
			}
		}
	}
	for text, field := range map[string]string{
		``:                                              "body",
		`[]`:                                            "body",
		`{}`:                                            "path",
		`{`:                                             "body",
		`{"path":"p","content":"a"} x`:                  "body",
		`{"path":"p" "content":"a"}`:                    "body",
		`{"path":"p","content":"a",}`:                   "body",
		`{"path":"p","content":"a"`:                     "body",
		`{"path":"p","content":"a`:                      "body",
		`{"path":"p","content":"a\`:                     "body",
		`{"path":"p","content":"a\x"}`:                  "content",
		`{"path":"p","content":"\u12"}`:                 "content",
		`{"path":"p","content":"\ud800"}`:               "content",
		`{"path":"p","content":"\ud800\u0061"}`:         "content",
		`{"path":"p","content":"\udc00\ud800"}`:         "content",
		"{\"path\":\"p\",\"content\":\"a\nb\"}":         "content",
		"{\"path\":\"p\",\"content\":\"a\xc3\"}":        "content",
		"{\"path\":\"p\",\"content\":\"\xff\"}":         "content",
		`{"path":"p","content":1}`:                      "content",
		`{"path":"p"}`:                                  "content",
		`{"path":"","content":""}`:                      "path",
		`{"content":""}`:                                "path",
		`{"path":"p","PATH":"q","content":""}`:          "PATH",
		`{"path":"p","path":"q","content":""}`:          "path",
		`{"path":null,"path":"q","content":""}`:         "path",
		`{"path":"a\u0000b","content":""}`:              "path",
		`{"path":"p","content":"","content_base64":""}`: "content_base64",
		`{"path":"p","content_base64":"a"}`:             "content_base64",
		`{"path":"p","content_base64":"a*=="}`:          "content_base64",
		`{"path":"` + strings.Repeat("p", 9000) + `","content":""}`: "path",
	} {
		_, err := readWriteFile(strings.NewReader(text), 1<<20, nil)
		if known, ok := errors.AsType[*stacyvm.Error](err); !ok || known.Code != stacyvm.CodeInvalid || known.Field != field {
			t.Errorf("%.60q: %v, not about %s", text, err, field)
		}
	}
	large := `{"path":"p","content":"` + strings.Repeat("x", 1<<20) + `"}`
	if _, err := readWriteFile(strings.NewReader(large), 1<<20, nil); stacyvm.CodeOf(err) != stacyvm.CodeTooLarge {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := readWriteFile(strings.NewReader(large), 2<<20, budget.New(1<<20).Open("me")); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("over the budget: %v", err)
	}
	broken := errors.New("broken")
	if _, err := readWriteFile(iotest.ErrReader(broken), 1<<20, nil); !errors.Is(err, broken) {
		t.Errorf("a body that breaks off: %v", err)
	}
}

// FuzzReadWriteFile compares with encoding/json: what both take means the same, and what that
// refuses is refused here.
func FuzzReadWriteFile(f *testing.F) {
	for _, seed := range []string{
		`{"path":"p","content":"\u00e9\ud83d\ude00","mode":"0644"}`, `{"path":"p","content_base64":"YQ=="}`, `{"path":null}`, `{"content":"`, "{\"path\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := readWriteFile(strings.NewReader(string(text)), 1<<20, nil)
		if err != nil {
			return
		}
		var want WriteFile
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("%q is taken, and is not JSON: %v", text, err)
		}
		var content string
		switch {
		case want.Content != nil:
			content = *want.Content
		case want.ContentBase64 != nil:
			data, err := base64.StdEncoding.DecodeString(*want.ContentBase64)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			content = string(data)
		}
		if got.path != want.Path || got.mode != want.Mode || got.user != want.User || contentOf(t, got) != content {
			t.Errorf("%q: %+v, not %+v", text, got, want)
		}
	})
}
