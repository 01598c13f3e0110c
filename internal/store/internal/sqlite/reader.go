package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"

	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// readers are connections for statements that read and stand alone. They are used without
// database/sql, and keep their statements parsed: most of what such a read costs is around it.
type readers struct {
	connector driver.Connector
	free      chan struct{} // one value for each connection that may be taken

	mu     sync.Mutex
	idle   []*reader // the last one that was used at the end
	closed bool
}

func newReaders(connector driver.Connector, size int) *readers {
	r := &readers{connector: connector, free: make(chan struct{}, size)}
	for range size {
		r.free <- struct{}{}
	}
	return r
}

// take takes a connection, and waits for a free one until ctx ends.
func (r *readers) take(ctx context.Context) (*reader, error) {
	select {
	case <-r.free:
	case <-ctx.Done():
		return nil, dberr.Context(ctx)
	}
	r.mu.Lock()
	closed := r.closed
	if n := len(r.idle); n > 0 && !closed {
		taken := r.idle[n-1]
		r.idle = r.idle[:n-1]
		r.mu.Unlock()
		return taken, nil
	}
	r.mu.Unlock()
	if closed {
		r.free <- struct{}{}
		return nil, dberr.ErrClosed
	}
	conn, err := r.connector.Connect(ctx)
	if err != nil {
		r.free <- struct{}{}
		return nil, err
	}
	return &reader{conn: conn, known: map[string]driver.Stmt{}}, nil
}

// give gives a connection back.
func (r *readers) give(taken *reader) {
	r.mu.Lock()
	if r.closed {
		_ = taken.close()
	} else {
		r.idle = append(r.idle, taken)
	}
	r.mu.Unlock()
	r.free <- struct{}{}
}

// close closes the connections: those that are in use when they are given back.
func (r *readers) close() (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, idle := range r.idle {
		err = errors.Join(err, idle.close())
	}
	r.idle = nil
	return err
}

// reader is one of the connections. One caller at a time uses it.
type reader struct {
	conn  driver.Conn
	known map[string]driver.Stmt
}

func (r *reader) close() (err error) {
	for _, stmt := range r.known {
		err = errors.Join(err, stmt.Close())
	}
	return errors.Join(err, r.conn.Close())
}

// ReadRows implements sqldb.RowReader. The statement is not interrupted when ctx ends.
func (r *reader) ReadRows(ctx context.Context, text string, args []any, read func(sqldb.Scanner) error) (err error) {
	stmt, kept := r.known[text]
	if !kept {
		if stmt, err = r.conn.Prepare(text); err != nil {
			return err
		}
		if kept = len(r.known) < keptTexts && len(text) <= keptLength; kept {
			r.known[text] = stmt
		} else {
			defer func() { _ = stmt.Close() }()
		}
	}
	values := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		value, err := driver.DefaultParameterConverter.ConvertValue(arg)
		if err != nil {
			return err
		}
		values[i] = driver.NamedValue{Ordinal: i + 1, Value: value}
	}
	rows, err := stmt.(driver.StmtQueryContext).QueryContext(context.WithoutCancel(ctx), values)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	row := make(valueRow, len(rows.Columns()))
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := read(row); err != nil {
			return err
		}
	}
}

// valueRow is a row as the driver gives it.
type valueRow []driver.Value

// Scan implements sqldb.Scanner for what the store's tables hold: texts, whole numbers and truth
// values, which are numbers here.
func (r valueRow) Scan(into ...any) error {
	if len(into) != len(r) {
		return fmt.Errorf("%d columns for %d targets", len(r), len(into))
	}
	for i, target := range into {
		text, isText := r[i].(string)
		number, isNumber := r[i].(int64)
		switch to := target.(type) {
		case *string:
			if *to = text; isText {
				continue
			}
		case *int64:
			if *to = number; isNumber {
				continue
			}
		default:
			if isText || isNumber {
				switch v := reflect.ValueOf(target).Elem(); v.Kind() {
				case reflect.String:
					v.SetString(text)
					continue
				case reflect.Bool:
					v.SetBool(number != 0)
					continue
				case reflect.Int, reflect.Int64:
					v.SetInt(number)
					continue
				default:
				}
			}
		}
		return fmt.Errorf("column %d is a %T and not for a %T", i, r[i], target)
	}
	return nil
}
