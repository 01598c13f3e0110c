package api_test

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestManyBackgroundCommands: with 3,000 commands in the background and 200 outputs open in one
// sandbox every call is answered, no output breaks, and the log learns of every end.
func TestManyBackgroundCommands(t *testing.T) {
	testneed.Patience(t)
	const commands, outputs = 3000, 200
	f := start(t, nil, nil)
	sandbox := f.spawn()
	path := "/api/v1/sandboxes/" + sandbox.ID
	name := "background" + rand.Text()
	ids := make([]string, commands)
	parallel(16, commands, func(i int) {
		answer := f.do("POST", path+"/processes", map[string]any{"command": "bash", "mode": "argv", "args": []string{"-c", "exec -a " + name + " sleep 1000"}})
		var p struct{ ID string }
		if err := json.Unmarshal([]byte(answer.text), &p); err != nil || answer.StatusCode != http.StatusCreated {
			t.Errorf("start: %d %s", answer.StatusCode, answer.text)
		}
		ids[i] = p.ID
	})
	if t.Failed() {
		return
	}
	var lines [outputs]*bufio.Reader
	parallel(16, outputs, func(i int) {
		answer, err := f.client.Get(f.server.URL + path + "/processes/" + ids[i] + "/output")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = answer.Body.Close() })
		lines[i] = bufio.NewReader(answer.Body)
		if line, err := lines[i].ReadString('\n'); err != nil || !strings.Contains(line, "keepalive") {
			t.Errorf("output: %q, %v", line, err)
		}
	})
	if t.Failed() {
		return
	}
	began := time.Now()
	for range 10 {
		if answer := f.do("POST", path+"/exec", map[string]any{"command": "echo here"}); answer.StatusCode != http.StatusOK || !strings.Contains(answer.text, "here") {
			t.Fatalf("exec: %d %s", answer.StatusCode, answer.text)
		}
		if answer := f.do("GET", path+"/processes", nil); answer.StatusCode != http.StatusOK || !strings.Contains(answer.text, ids[commands-1]) {
			t.Fatalf("list: %d %.300s", answer.StatusCode, answer.text)
		}
	}
	if answer := f.do("POST", path+"/processes/"+ids[commands-1]+"/signal", map[string]any{"signal": "KILL"}); answer.StatusCode >= 300 {
		t.Fatalf("signal: %d %s", answer.StatusCode, answer.text)
	}
	t.Logf("21 calls beside %d commands took %s", commands, time.Since(began))
	f.do("POST", path+"/exec", map[string]any{"command": "pkill -f '^[" + name[:1] + "]" + name[1:] + "'"})
	for i := range lines {
		rest, err := io.ReadAll(lines[i])
		if err != nil || !strings.Contains(string(rest), `"exit_code":143`) {
			t.Errorf("output %d ended with %.200q, %v", i, rest, err)
		}
	}
	told := func() (n int) {
		err := f.store.View(t.Context(), func(tx store.Tx) error {
			records, err := tx.Audit().Execs(t.Context(), store.ExecFilter{Sandbox: stacyvm.SandboxID(sandbox.ID), Limit: 2 * commands})
			for _, r := range records {
				if strings.Contains(r.Command, name) && (r.ExitCode == 143 || r.ExitCode == 137) {
					n++
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for deadline := time.Now().Add(30 * time.Second); told() < commands; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log has the ends of %d commands", told())
		}
	}
}

// parallel calls do with 0 to n-1, so many at a time.
func parallel(width, n int, do func(int)) {
	slots := make(chan struct{}, width)
	var all sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	all.Wait()
}
