package sqlite

import (
	"context"
	"database/sql"
)

const (
	// keptTexts and keptLength bound what is kept prepared; lists of many values are not worth it.
	keptTexts  = 256
	keptLength = 16 << 10
)

// preparedConn is a connection that keeps its statements parsed between uses. One caller at a time
// uses it.
type preparedConn struct {
	*sql.Conn
	known map[string]*sql.Stmt
}

func newPreparedConn(conn *sql.Conn) *preparedConn {
	return &preparedConn{Conn: conn, known: map[string]*sql.Stmt{}}
}

// find gives the statement for a text, nil when it is not worth keeping.
func (c *preparedConn) find(ctx context.Context, text string) (*sql.Stmt, error) {
	if stmt, ok := c.known[text]; ok {
		return stmt, nil
	}
	if len(text) > keptLength || len(c.known) >= keptTexts {
		return nil, nil
	}
	stmt, err := c.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	c.known[text] = stmt
	return stmt, nil
}

// forget lets the statements go. It comes before the close of the connection: SQLite keeps one,
// and its side files, open for as long as one of its statements is.
func (c *preparedConn) forget() {
	for _, stmt := range c.known {
		_ = stmt.Close()
	}
	clear(c.known)
}

// QueryContext implements sqldb.Querier.
func (c *preparedConn) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	stmt, err := c.find(ctx, text) //nolint:sqlclosecheck // kept for the next time: forget closes it
	if err != nil {
		return nil, err
	}
	if stmt == nil {
		return c.Conn.QueryContext(ctx, text, args...)
	}
	return stmt.QueryContext(ctx, args...)
}

// ExecContext implements sqldb.Querier.
func (c *preparedConn) ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error) {
	stmt, err := c.find(ctx, text) //nolint:sqlclosecheck // kept for the next time: forget closes it
	if err != nil {
		return nil, err
	}
	if stmt == nil {
		return c.Conn.ExecContext(ctx, text, args...)
	}
	return stmt.ExecContext(ctx, args...)
}
