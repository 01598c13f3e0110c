package acceptance

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/client"
)

// mebibytes makes a file of random bytes and gives their hash.
func (r *rig) mebibytes(name string, n int64) (sum string) {
	r.t.Helper()
	file, err := os.Create(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(file, hash), rand.Reader, n<<20); err != nil {
		r.t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

func (r *rig) sum(name string) string {
	r.t.Helper()
	file, err := os.Open(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		r.t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

func TestStreams(t *testing.T) {
	r := newRig(t).serve()
	sandbox := r.sandbox()
	sum := r.mebibytes("big", 32)
	r.env = append(r.env, "SB="+sandbox)
	for _, row := range []struct {
		name, line string
		exit       int
		out        string
	}{
		{"input from a file", "stacyvm exec -i $SB -- sha256sum <big", 0, sum + "  -\n"},
		{"input from a pipe", "cat big | stacyvm exec -i $SB -- sha256sum", 0, sum + "  -\n"},
		{"input to run", "cat big | stacyvm run -i -- sha256sum", 0, sum + "  -\n"},
		{"input from nothing", "stacyvm exec -i $SB -- wc -c </dev/null", 0, "0\n"},
		{"input that is closed", "stacyvm exec -i $SB -- wc -c <&-", 0, "0\n"},
		{"input without end", "yes | head -c 1G | stacyvm exec -i $SB -- head -1 2>/dev/null; echo ${PIPESTATUS[2]}", 0, "y\n0\n"},
		{"input that nobody reads", "yes | stacyvm exec -i $SB -- sh -c 'exit 4'; echo ${PIPESTATUS[1]}", 0, "4\n"},
		{"input to none", "yes | stacyvm exec $SB -- cat; echo ${PIPESTATUS[1]}", 0, "0\n"},
		{"input from a directory", "stacyvm exec -i $SB -- wc -c <.", 0, "0\n"},
		{"streams apart", "stacyvm exec $SB -- sh -c 'echo out; echo err >&2' 2>/dev/null", 0, "out\n"},
		{"a reader that leaves", "stacyvm exec $SB -- yes | head -1; echo ${PIPESTATUS[0]}", 0, "y\n141\n"},
		{"a reader that leaves a program that ignores it", "stacyvm exec $SB -- python3 -c 'while True: print(1)' | head -1; echo ${PIPESTATUS[0]}", 0, "1\n143\n"},
		{"a reader that leaves run", "stacyvm run -- yes | head -1; echo ${PIPESTATUS[0]}", 0, "y\n141\n"},
		{"a full disk", "stacyvm exec $SB -- echo x >/dev/full", 1, ""},
		{"a full disk under run", "stacyvm run -- echo x >/dev/full", 1, ""},
		{"a full disk under a table", "stacyvm list >/dev/full", 1, ""},
		{"a full disk under spawn", "stacyvm spawn >/dev/full 2>said; code=$?; cat said >&2; stacyvm kill $(grep -o 'sb-[0-9a-f]*' said) >/dev/null; exit $code", 1, ""},
		{"a full disk under JSON", "stacyvm list -o json >/dev/full", 1, ""},
		{"a full disk under a line", "stacyvm version >/dev/full", 1, ""},
		{"a full disk under logs", "stacyvm exec $SB -- echo x >/dev/null && stacyvm logs $SB >/dev/full", 1, ""},
		{"a full disk under help", "stacyvm help >/dev/full", 1, ""},
		{"a full disk under completion", "stacyvm completion bash >/dev/full", 1, ""},
		{"a full disk under cp", "stacyvm cp $SB:/etc/passwd /dev/full", 1, ""},
		{"output that is not text", `stacyvm exec $SB -- python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(256))*4096)' | sha256sum`, 0, allBytes() + "  -\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := r.in(t)
			if got := r.do(r.shell(row.line)); got.exit != row.exit || got.stdout != row.out || row.exit != 0 && got.stderr == "" {
				t.Errorf("exit code %d, printed %.200q, said %.500q", got.exit, got.stdout, got.stderr)
			}
		})
	}
	// Nobody waits for a reader that will not come; what a full disk stopped can be read again.
	processes, err := r.client.Processes(t.Context(), sandbox)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if p.Running() {
			t.Errorf("still there: %s", p.Command)
		}
	}
}

func allBytes() string {
	hash := sha256.New()
	for i := range 256 * 4096 {
		hash.Write([]byte{byte(i)})
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// TestAttachedReader: a reader of attach comes and goes without harm to the process, and output is
// byte-exact.
func TestAttachedReader(t *testing.T) {
	r := newRig(t).serve()
	sandbox := r.sandbox()
	process, err := r.client.Start(t.Context(), sandbox, client.ExecRequest{Command: "seq 100000; sleep 1000", Lossless: true})
	if err != nil {
		t.Fatal(err)
	}
	r.env = append(r.env, "SB="+sandbox, "PROC="+process.ID)
	for range 3 {
		if out := r.must(r.shell("stacyvm attach $SB $PROC | head -2; true")); out != "1\n2\n" {
			t.Errorf("printed %q", out)
		}
	}
	again, err := r.client.Process(t.Context(), sandbox, process.ID)
	if err != nil || !again.Running() {
		t.Fatalf("after its readers: %+v %v", again, err)
	}
	if err := r.client.Signal(t.Context(), sandbox, process.ID, "KILL"); err != nil {
		t.Fatal(err)
	}
	got := r.do(r.shell("stacyvm attach $SB $PROC | sha256sum"))
	want := r.must(r.shell("seq 100000 | sha256sum"))
	if got.exit != 137 || strings.TrimSpace(got.stdout) != strings.TrimSpace(want) {
		t.Errorf("%+v, want %q", got, want)
	}
}
