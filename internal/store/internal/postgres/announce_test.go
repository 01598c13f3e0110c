package postgres

import (
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// TestListenConfig finds out where to listen.
func TestListenConfig(t *testing.T) {
	for name, tt := range map[string]struct {
		config sqldb.Config
		host   string // empty: nowhere
		code   stacyvm.Code
	}{
		"the database":       {sqldb.Config{DSN: "postgres://u@main/x"}, "main", ""},
		"past the pooler":    {sqldb.Config{DSN: "postgres://u@pool/x", ListenDSN: "postgres://u@main/x", ExecMode: "exec"}, "main", ""},
		"only the pooler":    {sqldb.Config{DSN: "postgres://u@pool/x", ExecMode: "cache_describe"}, "", ""},
		"a wrong listen DSN": {sqldb.Config{DSN: "postgres://u@pool/x", ListenDSN: "postgres://u:a/b@main/x"}, "", stacyvm.CodeInvalid},
	} {
		parsed, err := listenConfig(tt.config)
		if stacyvm.CodeOf(err) != tt.code || (parsed == nil) != (tt.host == "") || parsed != nil && parsed.Host != tt.host {
			t.Errorf("%s: %v, %v", name, parsed, err)
		}
	}
}
