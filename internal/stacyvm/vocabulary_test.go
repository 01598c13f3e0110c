package stacyvm

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestFencesAreOrdered(t *testing.T) {
	ascending := []Fence{{}, {0, 1}, {1, 0}, {1, 1}, {1, 2}, {2, 1}, {2, 9}, {10, 1}}
	for i, a := range ascending {
		for j, b := range ascending {
			got := a.Compare(b)
			if (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%v compared with %v gives %d", a, b, got)
			}
		}
	}
}

func TestSandboxIDs(t *testing.T) {
	seen := map[SandboxID]bool{}
	for range 1000 {
		id := NewSandboxID()
		if !id.Valid() || seen[id] {
			t.Fatalf("id %q is malformed or came twice", id)
		}
		seen[id] = true
	}
	good := string(NewSandboxID())
	for _, bad := range []string{"", "sb-", good[:26], good + "0", strings.ToUpper(good), "sb-../../../../etc/passwd0", good + "\n", " " + good, "xx" + good[2:]} {
		if SandboxID(bad).Valid() {
			t.Errorf("%q passes as an id", bad)
		}
	}
}

func TestPrincipalScopes(t *testing.T) {
	p := Principal{Scopes: []string{"read:*", "api:exec"}}
	for scope, want := range map[string]bool{"read:sandboxes": true, "api:exec": true, "api:sandboxes": false, "api:exec2": false, "admin:x": false, "read": false} {
		if p.May(scope) != want {
			t.Errorf("May(%q) is %v", scope, !want)
		}
	}
	if (Principal{}).May("read:sandboxes") {
		t.Error("the zero principal may read")
	}
}

func TestPrincipalTenants(t *testing.T) {
	if !(Principal{}).Sees("a") || !(Principal{Tenant: "a"}).Sees("a") {
		t.Error("a tenant's own object is hidden")
	}
	if (Principal{Tenant: "a"}).Sees("b") || (Principal{Tenant: "a"}).Sees("") {
		t.Error("another tenant's object is visible")
	}
}

func TestErrors(t *testing.T) {
	if CodeOf(nil) != "" || CodeOf(io.EOF) != CodeInternal {
		t.Error("CodeOf of no error or of a foreign one is wrong")
	}
	wrapped := fmt.Errorf("while testing: %w", Wrap(CodeConflict, io.EOF, "taken"))
	if CodeOf(wrapped) != CodeConflict || !errors.Is(wrapped, io.EOF) {
		t.Error("a wrapped error loses its code or its cause")
	}
	if e := Invalid("ttl", "must be positive"); e.Field != "ttl" || !strings.HasPrefix(e.Message, "ttl: ") {
		t.Errorf("an invalid field is not named: %+v", e)
	}
	if e := Errorf(CodeTimeout, "late: %w", io.EOF); !errors.Is(e, io.EOF) {
		t.Error("Errorf loses its cause")
	}
	if e := Wrap(CodeInternal, io.EOF, "no luck"); !strings.Contains(e.Error(), "EOF") || strings.Contains(e.Message, "EOF") {
		t.Error("a cause must be in the log text and not in the message")
	}
}
