package strictjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/strictjson"
)

type inner struct {
	Rows  int               `json:"rows"`
	Label map[string]string `json:"label"`
}

type embedded struct {
	Shared string `json:"shared"`
}

type message struct {
	embedded
	Command string    `json:"command"`
	Args    []string  `json:"args"`
	Inner   *inner    `json:"inner"`
	List    []inner   `json:"list"`
	At      time.Time `json:"at"`
	Any     any       `json:"any"`
	Plain   string
	Hidden  string `json:"-"`
}

func TestWhatHasTwoMeaningsIsRefused(t *testing.T) {
	for text, field := range map[string]string{
		`{"command":"a","COMMAND":"b"}`:                               "COMMAND",
		`{"Command":"a"}`:                                             "Command",
		`{"command":"a","command":"a"}`:                               "command",
		`{"command":"a","c\u006fmmand":"b"}`:                          "command",
		`{"ſhared":"a"}`:                                              "ſhared", // folds to s
		`{"inner":{"rows":1,"Rows":2}}`:                               "inner.Rows",
		`{"inner":{"label":{"a":"","a":""}}}`:                         "inner.label.a",
		`{"list":[{"rows":1},{"ROWS":1}]}`:                            "list[1].ROWS",
		`{"any":{"x":[{"y":1,"y":2}]}}`:                               "any.x[0].y",
		`{"unknown":{"x":1,"x":2}}`:                                   "unknown.x",
		`{"command":"\ud800"}`:                                        "command",
		`{"command":"\ud800\ud800"}`:                                  "command",
		`{"command":"\udc00"}`:                                        "command",
		`{"command":"\ud83d\\ude00"}`:                                 "command",
		`{"args":["a","\udfff"]}`:                                     "args[1]",
		"{\"command\":\"\xff\"}":                                      "command",
		"{\"inner\":{\"label\":{\"\xff\":1}}}":                        "inner.label.a name",
		`{"inner":{"label":{"\udabc":"x"}}}`:                          "inner.label.a name",
		"{\"any\":[\"\xed\xa0\x80\"]}":                                "any[0]", // a surrogate in UTF-8
		strings.Repeat(`{"any":`, 66) + "1" + strings.Repeat("}", 66): "",
	} {
		var into message
		err := strictjson.Unmarshal([]byte(text), &into)
		var wrong *strictjson.Error
		if !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%.80q: %v, want the field %q", text, err, field)
		}
	}
}

func TestWhatHasOneMeaningIsRead(t *testing.T) {
	for _, text := range []string{
		`{}`, `null`, `[]`, `"x"`, ` { "command" : "a\"b\\" , "args" : [ "\ud83d\ude00" , "é\u0000" ] , "at" : "2026-01-02T03:04:05Z" } `,
		`{"shared":"x","Plain":"y","-":1,"inner":null,"list":[{"label":{"A":"1","a":"2"}}],"any":[1.5e3,true,{"B":1,"b":2}]}`,
		strings.Repeat(`[`, 64) + strings.Repeat("]", 64),
	} {
		var strict, loose any
		if err := strictjson.Unmarshal([]byte(text), &strict); err != nil {
			t.Errorf("%.80q: %v", text, err)
		}
		if err := json.Unmarshal([]byte(text), &loose); err != nil || !reflect.DeepEqual(strict, loose) {
			t.Errorf("%.80q: %v is not %v", text, strict, loose)
		}
		if err := strictjson.Check([]byte(text), reflect.TypeFor[*message]()); err != nil {
			t.Errorf("%.80q for a message: %v", text, err)
		}
	}
	var syntax *json.SyntaxError
	for _, text := range []string{``, `{`, `{"a":1}{`, `{"a" 1}`, `nul`, "\"\n\"", strings.Repeat("[", 20_000)} {
		if err := strictjson.Check([]byte(text), nil); !errors.As(err, &syntax) {
			t.Errorf("%.80q: %v", text, err)
		}
	}
}

// FuzzCheck has the walk agree with encoding/json about where everything ends.
func FuzzCheck(f *testing.F) {
	for _, seed := range []string{`{"a":[1,"x\ud83d\ude00",{"b":null}]}`, `"\ud800"`, `[[[]]]`, " 1 ", `{"a":1,"a":2}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if strictjson.Check(data, reflect.TypeFor[message]()) != nil {
			return
		}
		var back any
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.UseNumber() // 1e700 is a number
		if err := decoder.Decode(&back); err != nil {
			t.Fatalf("%q was let through and is %v", data, err)
		}
		if again, err := json.Marshal(back); err != nil || strings.Contains(string(again), "\ufffd") && !strings.Contains(string(data), "\ufffd") &&
			!strings.Contains(strings.ToLower(string(data)), `\ufffd`) {
			t.Fatalf("%q became %q, %v", data, again, err)
		}
	})
}
