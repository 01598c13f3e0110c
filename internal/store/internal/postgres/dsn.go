package postgres

import (
	"context"
	"database/sql"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

const (
	// connLife bounds a connection's age, so that the pool follows a name that moved to another
	// server.
	connLife = 30 * time.Minute
	// cancelWithin is how long a statement that was given up has to end before its connection is
	// closed.
	cancelWithin = time.Second
)

// execModes are pgx's words for how statements are sent.
var execModes = map[string]pgx.QueryExecMode{
	"cache_statement": pgx.QueryExecModeCacheStatement,
	"cache_describe":  pgx.QueryExecModeCacheDescribe,
	"describe_exec":   pgx.QueryExecModeDescribeExec,
	"exec":            pgx.QueryExecModeExec,
	"simple_protocol": pgx.QueryExecModeSimpleProtocol,
}

// ParseDSN reads a connection string. Its errors hold no part of it: where it cannot be read,
// nobody knows which part of it is the password.
func ParseDSN(field, dsn string) (*pgx.ConnConfig, error) {
	if dsn == "" {
		return nil, stacyvm.Invalid(field, "is missing")
	}
	if !wholeURL(dsn) {
		return nil, stacyvm.Invalid(
			field,
			"is not a URL with a user, host and database: special characters of a password must be percent-encoded",
		)
	}
	parsed, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, stacyvm.Invalid(
			field,
			"cannot be read: use postgres://USER:PASSWORD@HOST:PORT/DATABASE, or keyword=value pairs",
		)
	}
	return parsed, nil
}

// wholeURL reports whether a URL's user part ends where it seems to: a password with an unescaped
// /, ? or # ends the host's part early, and what is left of it would be taken for a host and a
// port.
func wholeURL(dsn string) bool {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return true
	}
	parsed, err := url.Parse(dsn)
	return err == nil && parsed.Fragment == "" && (parsed.User != nil || !strings.Contains(dsn, "@"))
}

// Connect makes a pool. Nothing is dialled yet.
func Connect(config sqldb.Config) (db *sql.DB, password string, err error) {
	parsed, err := ParseDSN("database.dsn", config.DSN)
	if err != nil {
		return nil, "", err
	}
	if config.ExecMode != "" {
		mode, ok := execModes[config.ExecMode]
		if !ok {
			return nil, "", stacyvm.Invalid(
				"database.exec_mode",
				"%.32q is not known: use cache_statement, cache_describe, describe_exec, exec or simple_protocol",
				config.ExecMode,
			)
		}
		parsed.DefaultQueryExecMode = mode
	}
	parsed.ConnectTimeout = config.ConnectTimeout
	if parsed.ValidateConnect == nil { // target_session_attrs is not set: rows and leases live on the primary only
		parsed.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	if parsed.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		// A statement that is given up is cancelled, and its connection stays. Behind a pooler it
		// is closed instead, and the server ends the statement by its own bound: PgBouncer 1.18
		// may die of cancel requests, and takes everybody with it.
		parsed.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelWithin}
		}
	}
	// Nobody asks whether an idle connection still lives: what is sent on it says so, and goes to
	// another one then.
	db = stdlib.OpenDB(
		*parsed,
		stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool { return false }),
	)
	db.SetMaxOpenConns(config.MaxOpenConns)
	db.SetMaxIdleConns(config.MaxIdleConns)
	db.SetConnMaxLifetime(connLife)
	return db, parsed.Password, nil
}
