package dbtool

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"slices"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/postgres"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
	"github.com/stacyvm/stacyvm/internal/store/migrations"
)

// Schema is how far a database's schema is, beside what this program knows.
type Schema struct {
	// Exists: there is a database. Without one all steps are pending.
	Exists  bool
	Server  string        // the database's own version, such as "SQLite 3.50.4"
	Applied []Step        // in order; steps that this program does not know have no name
	Pending []Step        // known and not applied, in order
	Present int64         // the highest that is applied, 0 without one
	Known   int64         // the highest that this program knows
	Cluster store.Cluster // zero without one
	// Changeable: the program may change the schema, as pending steps need.
	Changeable bool
	// Blind says what this program does not notice with this database; "": nothing.
	Blind string
	// Tables are those that the applied and known steps make; Missing are those of them that are
	// not there.
	Tables, Missing []string
}

// Step is one numbered change of the schema.
type Step struct {
	Version int64
	Name    string
}

// Newer reports whether a newer program has changed the database.
func (s Schema) Newer() bool { return s.Present > s.Known }

// Inspect looks at the database that config names and changes nothing of it: it is neither made
// nor brought up to date. CodeInvalid: the configuration is wrong, or the file is no database;
// CodeUnavailable: it does not answer.
func Inspect(ctx context.Context, config store.Config) (Schema, error) {
	switch config.Driver {
	case "", "sqlite", "sqlite3":
		return inspectSQLite(ctx, config)
	case "postgres", "postgresql":
		return inspectPostgres(ctx, config)
	}
	return Schema{}, dberr.UnknownDriver(config.Driver)
}

// Migrate brings the schema of the database that config names up to date, and makes the database
// when there is none. It tells how the schema was before and is after. CodeUnsupported: a newer
// program has changed it.
func Migrate(ctx context.Context, config store.Config) (before, after Schema, err error) {
	if before, err = Inspect(ctx, config); err != nil {
		return before, after, err
	}
	opened, err := store.Open(ctx, config)
	if err != nil {
		return before, after, err
	}
	if err := opened.Close(); err != nil {
		return before, after, err
	}
	after, err = Inspect(ctx, config)
	return before, after, err
}

func inspectSQLite(ctx context.Context, config store.Config) (Schema, error) {
	if config.Path == "" {
		return Schema{}, stacyvm.Invalid("database.path", "is missing")
	}
	d := sqlite.Dialect(config.Path)
	if info, err := os.Stat(config.Path); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return unmade(d)
	}
	db, err := sqlite.OpenFile(config.Path, "query_only(ON)")
	if err != nil {
		return Schema{}, err
	}
	defer db.Close()
	return schemaOf(ctx, d, db, schemaQueries{
		server: `SELECT 'SQLite ' || sqlite_version()`,
		tables: `SELECT name FROM sqlite_master WHERE type = 'table'`,
		rights: `SELECT true`, // it was opened for writing
	})
}

// schemaQueries are what the databases call by other names.
type schemaQueries struct{ server, tables, rights string }

// unmade is the schema of a database that is not there yet.
func unmade(d *sqldb.Dialect) (s Schema, err error) {
	s.Changeable = true
	return s, s.compare(d, nil, nil)
}

func schemaOf(ctx context.Context, d *sqldb.Dialect, db *sql.DB, q schemaQueries) (s Schema, err error) {
	fail := func(err error) (Schema, error) { return Schema{}, d.ContextError(ctx, err) }
	if err := db.QueryRowContext(ctx, q.server).Scan(&s.Server); err != nil {
		return fail(err)
	}
	if err := db.QueryRowContext(ctx, q.rights).Scan(&s.Changeable); err != nil {
		return fail(err)
	}
	tables, err := column[string](ctx, db, q.tables)
	if err != nil {
		return fail(err)
	}
	s.Exists = true
	if !slices.Contains(tables, migrations.VersionTable) {
		return s, s.compare(d, nil, tables)
	}
	applied, err := column[int64](
		ctx,
		db,
		`SELECT version_id FROM `+migrations.VersionTable+` WHERE is_applied AND version_id > 0 ORDER BY version_id`,
	)
	if err != nil {
		return fail(err)
	}
	if slices.Contains(tables, "cluster") {
		err = db.QueryRowContext(ctx, `SELECT id, incarnation FROM cluster WHERE one = 1`).
			Scan(&s.Cluster.ID, &s.Cluster.Incarnation)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fail(err)
		}
	}
	return s, s.compare(d, applied, tables)
}

// column reads a query's single column.
func column[T any](ctx context.Context, db *sql.DB, query string) (values []T, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var value T
		if err := rows.Scan(&value); err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, rows.Err()
}

// createTable and dropTable find the tables in a step's text.
var (
	createTable = regexp.MustCompile(`(?m)^CREATE TABLE (\w+)`)
	dropTable   = regexp.MustCompile(`(?m)^DROP TABLE (\w+)`)
)

// compare fills in what is applied, pending and missing.
func (s *Schema) compare(d *sqldb.Dialect, applied []int64, tables []string) error {
	known, err := migrations.Steps(d.Words)
	if err != nil {
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the migrations cannot be read")
	}
	names := map[int64]string{}
	for _, step := range known {
		names[step.Version] = step.Name
		s.Known = max(s.Known, step.Version)
		if !slices.Contains(applied, step.Version) {
			s.Pending = append(s.Pending, Step{step.Version, step.Name})
			continue
		}
		for _, table := range createTable.FindAllStringSubmatch(step.Text, -1) {
			s.Tables = append(s.Tables, table[1])
		}
		for _, table := range dropTable.FindAllStringSubmatch(step.Text, -1) {
			s.Tables = slices.DeleteFunc(s.Tables, func(name string) bool { return name == table[1] })
		}
	}
	for _, version := range applied {
		s.Applied = append(s.Applied, Step{version, names[version]})
		s.Present = max(s.Present, version)
	}
	for _, table := range s.Tables {
		if !slices.Contains(tables, table) {
			s.Missing = append(s.Missing, table)
		}
	}
	return nil
}
func inspectPostgres(ctx context.Context, config store.Config) (Schema, error) {
	config.MaxOpenConns = 1
	config = config.WithDefaults()
	db, password, err := postgres.Connect(config)
	if err != nil {
		return Schema{}, err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, config.ConnectTimeout+config.QueryTimeout)
	defer cancel()
	d := postgres.Dialect(password)
	history, err := postgres.ReadHistory(ctx, db)
	if err != nil {
		return Schema{}, d.ContextError(ctx, err)
	}
	s, err := schemaOf(ctx, d, db, schemaQueries{
		server: `SELECT 'PostgreSQL ' || current_setting('server_version')`,
		tables: `SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = current_schema()`,
		rights: `SELECT coalesce(has_schema_privilege(current_user, current_schema(), 'CREATE'), false)`,
	})
	s.Blind = history.Blind()
	return s, err
}
