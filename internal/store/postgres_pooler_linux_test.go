package store_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// poolerConf keeps fewer sessions than the tests have transactions, so that they do change hands.
const poolerConf = `
[databases]
* = host=%[1]s port=5432
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %[1]s
auth_type = trust
auth_file = %[1]s/users
pool_mode = transaction
default_pool_size = 6
max_client_conn = 500
logfile = %[1]s/pooler.log
`

// startPooler runs PgBouncer, which gives each transaction another session, before a server and
// gives the DSN that leads through it.
func startPooler(t *testing.T, server *postgrestest.Server) (dsn string) {
	t.Helper()
	testneed.Root(t, "run the pooler as the server's user")
	program := testneed.Program(t, "pgbouncer")
	info, err := os.Stat(server.Dir)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	conf := filepath.Join(server.Dir, "pooler.ini")
	for path, text := range map[string]string{conf: fmt.Sprintf(poolerConf, server.Dir), filepath.Join(server.Dir, "users"): `"postgres" ""` + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	pooler := exec.Command(program, "-q", conf)
	pooler.Dir = server.Dir
	pooler.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	if err := pooler.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = pooler.Process.Kill()
		_ = pooler.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(server.Dir, "pooler.log"))
			t.Logf("%v: %s", pooler.ProcessState, log[max(0, len(log)-2000):])
		}
	})
	socket := filepath.Join(server.Dir, ".s.PGSQL.6432")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			return strings.Replace(server.DSN, "port=5432", "port=6432", 1)
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestPoolerContract runs the contract through a pooler, in each way of sending statements that
// one allows. Its long tests, of what chance decides, have nothing to do with how statements are
// sent.
func TestPoolerContract(t *testing.T) {
	// a pooler keeps some for each database, and each test has its own
	server := postgrestest.Start(t, "max_connections = 500")
	dsn := startPooler(t, server)
	admin := postgrestest.Connect(t, server.DSN)
	var databases atomic.Int64
	for _, mode := range []string{"cache_describe", "exec"} {
		t.Run(mode, func(t *testing.T) {
			contract(t, func(t testing.TB) store.Config {
				name := fmt.Sprintf("pooled_%d", databases.Add(1)) // a pooler takes no search_path
				if _, err := admin.ExecContext(t.Context(), `CREATE DATABASE `+name); err != nil {
					t.Fatal(err)
				}
				return store.Config{Driver: "postgres", DSN: postgrestest.With(dsn, "dbname", name), ExecMode: mode, MaxOpenConns: 8}
			}, "lease/races", "lease/model")
		})
	}
}
