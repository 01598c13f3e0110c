package client

import (
	"encoding/json"
	"reflect"
	"testing"
)

// lines are what servers write, and what they do not.
var lines = []string{
	`{"stream":"stdout","offset":0,"data_base64":"AAEC"}`,
	`{"stream":"stderr","offset":1234567890123,"data_base64":"AA=="}`,
	`{"stream":"stderr","offset":18446744073709551615,"data_base64":"AA=="}`,
	`{"stream":"stdout","offset":9223372036854775807,"data_base64":"AAE="}`,
	`{"stream":"stdout","offset":12}`,
	`{"stream":"stdout","data":"","offset":1,"gap":2}`,
	`{"stream":"stdout","offset":01,"data_base64":"AAEC"}`,
	`{"stream":"stdout","offset":-1,"data_base64":"AAEC"}`,
	`{"stream":"stdout","offset":1,"data_base64":"AAE"}`,
	`{"stream":"stdout","offset":1,"data_base64":"AA=="}`,
	`{"stream":"stdout","offset":1,"data_base64":"AB=="}`,
	`{"stream":"stdout","offset":1,"data_base64":"===="}`,
	`{"stream":"stdout","offset":1,"data_base64":"============"}`,
	`{"stream":"stdout","offset":1,"data_base64":"A==========="}`,
	`{"stream":"stdout","offset":1,"data_base64":"A==="}`,
	`{"stream":"stdout","offset":1,"data_base64":"AAECAAE=","gap":4}`,
	`{"stream":"stdout","offset":1,"data_base64":"AAEC\n"}`,
	`{"stream":"stdout","offset":1,"data_base64":"AA\r\rEC\r\r"}`,
	`{"stream":"stdout","offset":1,"data_base64":""}`,
	`{"type":"keepalive"}`,
	``,
}

// FuzzDataLine: what is read without encoding/json means the same there.
func FuzzDataLine(f *testing.F) {
	for _, line := range lines {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		line, ok := dataLine(text)
		if !ok {
			return
		}
		var want outputLine
		if err := json.Unmarshal(text, &want); err != nil || !reflect.DeepEqual(line, want) {
			t.Errorf("%q is %+v, not %+v (%v)", text, line, want, err)
		}
	})
}

// TestLinesOfServersAreReadFast: a piece of output as our server writes it needs no encoding/json.
func TestLinesOfServersAreReadFast(t *testing.T) {
	for _, line := range lines[:2] {
		if _, ok := dataLine([]byte(line)); !ok {
			t.Errorf("%s is not known", line)
		}
	}
}
