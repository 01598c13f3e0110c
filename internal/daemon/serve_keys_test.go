package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// TestServeRefusesOneKeyForClientsAndAdministrators: it would make every client an administrator.
// Nothing is made before.
func TestServeRefusesOneKeyForClientsAndAdministrators(t *testing.T) {
	c := config.Default()
	c.DataDir = filepath.Join(t.TempDir(), "data")
	c.Auth.APIKey, c.Auth.AdminAPIKey = "one key for all", "one key for all"
	err := Serve(t.Context(), Options{Config: c, Logger: daemontest.Quiet})
	if stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(c.DataDir); !os.IsNotExist(err) {
		t.Errorf("the data directory is there: %v", err)
	}
}
