package guest

import (
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// FuzzLists gives a guest's bytes to the decoding of its lists of processes and files. Whatever is
// taken is within bounds and is text.
func FuzzLists(f *testing.F) {
	for _, message := range []proto.Message{
		&guestv1.ListResponse{Processes: []*guestv1.Process{{Id: "p1", Pid: 7, Argv: []string{"sh", "-c", "true"}, StartedUs: 1, Exit: &guestv1.Exit{Code: 3}}, {}}},
		&guestv1.ListFilesResponse{Files: []*guestv1.FileInfo{{Path: "/workspace/a", Size: 5, Mode: 0o100644, ModifiedUs: 1, LinkTarget: "b"}, {Path: "\u00e9"}}},
	} {
		wire, err := proto.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Add([]byte("\x0a\x00\x0a\x02\x0a\x00"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		var processes guestv1.ListResponse
		if (codec{}).Unmarshal(wire, &processes) == nil {
			for _, p := range processes.GetProcesses() {
				read := process(p, "")
				checkEvent(t, stacyvm.OutputEvent{Started: &read})
				if len(read.ID) > maxName || read.PID < 0 || read.Stdout.First > read.Stdout.Bytes {
					t.Fatalf("%+v", read)
				}
			}
		}
		var files guestv1.ListFilesResponse
		if (codec{}).Unmarshal(wire, &files) == nil {
			for _, one := range files.GetFiles() {
				read := file(one)
				if !utf8.ValidString(read.Path) || !utf8.ValidString(read.LinkTarget) || len(read.Path) > maxText || len(read.LinkTarget) > maxText || read.Mode > 0o7777 {
					t.Fatalf("%+v", read)
				}
			}
		}
	})
}
