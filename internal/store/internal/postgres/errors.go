package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Dialect is PostgreSQL's side of what differs. password is kept out of every error.
func Dialect(password string) *sqldb.Dialect {
	return &sqldb.Dialect{
		Goose:        goose.DialectPostgres,
		RowLock:      " FOR NO KEY UPDATE",
		AdvisoryLock: `SELECT pg_advisory_xact_lock(hashtextextended(CAST($1 AS TEXT) || current_schema(), 0))`,
		Members:      func(argument string) string { return "json_each_text(CAST(CAST(" + argument + " AS TEXT) AS JSON))" },
		Word:         func(column, key string) string { return "CAST(" + column + " AS JSON) ->> '" + key + "'" },
		Integer: func(column, key string) string {
			return "CAST(CAST(" + column + " AS JSON) ->> '" + key + "' AS BIGINT)"
		},
		Words: map[string]string{
			"serial":   "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
			"postgres": "",
			"stored":   "STORED",
		},
		Clock: serverClock,
		Bytes: "BYTEA",
		Now:   pgNow,
		Translate: func(err error) error {
			return translate(redacted(err, password))
		},
	}
}

// SQLSTATE codes that mean something to us.
const (
	pgUnique        = "23505"
	pgDiskFull      = "53100"
	pgSerialization = "40001"
	pgDeadlock      = "40P01"
	pgConnections   = "53300"
	pgReadOnly      = "25006"
	pgNoDatabase    = "3D000"
	pgNoSchema      = "3F000"
	pgNoRight       = "42501"
	pgNoFunction    = "42883"
	pgUnsupported   = "0A000"
)

// pgState is the SQLSTATE in err's chain, "" without one.
func pgState(err error) string {
	if failed, ok := errors.AsType[*pgconn.PgError](err); ok {
		return failed.Code
	}
	return ""
}

// translate gives a driver's error its code and a message that tells neither SQL nor hosts.
func translate(err error) error {
	var known *stacyvm.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	state := pgState(err)
	switch state {
	case "":
		return translateConnection(err)
	case pgUnique:
		return stacyvm.Wrap(stacyvm.CodeConflict, err, "it exists already")
	case pgDiskFull:
		return dberr.DiskFull(err)
	case pgSerialization, pgDeadlock:
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database is busy")
	case pgReadOnly:
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database takes no writes now")
	case "25P03", "55P03", "57014": // idle too long in a transaction, a lock, a statement
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database did not answer in time")
	case pgNoDatabase, pgNoSchema:
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database is not there")
	}
	switch state[:2] {
	case "08", "28", "53", "57", "58": // connection, authorisation, resources, operator, system
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database cannot do this now")
	case "22", "23":
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database refused a value")
	case "XX":
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database is damaged: restore a backup")
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database failed")
}

// translateConnection is translate for what the server did not say.
func translateConnection(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) {
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database did not answer in time")
	}
	if lostConnection(err) {
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database's connection ended")
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database failed")
}

// isTransient reports whether a failure, that left nothing behind, may not come again.
func isTransient(err error) bool {
	switch state := pgState(err); state {
	case "":
		return lostConnection(err)
	case pgSerialization, pgDeadlock, pgConnections:
		return true
	default:
		return strings.HasPrefix(state, "57P") // it stops or starts
	}
}

// lostConnection reports whether a connection could not be made, or ended. One that was waited for
// in vain is not meant.
func lostConnection(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var refused *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &refused) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone)
}

// refusedOpen is translate for the first connection: what is wrong is then most likely the
// configuration.
func refusedOpen(err error) error {
	says := func(message string) error {
		return &stacyvm.Error{
			Code:    stacyvm.CodeInvalid,
			Field:   "database.dsn",
			Message: "database.dsn: " + message,
			Err:     err,
		}
	}
	switch state := pgState(err); {
	case strings.HasPrefix(state, "28"):
		return says("the server refuses the user or the password")
	case state == pgNoDatabase:
		return says("the server has no such database")
	case state == pgNoSchema:
		return says("the database has no schema that search_path names")
	case state == pgNoRight:
		return says("the user may not make tables, or read what it must")
	}
	return err
}

// redacted is err with the password struck out of its text. Drivers do not put it there; this
// holds should one begin to.
func redacted(err error, password string) error {
	if err == nil || password == "" || !strings.Contains(err.Error(), password) {
		return err
	}
	return struckOut{errors.New(strings.ReplaceAll(err.Error(), password, "xxxxx")), err}
}

// struckOut has another text than its cause, and is the same error.
type struckOut struct {
	error
	cause error
}

// Unwrap gives the cause, for errors.Is and errors.As.
func (s struckOut) Unwrap() error { return s.cause }
