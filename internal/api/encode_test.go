package api

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// TestSandboxesAreWrittenAsEncodingJSONWritesThem fills every field by reflection, so that a new
// one is not forgotten.
func TestSandboxesAreWrittenAsEncodingJSONWritesThem(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var sandbox Sandbox
		fields := reflect.ValueOf(&sandbox).Elem()
		for _, field := range fields.Fields() {
			if random.IntN(3) > 0 {
				fill(t, random, field)
			}
		}
		var want bytes.Buffer
		encoder := json.NewEncoder(&want)
		encoder.SetEscapeHTML(false)
		refused := encoder.Encode(sandbox)
		got, err := appendSandbox(nil, &sandbox)
		if (err != nil) != (refused != nil) || err == nil && string(got)+"\n" != want.String() {
			t.Fatalf("%s, %v\nwant %s, %v", got, err, want.String(), refused)
		}
	}
}

var texts = []string{
	"", "plain", "a b", `"`, `\`, "<&>", "\x00", "\b\f\n\r\t\x1f", "\x7f", "é", "漢字", "🙂", "\xff", "a\xc3", "\u2028\u2029", "\ufffd",
}

func fill(t *testing.T, random *rand.Rand, field reflect.Value) {
	text := func() string { return texts[random.IntN(len(texts))] + texts[random.IntN(len(texts))] }
	moment := func() time.Time {
		zones := []*time.Location{time.UTC, time.FixedZone("", 3600), time.FixedZone("", 59)}
		return time.UnixMicro(random.Int64N(300_000_000_000_000_000) - 60_000_000_000_000_000).In(zones[random.IntN(len(zones))])
	}
	switch to := field.Addr().Interface().(type) {
	case *string:
		*to = text()
	case *int:
		*to = random.IntN(2_000_000) - 1_000_000
	case *bool:
		*to = true
	case *time.Time:
		*to = moment()
	case **time.Time:
		*to = new(moment())
	case *[]string:
		for range random.IntN(4) {
			*to = append(*to, text())
		}
	case *map[string]string:
		*to = map[string]string{}
		for range random.IntN(4) {
			(*to)[text()] = text()
		}
	default:
		t.Fatalf("a field is a %T", to)
	}
}
