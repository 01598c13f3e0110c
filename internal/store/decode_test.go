package store

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// FuzzDecodeTexts compares with encoding/json whatever that takes.
func FuzzDecodeTexts(f *testing.F) {
	for _, seed := range []string{
		`null`, `{}`, `{"a":"b"}`, `{"a":"b","c":""}`, `{"a":"\u003c"}`, `{"a":"b",}`, `{"a":"b"}}`, `{"a":1}`, `{"":""}`, `{"a":"b"`, `{"é":"漢"}`, `{"a":"b","a":"c"}`, `{,}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var want map[string]string
		if json.Unmarshal([]byte(text), &want) != nil {
			return // nobody writes such
		}
		kept := packed(want)
		got, err := decodeTexts(kept)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %q, %v", kept, got, err)
		}
		if raw, ok := plainTexts(text); ok && !reflect.DeepEqual(raw, want) {
			t.Errorf("%q is %q, want %q", text, raw, want)
		}
	})
}

// TestDecodedSpecsAreTheCallersOwn: what one caller does to its spec nobody else sees.
func TestDecodedSpecsAreTheCallersOwn(t *testing.T) {
	want := stacyvm.Spec{Image: "i", TTL: 5, Env: map[string]string{"a": "b"}, Selector: map[string]string{"c": "d"}}
	for range 2 {
		got, err := decodeSpec(packed(want))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, %v", got, err)
		}
		got.Env["a"], got.Selector["x"] = "changed", "y"
	}
	if _, err := decodeSpec("{"); err == nil {
		t.Error("half a spec was read")
	}
}
