package guest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// FuzzEvent gives a guest's bytes to the decoding, twice in a row, and checks all that later code
// relies on.
func FuzzEvent(f *testing.F) {
	for _, event := range []*guestv1.ProcessEvent{
		started("p"), data(out, 5, "text"), data(errs, 9, "text"), gap(out, 5, 1<<40), exited(&guestv1.Exit{Code: -1, DurationUs: -1}), keepalive(),
		{Event: &guestv1.ProcessEvent_Started{Started: &guestv1.Process{Argv: []string{"a", "b"}, StartedUs: -1 << 63, Exit: &guestv1.Exit{}}}},
	} {
		wire, err := proto.Marshal(event)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, uint64(5), uint64(9))
	}
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), uint64(0), uint64(1)<<63)
	f.Fuzz(func(t *testing.T, wire []byte, stdout, stderr uint64) {
		p := place{stdout: stdout, stderr: stderr, most: maxData}
		for range 2 {
			var message guestv1.ProcessEvent
			if (codec{}).Unmarshal(wire, &message) != nil {
				return
			}
			before := p
			event, err := p.event(&message)
			if err != nil {
				if p != before || stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
					t.Fatalf("a refused event moved the place, or has code %q", stacyvm.CodeOf(err))
				}
				return
			}
			checkEvent(t, event)
			moved := p.stdout - before.stdout + p.stderr - before.stderr
			if p.stdout < before.stdout || p.stderr < before.stderr || moved != uint64(len(event.Data))+event.Gap {
				t.Fatalf("the place went from %+v to %+v at %+v", before, p, event)
			}
		}
	})
}

func checkEvent(t *testing.T, event stacyvm.OutputEvent) {
	t.Helper()
	if len(event.Data) > maxData {
		t.Fatalf("%d bytes of data", len(event.Data))
	}
	if _, err := json.Marshal(event); err != nil {
		t.Fatalf("cannot be told on: %v", err)
	}
	if p := event.Started; p != nil {
		total := 0
		for _, text := range slices.Concat(p.Argv, []string{p.ID, p.Label, p.Workdir, p.User}) {
			total += len(text)
			if !utf8.ValidString(text) || len(text) > maxText {
				t.Fatalf("text of %d bytes", len(text))
			}
		}
		if total > maxArgv+3*maxText {
			t.Fatalf("texts of %d bytes", total)
		}
	}
	if e := event.Exit; e != nil && (e.Code < 0 || e.Code > 255 || e.Duration < 0) {
		t.Fatalf("exit %+v", e)
	}
}

func TestTextIsCutBetweenCharacters(t *testing.T) {
	for _, tt := range []struct {
		in    string
		limit int
		want  string
	}{
		{"héllo", 10, "héllo"}, {"héllo", 3, "hé"}, {"héllo", 2, "h"}, {"日本", 5, "日"}, {"日本", 6, "日本"}, {"a\U0001F600", 4, "a"},
		{"\xff\xfe", 10, "\uFFFD"}, {"ok\xc3", 10, "ok\uFFFD"}, {"", 0, ""}, {"abc", 0, ""},
	} {
		if got := text(tt.in, tt.limit); got != tt.want {
			t.Errorf("%q to %d: %q", tt.in, tt.limit, got)
		}
	}
	if got := text(strings.Repeat("\x80", 50), 20); !utf8.ValidString(got) {
		t.Errorf("%q", got)
	}
}

// TestFieldsAreCountedBeforeTheyTakeMemory sends messages whose size is harmless and whose number
// of fields is not.
func TestFieldsAreCountedBeforeTheyTakeMemory(t *testing.T) {
	for what, tt := range map[string]struct {
		wire string
		into proto.Message
	}{
		"empty processes": {strings.Repeat("\x0a\x00", MaxFields+1), &guestv1.ListResponse{}},
		"empty arguments": {nested(strings.Repeat("\x1a\x00", MaxFields+1)), &guestv1.ProcessEvent{}},
		"unknown fields":  {strings.Repeat("\xf8\x07\x01", MaxFields+1), &guestv1.ProcessEvent{}},
		"cut tag":         {"\xff", &guestv1.ProcessEvent{}},
		"cut value":       {"\x0a\x05x", &guestv1.ProcessEvent{}},
		"invalid text":    {"\x0a\x02\xff\xfe", &guestv1.PingResponse{}},
	} {
		if err := (codec{}).Unmarshal([]byte(tt.wire), tt.into); err == nil {
			t.Errorf("%s: decoded", what)
		}
	}
	if err := (codec{}).Unmarshal([]byte(strings.Repeat("\x0a\x00", MaxFields)), &guestv1.ListResponse{}); err != nil {
		t.Errorf("the most fields that may be: %v", err)
	}
}

// nested wraps a process into a started event.
func nested(process string) string {
	size := len(process)
	return "\x0a" + string([]byte{byte(size)&0x7f | 0x80, byte(size>>7)&0x7f | 0x80, byte(size >> 14)}) + process
}
