package cli

import (
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
)

// destructiveCommands is every command that ends or deletes something.
var destructiveCommands = []string{
	"stacyvm kill", "stacyvm image rm", "stacyvm db restore", "stacyvm db raise-incarnation", "stacyvm worker rm",
	"stacyvm worker join-token rm", "stacyvm pki rotate",
}

// TestSuggestionsAreHarmless mistypes each command in several ways: no hint names one that
// destroys something.
func TestSuggestionsAreHarmless(t *testing.T) {
	root := new(app).root()
	marked := 0
	for _, cmd := range descendants(root) {
		path := cmd.CommandPath()
		dangerous := slices.Contains(destructiveCommands, path)
		if (cmd.Annotations[destructive] != "") != dangerous {
			t.Errorf("%s: marked %v", path, !dangerous)
		}
		if !dangerous {
			continue
		}
		marked++
		name := cmd.Name()
		for _, typo := range []string{name[:len(name)-1], name + "s", name[1:], strings.ToUpper(name), "x" + name} {
			if err := onlySubcommands(cmd.Parent(), []string{typo}); err == nil || strings.Contains(err.Error(), "mean "+name) || strings.Contains(err.Error(), "or "+name) {
				t.Errorf("%s for %q: %v", path, typo, err)
			}
		}
	}
	if marked != len(destructiveCommands) {
		t.Errorf("%d of %d destructive commands exist", marked, len(destructiveCommands))
	}
}

// TestKillChecksAllFirst gives kill something wrong among good ids: no request that changes
// something is sent.
func TestKillChecksAllFirst(t *testing.T) {
	const one, two, gone = "sb-000000000000000000000001", "sb-000000000000000000000002", "sb-0000000000000000000000ff"
	var deleted []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		w.Header().Set("Content-Type", "application/json")
		switch {
		case id == gone:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"code":"NOT_FOUND","message":"it does not exist"}`))
			return
		case r.Method == http.MethodDelete:
			deleted = append(deleted, id)
		}
		_, _ = w.Write([]byte(`{"id":"` + id + `","status":"destroyed"}`))
	}))
	defer server.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{one, "K3Q7PROCESS"}, nil},
		{[]string{one, two, gone}, nil},
		{[]string{one, "123"}, nil},
		{[]string{one, ""}, nil},
		{[]string{one, two, one}, []string{one, two}},
	} {
		deleted = nil
		root := (&app{stdout: null, stderr: null}).root()
		root.SetArgs(append([]string{"kill", "--server", server.URL}, tt.args...))
		err := root.ExecuteContext(t.Context())
		if !slices.Equal(deleted, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("kill %q: %v; deleted %q", tt.args, err, deleted)
		}
	}
}
