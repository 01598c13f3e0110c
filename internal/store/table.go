package store

import (
	"context"
	"slices"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// tx is a transaction as tables use it; store.go makes it a Tx.
type tx struct{ *sqldb.Tx }

// table describes a table whose rows have a text as their key.
type table[T any, K ~string] struct {
	name    string // in SQL
	entity  string // how errors name a row: a format for its key
	key     string // the key's column; of a key of several, all of them with commas
	columns string // all columns, with commas, in the order of read
	read    func(sqldb.Scanner) (T, error)
}

// in gives the table's rows as a transaction sees them.
func (b *table[T, K]) in(t tx) keyed[T, K] { return keyed[T, K]{t, b} }

// keyed does what all of these tables do alike.
type keyed[T any, K ~string] struct {
	tx
	table *table[T, K]
}

// Get finds a row by its key. CodeNotFound.
func (t keyed[T, K]) Get(ctx context.Context, key K) (T, error) {
	return t.one(ctx, key, `SELECT `+t.table.columns+` FROM `+t.table.name+` WHERE `+t.table.key+` = $1`, string(key))
}

// List gives all rows, by key.
func (t keyed[T, K]) List(ctx context.Context, page Page) ([]T, error) {
	var c clause
	return t.all(ctx, &c, c.byKey(t.table.key, page))
}

// Delete forgets a row. CodeNotFound.
func (t keyed[T, K]) Delete(ctx context.Context, key K) error {
	n, err := t.Exec(ctx, `DELETE FROM `+t.table.name+` WHERE `+t.table.key+` = $1`, string(key))
	if err == nil && n == 0 {
		return t.missing(key)
	}
	return err
}

// locked is Get of a row that stays as it is until the end of an Update.
func (t keyed[T, K]) locked(ctx context.Context, key K) (T, error) {
	return t.one(
		ctx,
		key,
		`SELECT `+t.table.columns+` FROM `+t.table.name+` WHERE `+t.table.key+` = $1`+t.RowLock(),
		string(key),
	)
}

// lock is locked for a caller that needs nothing of the row. CodeNotFound.
func (t keyed[T, K]) lock(ctx context.Context, key K) error {
	_, ok, err := sqldb.One(
		ctx,
		t.Tx,
		sqldb.ScanInt,
		`SELECT 1 FROM `+t.table.name+` WHERE `+t.table.key+` = $1`+t.RowLock(),
		string(key),
	)
	if err == nil && !ok {
		err = t.missing(key)
	}
	return err
}

// one runs a statement that gives the row of a key. CodeNotFound: it gives none.
func (t keyed[T, K]) one(ctx context.Context, key K, text string, args ...any) (T, error) {
	row, ok, err := sqldb.One(ctx, t.Tx, t.table.read, text, args...)
	if err == nil && !ok {
		err = t.missing(key)
	}
	return row, err
}

// all reads the rows that the end of a SELECT chooses.
func (t keyed[T, K]) all(ctx context.Context, c *clause, end string) ([]T, error) {
	return sqldb.All(ctx, t.Tx, t.table.read, `SELECT `+t.table.columns+` FROM `+t.table.name+end, c.args...)
}

// insert writes a new row, with values for all columns; name is what the error calls it.
// CodeConflict: the key, or another unique one, is taken.
func (t keyed[T, K]) insert(ctx context.Context, name string, values ...any) (T, error) {
	row, ok, err := t.tryInsert(ctx, values...)
	if err == nil && !ok {
		err = stacyvm.Errorf(stacyvm.CodeConflict, t.table.entity+" exists already", name)
	}
	return row, err
}

// tryInsert is insert that reports a conflict as ok false: it changes nothing and does not end the
// transaction.
func (t keyed[T, K]) tryInsert(ctx context.Context, values ...any) (row T, ok bool, err error) {
	var c clause
	list := c.list(values...)
	return sqldb.One(ctx, t.Tx, t.table.read, `INSERT INTO `+t.table.name+` (`+t.table.columns+`) VALUES `+list+`
		ON CONFLICT DO NOTHING RETURNING `+t.table.columns, c.args...)
}

// update changes the row of a key, which is $1 of set. CodeNotFound.
func (t keyed[T, K]) update(ctx context.Context, key K, set string, args ...any) (T, error) {
	return t.one(ctx, key, `UPDATE `+t.table.name+` SET `+set+` WHERE `+t.table.key+` = $1 RETURNING `+t.table.columns,
		append([]any{string(key)}, args...)...)
}

// save writes a row, new or not, with values for all columns. A known one keeps its time of
// creation.
func (t keyed[T, K]) save(ctx context.Context, values ...any) (T, error) {
	var c clause
	list := c.list(values...)
	row, _, err := sqldb.One(
		ctx,
		t.Tx,
		t.table.read,
		`INSERT INTO `+t.table.name+` (`+t.table.columns+`) VALUES `+list+`
		ON CONFLICT (`+t.table.key+`) DO UPDATE SET `+t.table.replaced()+` RETURNING `+t.table.columns,
		c.args...)
	return row, err
}

// replaced sets all columns that a save changes to their new values.
func (b *table[T, K]) replaced() string {
	kept := append(names(b.key), "created_us")
	var set []string
	for _, column := range names(b.columns) {
		if !slices.Contains(kept, column) {
			set = append(set, column+` = excluded.`+column)
		}
	}
	return strings.Join(set, ", ")
}

// names are the names in a list with commas.
func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", \t\n", r) })
}

func (t keyed[T, K]) missing(key K) error {
	return stacyvm.Errorf(stacyvm.CodeNotFound, t.table.entity+" does not exist", string(key))
}
