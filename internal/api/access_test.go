package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// everyScope are those that a client's or administrator's credential can have.
var everyScope = []string{
	auth.ScopeReadSandboxes, auth.ScopeReadEvents, auth.ScopeAPISandboxes, auth.ScopeAPIExec, auth.ScopeAPIFiles,
	auth.ScopeAdminRoutes, auth.ScopeAdminWorkers, auth.ScopeAdminAudit,
}

// scoped is an authenticator whose credentials say which scopes they have; the client's key has
// all.
type scoped struct{}

func (scoped) Kind() auth.Kind { return auth.KindClient }

func (scoped) Authenticate(shown auth.Shown) (auth.Identity, error) {
	scopes := everyScope
	if len(shown.API) != 1 {
		return auth.Identity{}, stacyvm.Errorf(stacyvm.CodeUnauthenticated, "no scopes are shown")
	}
	if shown.API[0] != clientKey {
		scopes = strings.Split(shown.API[0], " ")
	}
	return auth.Identity{Principal: stacyvm.Principal{Scopes: scopes}}, nil
}

// TestRoutesNeedTheScopesThatTheyName: each route is refused to a caller that has every scope but
// one that the document names, and to nobody who has these alone. The routes of workers are in the
// matrix of their credentials.
func TestRoutesNeedTheScopesThatTheyName(t *testing.T) {
	f := start(t, func(c *api.Config) { c.Authenticators = auth.Authenticators{scoped{}} }, withAuthority(t))
	for _, op := range operations(t) {
		if op.worker || op.public || op.id == "exec-websocket" { // which is refused on the socket: see socket_test.go
			continue
		}
		t.Run(op.id, func(t *testing.T) {
			f := *f
			f.t = t
			e, s := examples[op.id], f.subject()
			if strings.HasPrefix(op.path, "/admin/") { // what it would do, is done to nobody
				op.path = strings.NewReplacer("{worker}", "nobody", "{resource}", "x", "{token}", "x").Replace(op.path)
			}
			forbidden := func(scopes []string) bool {
				r := f.do(op.method, op.url(e, s), e.body, append([]string{"X-API-Key", strings.Join(scopes, " "), "X-Tenant-ID", "ours"}, e.header...)...)
				return r.StatusCode == http.StatusForbidden
			}
			if len(op.needs) == 0 {
				t.Fatal("the document names no scope")
			}
			for _, scope := range op.needs {
				but := slices.DeleteFunc(slices.Clone(everyScope), func(one string) bool { return one == scope })
				if !forbidden(but) {
					t.Errorf("a caller without %s is not refused", scope)
				}
			}
			if forbidden(op.needs) {
				t.Errorf("a caller with %v is refused", op.needs)
			}
		})
	}
}

// TestWorkerRoutesNameTheScopesOfTheMatrix ties the document to scopeOf, by which the matrix asks.
func TestWorkerRoutesNameTheScopesOfTheMatrix(t *testing.T) {
	for _, op := range operations(t) {
		if op.worker && !slices.Equal(op.needs, []string{scopeOf[op.id]}) {
			t.Errorf("%s names %v, and %s is asked for", op.id, op.needs, scopeOf[op.id])
		}
	}
}

// tenantOnly is an authenticator whose credential belongs to one tenant.
type tenantOnly struct{ scoped }

func (tenantOnly) Authenticate(shown auth.Shown) (auth.Identity, error) {
	identity, err := scoped{}.Authenticate(shown)
	identity.Principal.Tenant = "ours"
	return identity, err
}

// TestTenantOfTheCredential: a header cannot lead out of the credential's tenant.
func TestTenantOfTheCredential(t *testing.T) {
	f := start(t, func(c *api.Config) { c.Authenticators = auth.Authenticators{tenantOnly{}} }, nil)
	for header, want := range map[string]int{"": http.StatusOK, "ours": http.StatusOK, "theirs": http.StatusForbidden} {
		if r := f.do("GET", "/api/v1/sandboxes", nil, "X-API-Key", clientKey, "X-Tenant-ID", header); r.StatusCode != want {
			t.Errorf("X-Tenant-ID %q: %d %s", header, r.StatusCode, r.text)
		}
	}
	if s := f.spawn("X-API-Key", clientKey); s.TenantID != "ours" {
		t.Errorf("a sandbox of tenant %q", s.TenantID)
	}
}
