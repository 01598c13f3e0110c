// Package dbtool is what the tools do with a database beside the store: backup, restore, dump, and
// a comparison of schemas. The command line uses it; a server does not.
package dbtool

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
	"github.com/stacyvm/stacyvm/internal/store/migrations"
)

// copyPages is how many pages are copied between two looks at the context: 4 MiB.
const copyPages = 1024

// BackupRequest asks for a copy of a SQLite database.
type BackupRequest struct {
	Database string // its file
	Out      string // the copy; its checksum goes to Out.sha256
	Force    bool   // replace a file that is there
}

// Backup is a copy that was made and checked.
type Backup struct {
	Bytes     int64
	SHA256    string // in hex
	Schema    int64  // highest migration that was applied
	Cluster   store.Cluster
	Sandboxes int // live rows
}

// BackupSQLite copies a database as it is at one moment, while servers read and write it: the copy
// is made inside a read transaction, which in WAL mode nobody waits for. The copy is one file with
// mode 0600, checked in full before it gets its name. A context that ends leaves nothing.
// CodeInvalid: there is no such database; CodeConflict: the output exists; CodeStorageFull;
// CodeInternal: the database is damaged.
func BackupSQLite(ctx context.Context, r BackupRequest) (b Backup, err error) {
	if same(r.Database, r.Out) {
		return b, stacyvm.Errorf(stacyvm.CodeConflict, "the output is the database itself")
	}
	source, err := sqlite.OpenFile(r.Database, "query_only(ON)")
	if err != nil {
		return b, err
	}
	defer source.Close()
	d, err := newDraft(r.Out, r.Force)
	if err != nil {
		return b, err
	}
	defer d.discard()
	if err := copySQLite(ctx, source, d.path()); err != nil {
		return b, translateCopy(ctx, d.dir, err)
	}
	if b, err = examineCopy(ctx, d.path()); err != nil {
		return b, err
	}
	return b, d.publish(sumLine(b.SHA256, filepath.Base(d.out)))
}

func same(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// copySQLite copies what a new read transaction sees. With that transaction open the copy never
// starts over, however much is written meanwhile.
func copySQLite(ctx context.Context, source *sql.DB, to string) error {
	file, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		return dberr.Unwritable(err)
	}
	conn, err := source.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, `BEGIN`); err != nil {
		return err
	}
	var tables int
	// begins to read
	if err := conn.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master`).Scan(&tables); err != nil {
		return err
	}
	target := url.URL{Scheme: "file", OmitHost: true, Path: to}
	err = conn.Raw(func(raw any) error { return copyPagesOf(ctx, raw, target.String()) })
	_, ended := conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
	return errors.Join(err, ended)
}

func copyPagesOf(ctx context.Context, conn any, target string) error {
	source, ok := conn.(interface {
		NewBackup(string) (*driver.Backup, error)
	})
	if !ok {
		return errors.New("the driver cannot copy a database")
	}
	copying, err := source.NewBackup(target)
	if err != nil {
		return err
	}
	for more := true; more && err == nil; {
		if err = dberr.Context(ctx); err == nil {
			more, err = copying.Step(copyPages)
		}
	}
	return errors.Join(err, copying.Finish())
}

// translateCopy blames the context for what it interrupted, and the output's disk for what could
// not be written.
func translateCopy(ctx context.Context, dir string, err error) error {
	if ended := dberr.Context(ctx); ended != nil {
		return ended
	}
	return sqlite.Translate(dir, err)
}

// examineCopy makes a copy one file that needs no other, and checks all of it.
func examineCopy(ctx context.Context, path string) (b Backup, err error) {
	if b, err = examine(ctx, path, "synchronous(OFF)"); err != nil { // it is put on disk before it gets its name
		return b, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return b, dberr.Unreadable(err)
	}
	b.Bytes = info.Size()
	b.SHA256, err = sum(ctx, path)
	return b, dberr.Unreadable(err)
}

// examine checks a database that nobody else uses: that it is whole, ours, and needs no second
// file.
func examine(ctx context.Context, path string, pragmas ...string) (b Backup, err error) {
	db, err := sqlite.OpenFile(path, pragmas...)
	if err != nil {
		return b, err
	}
	defer db.Close()
	fail := func(err error) (Backup, error) { return b, translateCopy(ctx, filepath.Dir(path), err) }
	if err := checkpoint(ctx, db); err != nil {
		return fail(err)
	}
	if err := integrity(ctx, db); err != nil {
		return fail(err)
	}
	if b, err = describe(ctx, db); err != nil {
		return fail(err)
	}
	return b, nil
}

// checkpoint puts everything into the database's own file and removes what was beside it. It fails
// with SQLITE_BUSY while another connection is open.
func checkpoint(ctx context.Context, db *sql.DB) error {
	var mode string
	if err := db.QueryRowContext(ctx, `PRAGMA journal_mode = DELETE`).Scan(&mode); err != nil {
		return err
	}
	if mode != "delete" {
		return fmt.Errorf("journal mode %s instead of delete", mode)
	}
	return nil
}

// CheckSQLite reads every page of a database and checks it, beside whoever uses it. CodeInternal:
// it is damaged; CodeInvalid: there is none.
func CheckSQLite(ctx context.Context, path string) error {
	db, err := sqlite.OpenFile(path, "query_only(ON)")
	if err != nil {
		return err
	}
	defer db.Close()
	if err := integrity(ctx, db); err != nil {
		return translateCopy(ctx, filepath.Dir(path), err)
	}
	return nil
}

// integrity checks every page and every reference.
func integrity(ctx context.Context, db *sql.DB) error {
	var verdict string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return dberr.Damaged(errors.New(verdict))
	}
	var broken int
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM pragma_foreign_key_check`).Scan(&broken); err != nil {
		return err
	}
	if broken > 0 {
		return dberr.Damaged(fmt.Errorf("%d rows refer to nothing", broken))
	}
	return nil
}

// describe tells what a database holds, of any version of the schema. CodeInvalid: it is not ours.
func describe(ctx context.Context, db *sql.DB) (b Backup, err error) {
	err = db.QueryRowContext(ctx, `
		SELECT (SELECT max(version_id) FROM `+migrations.VersionTable+` WHERE is_applied), c.id, c.incarnation,
			(SELECT count(*) FROM sandboxes WHERE state <> 'destroyed') FROM cluster c WHERE c.one = 1`).
		Scan(&b.Schema, &b.Cluster.ID, &b.Cluster.Incarnation, &b.Sandboxes)
	if errors.Is(err, sql.ErrNoRows) || sqlite.Code(err) == sqlite3.SQLITE_ERROR { // no such table
		return b, stacyvm.Wrap(stacyvm.CodeInvalid, err, "the file is not a database of stacyvm")
	}
	return b, err
}
